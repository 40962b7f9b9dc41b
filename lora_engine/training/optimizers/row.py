"""What an optimizer of one adapter does, and what those with an arithmetic of our own have in common.

Shape legend: P weights of one adapter.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class RowOptimizer(ABC):
    """Updates the weights of one adapter, a vector [P], by its gradient. Nothing in it waits for the device.

    Args:
        state: the optimizer's own tensors at the start.
    """

    def __init__(self, state: dict[str, Tensor]) -> None:
        self._state = state

    @abstractmethod
    def step(self, rate: float | Tensor, refuse: Tensor) -> None:
        """Update the weights in place; where `refuse` is set, they and all state stay to the bit.

        Args:
            rate: the learning rate, a number, or a scalar on the device where the step is part of a CUDA graph.
            refuse: a boolean scalar on the device. Gradients need be finite only where it is not set.
        """

    def state(self) -> dict[str, Tensor]:
        """What continuing needs besides the weights, live: scalars, and vectors [P]."""
        return dict(self._state)

    def averaged(self) -> Tensor | None:
        """The weights to evaluate and export, [P], where they are not those that are trained; else None."""
        return None

    def measured(self) -> dict[str, Tensor]:
        """Scalars on the device that say how the training goes."""
        return {}


class OwnArithmetic(RowOptimizer):
    """An optimizer that computes what everything will be, and then writes it or leaves all as it is.

    Args:
        weights_P: updated in place.
        gradient_P: read in every step.
        rate_factors_P: the factor of each weight's learning rate; None where all are 1.
        state: see `RowOptimizer`.
    """

    def __init__(
        self, weights_P: Tensor, gradient_P: Tensor, rate_factors_P: Tensor | None, state: dict[str, Tensor]
    ) -> None:
        super().__init__(state)
        self._weights_P, self._gradient_P, self._rate_factors_P = weights_P.detach(), gradient_P, rate_factors_P

    def _rates(self, rate: float | Tensor) -> float | Tensor:
        """The learning rate of each weight: a scalar, or [P]."""
        return rate if self._rate_factors_P is None else self._rate_factors_P * rate

    def _write(self, refuse: Tensor, weights_P: Tensor, **state: Tensor) -> None:
        """Write the weights and the state that an update has computed, unless `refuse` is set."""
        assign(self._weights_P, weights_P, refuse)
        for name, value in state.items():
            assign(self._state[name], value, refuse)


def assign(live: Tensor, value: Tensor, refuse: Tensor) -> None:
    """Overwrite a tensor in place, unless `refuse` is set.

    It selects and does not multiply, so that a refused value may be NaN.
    """
    live.copy_(torch.where(refuse, live, value))


def scalar(value: float, like: Tensor) -> Tensor:
    """A scalar of the state on the device of `like`; in float64, as the libraries compute their scalars."""
    return torch.full((), value, dtype=torch.float64, device=like.device)


def count(like: Tensor) -> Tensor:
    """The count of updates on the device of `like`, 0; in float32, as torch keeps it."""
    return torch.zeros((), dtype=torch.float32, device=like.device)


def bias_correction(beta: float, step: Tensor) -> Tensor:
    """1 - beta^step, the sum of a mean's weights after `step` updates; in float64: beta may be within 1e-7 of 1."""
    return 1.0 - torch.pow(beta, step.double())
