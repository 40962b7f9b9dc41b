"""Every optimizer, update by update in float64, against a library's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from prodigyopt import Prodigy
from pytorch_optimizer import SGDW, Lion, ScheduleFreeAdamW
from torch import Tensor

from lora_engine.config.optimizer import AdamWConfig
from tests.lora_engine.training.optimizers.rows import Row, Slope, config_of, factors_of

SIZE = 26
# a warm-up after an update at rate 0, a peak, a restart, an update at rate 0, and a slow fall
RATES = [0.0, 0.2, 0.5, 1.0, 1.0, 0.6, 0.2, 1.0, 0.0, *(1 / (1 + step / 8) for step in range(24))]


class Library:
    """A library's optimizer of the same weights in two groups, whose rates may differ by a factor."""

    def __init__(self, weights_P: Tensor, make: Callable[..., torch.optim.Optimizer], factor: float) -> None:
        self.parts = [part.clone() for part in weights_P.chunk(2)]
        self.optimizer = make([{"params": [torch.nn.Parameter(part)]} for part in self.parts])
        self._factors = (1.0, factor)

    def step(self, gradient_P: Tensor, rate: float) -> Tensor:
        groups = zip(self.optimizer.param_groups, gradient_P.chunk(2), self._factors, strict=True)
        for group, gradient, factor in groups:
            group["lr"] = rate * factor
            group["params"][0].grad = gradient.clone()  # some overwrite it
        self.optimizer.step()
        return self.weights

    @property
    def weights(self) -> Tensor:
        return torch.cat([group["params"][0].detach() for group in self.optimizer.param_groups])


def adamw(groups: list[Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, betas=(0.8, 0.97), eps=1e-6, weight_decay=0.1, foreach=False)


def lion(groups: list[Any]) -> torch.optim.Optimizer:
    return Lion(groups, betas=(0.85, 0.95), weight_decay=0.1, foreach=False)


def schedule_free(groups: list[Any]) -> torch.optim.Optimizer:
    return ScheduleFreeAdamW(groups, betas=(0.8, 0.97), eps=1e-6, weight_decay=0.1, foreach=False)


def sgdw(momentum: float, nesterov: bool) -> Callable[..., torch.optim.Optimizer]:
    return lambda groups: SGDW(groups, momentum=momentum, nesterov=nesterov, weight_decay=0.1, foreach=False)


ADAM = {"beta1": 0.8, "beta2": 0.97, "epsilon": 1e-6}
CASES: dict[str, tuple[str, dict[str, Any], Callable[..., torch.optim.Optimizer], float]] = {
    "adamw": ("adamw", ADAM, adamw, 0.02),
    "lion": ("lion", {"beta1": 0.85, "beta2": 0.95}, lion, 0.01),
    "schedule_free_adamw": ("schedule_free_adamw", ADAM, schedule_free, 0.03),
    "sgd": ("sgd", {"momentum": 0.7}, sgdw(0.7, nesterov=False), 1e-4),
    "sgd-nesterov": ("sgd", {"momentum": 0.7, "nesterov": True}, sgdw(0.7, nesterov=True), 1e-4),
    "sgd-plain": ("sgd", {"momentum": 0.0}, sgdw(0.0, nesterov=False), 1e-4),
}


@pytest.mark.parametrize("own_rates", [False, True], ids=["one-rate", "own-rates"])
@pytest.mark.parametrize("case", CASES)
def test_updates_are_a_library_s(case: str, own_rates: bool) -> None:
    name, settings, make, peak = CASES[case]
    slope = Slope(SIZE, torch.float64, seed=len(case))
    ours = Row(slope.start_P, config_of(name, **settings), factors_of(SIZE, torch.float64, own_rates))
    theirs = Library(slope.start_P, make, 16.0 if own_rates else 1.0)
    scale = 1e4 if make is schedule_free else 1.0  # it adds 1e-15 to squared gradients, which is in no publication
    for rate in RATES:
        gradient_P = scale * slope.gradient(ours.weights_P)
        ours.step(gradient_P, peak * rate)
        torch.testing.assert_close(ours.weights_P, theirs.step(gradient_P, peak * rate), rtol=1e-12, atol=1e-12)
        assert (ours.optimizer.averaged() is not None) == (name == "schedule_free_adamw")
        if isinstance(theirs.optimizer, ScheduleFreeAdamW):
            theirs.optimizer.eval()
            torch.testing.assert_close(ours.optimizer.averaged(), theirs.weights, rtol=1e-11, atol=1e-11)
            theirs.optimizer.train()
    assert (ours.weights_P - slope.start_P).abs().mean() > 1e-3
    assert ours.optimizer.measured() == {}


@pytest.mark.parametrize("nesterov", [False, True])
def test_without_decay_sgd_is_torch_s(nesterov: bool) -> None:
    slope = Slope(SIZE, torch.float64, seed=3)
    ours = Row(slope.start_P, config_of("sgd", weight_decay=0.0, nesterov=nesterov))
    theirs = Library(slope.start_P, lambda g: torch.optim.SGD(g, momentum=0.9, nesterov=nesterov), 1.0)
    for rate in RATES:
        gradient_P = slope.gradient(ours.weights_P)
        ours.step(gradient_P, 1e-4 * rate)
        torch.testing.assert_close(ours.weights_P, theirs.step(gradient_P, 1e-4 * rate), rtol=1e-12, atol=1e-12)


PRODIGY: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # our settings, and prodigyopt's
    "defaults": ({"weight_decay": 0.0}, {}),
    "decoupled-decay": ({}, {"weight_decay": 0.1}),
    "coupled-decay": ({"decouple": False}, {"weight_decay": 0.1, "decouple": False}),
    "bias-correction": (
        {"weight_decay": 0.01, "use_bias_correction": True, "safeguard_warmup": True},
        {"weight_decay": 0.01, "use_bias_correction": True, "safeguard_warmup": True},
    ),
    "limited-growth": ({"growth_rate": 1.7, "d_coef": 2.0}, {"weight_decay": 0.1, "growth_rate": 1.7, "d_coef": 2.0}),
    "own-betas": (
        {"beta1": 0.5, "beta2": 0.9, "beta3": 0.8, "d0": 1e-4, "epsilon": 1e-4},
        {"weight_decay": 0.1, "betas": (0.5, 0.9), "beta3": 0.8, "d0": 1e-4, "eps": 1e-4},
    ),
}


