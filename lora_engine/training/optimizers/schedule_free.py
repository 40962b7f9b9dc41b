"""Schedule-free AdamW (Defazio et al., The Road Less Scheduled, arXiv 2405.15682).

Shape legend: P weights of one adapter.
"""

import torch
from torch import Tensor

from lora_engine.config.optimizer import ScheduleFreeAdamWConfig
from lora_engine.training.optimizers.row import OwnArithmetic, bias_correction, count, scalar

_TINY = torch.finfo(torch.float64).tiny


class ScheduleFreeAdamW(OwnArithmetic):
    """Trains y = (1 - b1) z + b1 x, where z is descended and x the average of all z; see `RowOptimizer`.

    Each z counts in x by the square of the largest rate so far, so that those of a warm-up count less. x is not kept:
    y and z give it. Weight decay is decoupled, and of y, as in the authors' code.

    Args:
        weights_P: as the training begins; a continued one gets its state copied into `state()`.
    """

    def __init__(
        self, weights_P: Tensor, gradient_P: Tensor, config: ScheduleFreeAdamWConfig, rate_factors_P: Tensor | None
    ) -> None:
        state = {
            "step": count(weights_P),
            "exp_avg_sq": torch.zeros_like(weights_P),
            "z": weights_P.detach().clone(),
            "rate_max": scalar(0.0, weights_P),
            "weight_sum": scalar(0.0, weights_P),
        }
        super().__init__(weights_P, gradient_P, rate_factors_P, state)
        self._config = config

    @torch.no_grad()
    def step(self, rate: float | Tensor, refuse: Tensor) -> None:
        """See `RowOptimizer`."""
        config, state, gradient_P, y_P = self._config, self._state, self._gradient_P, self._weights_P
        step = state["step"] + 1
        exp_avg_sq_P = state["exp_avg_sq"].lerp(gradient_P.square(), 1 - config.beta2)
        root_P = (exp_avg_sq_P / bias_correction(config.beta2, step)).sqrt()
        change_P = self._rates(rate) * (gradient_P / (root_P + config.epsilon) + config.weight_decay * y_P)
        rate_max = state["rate_max"].clamp(min=rate)
        weight_sum = state["weight_sum"] + rate_max.square()
        share = rate_max.square() / weight_sum.clamp(min=_TINY)  # of this z in x; 0 while all rates were 0
        weights_P = y_P + share * (state["z"] - y_P) + (config.beta1 * (1 - share) - 1) * change_P
        self._write(
            refuse,
            weights_P,
            step=step,
            exp_avg_sq=exp_avg_sq_P,
            z=state["z"] - change_P,
            rate_max=rate_max,
            weight_sum=weight_sum,
        )

    @torch.no_grad()
    def averaged(self) -> Tensor:
        """The average x."""
        return self._weights_P + (1 - 1 / self._config.beta1) * (self._state["z"] - self._weights_P)
