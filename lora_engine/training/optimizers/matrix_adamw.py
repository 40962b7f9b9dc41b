"""Optimizers of a matrix that has a row for each adapter, and that the device itself can tell to leave an update out.

Shape legend: K adapters, P weights of one adapter.
"""

import torch
from torch import Tensor, nn

from lora_engine.config.optimizer import AdamWConfig


class RowAdamW:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), of which every statistic but the count of steps is per row.

    Args:
        weights_KP: the matrix, whose `.grad` each step reads.
    """

    def __init__(self, weights_KP: nn.Parameter, config: AdamWConfig) -> None:
        self._weights_KP = weights_KP
        # Only the fused kernel reads `found_inf`, by which the device refuses an update without the CPU waiting for it.
        self._adamw = torch.optim.AdamW(
            [weights_KP],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
        # torch would make the state at the first step, but a checkpoint is loaded and a CUDA graph captured before it.
        self._adamw.state[weights_KP] = {
            "step": torch.zeros((), dtype=torch.float32, device=weights_KP.device),
            "exp_avg": torch.zeros_like(weights_KP),
            "exp_avg_sq": torch.zeros_like(weights_KP),
        }

    def step(self, learning_rate: float | Tensor, refuse: Tensor) -> None:
        """Update all rows by their gradients, unless the boolean scalar `refuse` on the device is set.

        Args:
            learning_rate: a number, or a scalar on the device where the step is part of a CUDA graph.
        """
        group = self._adamw.param_groups[0]
        group["lr"], group["capturable"] = learning_rate, isinstance(learning_rate, Tensor)
        self._adamw.found_inf = refuse.float()  # type: ignore[attr-defined]
        self._adamw.step()

    def state(self, row: int) -> dict[str, Tensor]:
        """The tensors that continuing one row needs, live: `step`, a scalar of all rows, and two moments, [P]."""
        state = self._adamw.state[self._weights_KP]
        return {name: value[row] if value.dim() else value for name, value in state.items()}

    def tensors(self) -> list[Tensor]:
        """Everything but the weights that a step changes, live."""
        return list(self._adamw.state[self._weights_KP].values())
