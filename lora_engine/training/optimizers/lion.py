"""Lion (Chen et al., Symbolic Discovery of Optimization Algorithms, arXiv 2302.06675, algorithm 2).

Shape legend: P weights of one adapter.
"""

import torch
from torch import Tensor

from lora_engine.config.optimizer import LionConfig
from lora_engine.training.optimizers.row import OwnArithmetic


class Lion(OwnArithmetic):
    """w -= rate (sign(b1 m + (1 - b1) g) + decay w), then m = b2 m + (1 - b2) g; see `RowOptimizer`."""

    def __init__(
        self, weights_P: Tensor, gradient_P: Tensor, config: LionConfig, rate_factors_P: Tensor | None
    ) -> None:
        super().__init__(weights_P, gradient_P, rate_factors_P, {"exp_avg": torch.zeros_like(weights_P)})
        self._config = config

    @torch.no_grad()
    def step(self, rate: float | Tensor, refuse: Tensor) -> None:
        """See `RowOptimizer`."""
        config, exp_avg_P, rates = self._config, self._state["exp_avg"], self._rates(rate)
        direction_P = exp_avg_P.lerp(self._gradient_P, 1 - config.beta1).sign_()
        weights_P = self._weights_P * (1 - rates * config.weight_decay) - rates * direction_P
        self._write(refuse, weights_P, exp_avg=exp_avg_P.lerp(self._gradient_P, 1 - config.beta2))
