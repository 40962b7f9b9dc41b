"""interim"""

import torch
from torch import Tensor, nn

from lora_engine.config.optimizer import OptimizerConfig


class AdamW:
    def __init__(self, weights_P: Tensor, gradient_P: Tensor, config: OptimizerConfig) -> None:
        self._w = nn.Parameter(weights_P)
        self._w.data = weights_P
        self._w.grad = gradient_P
        self._adamw = torch.optim.AdamW(
            [self._w],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._adamw.state[self._w] = {
            "step": torch.zeros((), dtype=torch.float32, device=weights_P.device),
            "exp_avg": torch.zeros_like(weights_P),
            "exp_avg_sq": torch.zeros_like(weights_P),
        }

    def step(self, rate: float | Tensor, refuse: Tensor) -> None:
        group = self._adamw.param_groups[0]
        group["lr"], group["capturable"] = rate, isinstance(rate, Tensor)
        self._adamw.found_inf = refuse.float()
        self._adamw.step()

    def state(self) -> dict[str, Tensor]:
        return dict(self._adamw.state[self._w])

    def averaged(self) -> Tensor | None:
        return None

    def measured(self) -> dict[str, Tensor]:
        return {}


def make_optimizer(weights_P, gradient_P, config, rate_factors_P):
    return AdamW(weights_P, gradient_P, config)