@pytest.mark.parametrize("case", PRODIGY)
def test_prodigy_is_prodigyopt_s(case: str) -> None:
    settings, their_settings = PRODIGY[case]
    slope = Slope(SIZE, torch.float64, seed=len(case))
    ours = Row(slope.start_P, config_of("prodigy", **settings))
    theirs = Library(slope.start_P, lambda groups: Prodigy(groups, **their_settings), 1.0)
    for at, rate in enumerate(RATES * 2):
        gradient_P = slope.gradient(ours.weights_P) if at > 2 else torch.zeros_like(slope.start_P)
        ours.step(gradient_P, rate)
        torch.testing.assert_close(ours.weights_P, theirs.step(gradient_P, rate), rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(float(ours.optimizer.measured()["d"]), theirs.optimizer.param_groups[0]["d"])
        their_s_P = torch.cat([state["s"] for state in theirs.optimizer.state.values()])
        torch.testing.assert_close(ours.optimizer.state()["s"], their_s_P, rtol=1e-8, atol=1e-10)
    assert ours.optimizer.measured()["d"] > 1.5e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adamw_of_a_row_has_the_bits_of_torch(dtype: torch.dtype) -> None:
    config = AdamWConfig(learning_rate=0.02)
    slope = Slope(1003, dtype, seed=8)  # the kernel's vectors leave a rest
    row, weights_P = Row(slope.start_P, config), torch.nn.Parameter(slope.start_P.clone())
    weights_P.grad = torch.zeros_like(weights_P)
    theirs = torch.optim.AdamW([weights_P], weight_decay=config.weight_decay, fused=True)
    for rate in RATES:
        gradient_P = slope.gradient(row.weights_P)
        row.step(gradient_P, 0.02 * rate)
        weights_P.grad.copy_(gradient_P)
        theirs.param_groups[0]["lr"] = 0.02 * rate
        theirs.step()
        assert torch.equal(row.weights_P, weights_P)
    ours = row.optimizer.state()
    assert ours.keys() == theirs.state[weights_P].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert all(torch.equal(value, theirs.state[weights_P][name]) for name, value in ours.items())
