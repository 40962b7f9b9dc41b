"""AdamW (Loshchilov and Hutter, arXiv 1711.05101), by torch's kernel, or with learning rates that differ by weight.

Shape legend: P weights of one adapter.
"""

import torch
from torch import Tensor, nn

from lora_engine.config.optimizer import AdamWConfig
from lora_engine.training.optimizers.row import OwnArithmetic, RowOptimizer, bias_correction, count


class FusedAdamW(RowOptimizer):
    """AdamW of one adapter; see `RowOptimizer`."""

    def __init__(self, weights_P: Tensor, gradient_P: Tensor, config: AdamWConfig) -> None:
        weights = nn.Parameter(weights_P.detach())  # another tensor on the same memory
        weights.grad = gradient_P
        # Only the fused kernel reads `found_inf`, by which the device refuses an update without the CPU waiting for it.
        self._adamw = torch.optim.AdamW(
            [weights],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
        # torch would make the state at the first step, but a checkpoint is loaded and a CUDA graph captured before it.
        super().__init__(_start(weights_P))
        self._adamw.state[weights] = self._state

    def step(self, rate: float | Tensor, refuse: Tensor) -> None:
        """See `RowOptimizer`."""
        group = self._adamw.param_groups[0]
        group["lr"], group["capturable"] = rate, isinstance(rate, Tensor)
        self._adamw.found_inf = refuse.float()  # type: ignore[attr-defined]
        self._adamw.step()


class AdamW(OwnArithmetic):
    """AdamW of one adapter whose weights have rates of their own: each rate is of its weight's update and decay."""

    def __init__(
        self, weights_P: Tensor, gradient_P: Tensor, config: AdamWConfig, rate_factors_P: Tensor | None
    ) -> None:
        super().__init__(weights_P, gradient_P, rate_factors_P, _start(weights_P))
        self._config = config

    @torch.no_grad()
    def step(self, rate: float | Tensor, refuse: Tensor) -> None:
        """See `RowOptimizer`."""
        config, state, gradient_P, rates = self._config, self._state, self._gradient_P, self._rates(rate)
        step = state["step"] + 1
        exp_avg_P = state["exp_avg"].lerp(gradient_P, 1 - config.beta1)
        exp_avg_sq_P = state["exp_avg_sq"].lerp(gradient_P.square(), 1 - config.beta2)
        mean_P = exp_avg_P / bias_correction(config.beta1, step)
        root_P = (exp_avg_sq_P / bias_correction(config.beta2, step)).sqrt()
        weights_P = self._weights_P * (1 - rates * config.weight_decay)
        weights_P -= rates * mean_P / (root_P + config.epsilon)
        self._write(refuse, weights_P, step=step, exp_avg=exp_avg_P, exp_avg_sq=exp_avg_sq_P)


def _start(weights_P: Tensor) -> dict[str, Tensor]:
    """The state before the first update."""
    return {
        "step": count(weights_P),
        "exp_avg": torch.zeros_like(weights_P),
        "exp_avg_sq": torch.zeros_like(weights_P),
    }
