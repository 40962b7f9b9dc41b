"""Rows to optimize: every kind of optimizer, its state to the bit, and gradients that have a direction."""

import typing
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from lora_engine.config.optimizer import AnyOptimizer, OptimizerConfig, ProdigyConfig
from lora_engine.training.optimizers.make import make_optimizer
from lora_engine.training.optimizers.row import RowOptimizer

CONFIGS: TypeAdapter[AnyOptimizer] = TypeAdapter(OptimizerConfig)
MEMBERS: dict[str, Any] = {
    typing.get_args(member.model_fields["name"].annotation)[0]: member for member in typing.get_args(AnyOptimizer)
}
# name of a member, and whether its weights have rates of their own
KINDS = [(name, own) for name in MEMBERS for own in (False, True) if not (own and MEMBERS[name] is ProdigyConfig)]
KIND_NAMES = [f"{name}-own-rates" if own else name for name, own in KINDS]
NEVER, ALWAYS = torch.tensor(False), torch.tensor(True)


class Row:
    """An adapter's weights, gradient and optimizer."""

    def __init__(self, weights_P: Tensor, config: AnyOptimizer, factors_P: Tensor | None = None) -> None:
        self.weights_P, self.gradient_P = weights_P.clone(), torch.zeros_like(weights_P)
        self.optimizer: RowOptimizer = make_optimizer(self.weights_P, self.gradient_P, config, factors_P)

    def step(self, gradient_P: Tensor, rate: float | Tensor, refuse: Tensor = NEVER) -> None:
        self.gradient_P.copy_(gradient_P)
        self.optimizer.step(rate, refuse)

    def everything(self) -> dict[str, Tensor]:
        """Copies of the weights and of all state."""
        return {name: value.clone() for name, value in {"": self.weights_P, **self.optimizer.state()}.items()}


class Slope:
    """Noisy gradients of a quadratic, some of them 1e4 times as large as others; the same for the same seed."""

    def __init__(self, size: int, dtype: torch.dtype, seed: int) -> None:
        print("seed", seed)
        self._random = torch.Generator().manual_seed(seed)
        self._dtype = dtype
        self.start_P = self.random(size)
        self._target_P, self._scale_P = self.random(size), 10 ** (2 * self.random(size)).clamp(-2, 2)

    def random(self, size: int) -> Tensor:
        return torch.randn(size, generator=self._random, dtype=self._dtype)

    def gradient(self, weights_P: Tensor) -> Tensor:
        noise_P = self.random(len(weights_P))
        return self._scale_P * (weights_P - self._target_P + 0.3 * noise_P)


def config_of(name: str, **settings: Any) -> AnyOptimizer:
    """That member's defaults, but for these settings; the weights decay."""
    return CONFIGS.validate_python({"name": name, "weight_decay": 0.1, **settings})


def factors_of(size: int, dtype: torch.dtype, own: bool) -> Tensor | None:
    """LoRA+'s factors of rates: 1 for the first half and 16 for the second."""
    return torch.tensor([1.0, 16.0], dtype=dtype).repeat_interleave(size // 2) if own else None


def row_of(name: str, own_rates: bool, start_P: Tensor) -> Row:
    return Row(start_P, config_of(name), factors_of(len(start_P), start_P.dtype, own_rates))


def rate_of(name: str, step: int) -> float:
    """A rate at which weights move visibly, which rises, falls and rises again."""
    return (1.0 if name == "prodigy" else 3e-3) * (0.1 + abs(step % 12 - 5) / 6)


def assert_same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert value.dtype == b[name].dtype, name
        assert value.numpy(force=True).tobytes() == b[name].numpy(force=True).tobytes(), name
