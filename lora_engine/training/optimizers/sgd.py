"""Gradient descent with momentum (Sutskever et al. 2013, as torch has it) and decoupled decay (arXiv 1711.05101).

Shape legend: P weights of one adapter.
"""

import torch
from torch import Tensor

from lora_engine.config.optimizer import SgdConfig
from lora_engine.training.optimizers.row import OwnArithmetic


class Sgd(OwnArithmetic):
    """m = b m + g, then w -= rate (m + decay w), with g + b m in place of m for Nesterov's; see `RowOptimizer`."""

    def __init__(self, weights_P: Tensor, gradient_P: Tensor, config: SgdConfig, rate_factors_P: Tensor | None) -> None:
        super().__init__(weights_P, gradient_P, rate_factors_P, {"momentum_buffer": torch.zeros_like(weights_P)})
        self._config = config

    @torch.no_grad()
    def step(self, rate: float | Tensor, refuse: Tensor) -> None:
        """See `RowOptimizer`."""
        config, gradient_P, rates = self._config, self._gradient_P, self._rates(rate)
        buffer_P = config.momentum * self._state["momentum_buffer"] + gradient_P
        direction_P = gradient_P + config.momentum * buffer_P if config.nesterov else buffer_P
        weights_P = self._weights_P * (1 - rates * config.weight_decay) - rates * direction_P
        self._write(refuse, weights_P, momentum_buffer=buffer_P)
