"""Loss scaling for fp16, without waiting for the device.

Small gradients vanish in fp16, so the loss is multiplied by a large factor before the backward pass and the gradients
are divided by it after (Micikevicius et al., arXiv 1710.03740, section 3.2). The factor halves when a gradient
overflows and doubles after many updates without, so overflows are a part of training that goes well.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_FIRST_FACTOR = 2.0**12
_GROWTH_INTERVAL = 500  # updates
_LEAST_FACTOR = 1.0  # a gradient that overflows even at this factor is the training's fault


class LossScale:
    """The factor that losses are multiplied by, and how many updates it has lasted.

    Disabled, the factor is 1 and costs nothing.
    """

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        self._enabled = enabled
        self._factor = torch.tensor(_FIRST_FACTOR if enabled else 1.0, device=device)
        self._lasted = torch.tensor(0, device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """The loss, a scalar, times the factor: what to call `backward` on."""
        return loss * self._factor if self._enabled else loss

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Divide the gradients, of any shapes, by the factor in place."""
        if self._enabled:
            torch._foreach_div_(list(gradients), self._factor)

    @property
    def is_least(self) -> Tensor:
        """Whether the factor is too small to make a gradient overflow: a boolean scalar on the device."""
        return self._factor <= _LEAST_FACTOR

    def update(self, done: Tensor, overflowed: Tensor) -> None:
        """Adapt the factor to what became of an update. Nothing waits for the device.

        Args:
            done: the update was not refused; a boolean scalar on the device.
            overflowed: a gradient was not finite although its loss was; a boolean scalar on the device. Another reason
                to refuse an update is not the factor's to mend.
        """
        if self._enabled:
            lasted = torch.where(overflowed, 0, self._lasted + done)
            grown = torch.where(lasted == _GROWTH_INTERVAL, self._factor * 2, self._factor)
            halved = (self._factor / 2).clamp(min=_LEAST_FACTOR)
            self._factor.copy_(torch.where(overflowed, halved, grown))
            self._lasted.copy_(torch.where(lasted == _GROWTH_INTERVAL, 0, lasted))

    def state(self) -> dict[str, Tensor]:
        """The scalars that a checkpoint keeps, live: `factor`, float32, and `lasted`, int64."""
        return {"factor": self._factor, "lasted": self._lasted}

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` gave.

        Raises:
            KeyError: something is missing.
        """
        self._factor.copy_(state["factor"])
        self._lasted.copy_(state["lasted"])
