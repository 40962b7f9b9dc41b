"""Loss scaling for fp16, without waiting for the device.

Small gradients vanish in fp16, so the loss is multiplied by a large factor before the backward pass and the gradients
are divided by it after (Micikevicius et al., arXiv 1710.03740, section 3.2). The factor halves when a gradient
overflows and doubles after many updates without, so overflows are a part of training that goes well.

Shape legend: K adapters, B images of each, P weights of one.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

_FIRST_FACTOR = 2.0**12
_GROWTH_INTERVAL = 500  # updates
_MOST_FACTOR = 2.0**64  # reached where gradients are zero, which never overflow: doubled on, it would end at infinity
_LEAST_FACTOR = 1.0  # a gradient that overflows even at this factor is the training's fault


class LossScale:
    """The factor that each adapter's losses are multiplied by, and how many updates it has lasted.

    Disabled, the factors are 1 and cost nothing.
    """

    def __init__(self, device: torch.device, adapters: int, *, enabled: bool) -> None:
        self._enabled = enabled
        self._factor_K = torch.full((adapters,), _FIRST_FACTOR if enabled else 1.0, device=device)
        self._lasted_K = torch.zeros(adapters, dtype=torch.int64, device=device)

    def scaled(self, losses_KB: Tensor, adapters: slice = slice(None)) -> Tensor:
        """The sum of losses of these adapters, each times its factor: what to call `backward` on."""
        return (losses_KB * self._factor_K[adapters].unsqueeze(1) if self._enabled else losses_KB).sum()

    def unscale(self, gradients_KP: Tensor) -> None:
        """Divide each adapter's gradient by its factor in place."""
        if self._enabled:
            gradients_KP.div_(self._factor_K.unsqueeze(1))

    @property
    def is_least(self) -> Tensor:
        """Whether each factor is too small to make a gradient overflow: boolean, on the device."""
        return self._factor_K <= _LEAST_FACTOR

    def update(self, done_K: Tensor, overflowed_K: Tensor) -> None:
        """Adapt the factors to what became of an update. Nothing waits for the device.

        Args:
            done_K: the adapter was updated; boolean, on the device.
            overflowed_K: its gradient was not finite although its loss was; boolean, on the device. Another reason to
                refuse an update is not the factor's to mend.
        """
        if self._enabled:
            lasted_K = torch.where(overflowed_K, 0, self._lasted_K + done_K)
            grown_K = torch.where(lasted_K == _GROWTH_INTERVAL, self._factor_K * 2, self._factor_K)
            grown_K = grown_K.clamp(max=_MOST_FACTOR)
            halved_K = (self._factor_K / 2).clamp(min=_LEAST_FACTOR)
            self._factor_K.copy_(torch.where(overflowed_K, halved_K, grown_K))
            self._lasted_K.copy_(torch.where(lasted_K == _GROWTH_INTERVAL, 0, lasted_K))

    def tensors(self) -> list[Tensor]:
        """All tensors that `update` changes, live."""
        return [self._factor_K, self._lasted_K]

    def state(self, k: int) -> dict[str, Tensor]:
        """The scalars that a checkpoint of one adapter keeps, live: `factor`, float32, and `lasted`, int64."""
        return {"factor": self._factor_K[k], "lasted": self._lasted_K[k]}

    def load(self, k: int, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` gave of one adapter.

        Raises:
            KeyError: something is missing.
        """
        for name, live in self.state(k).items():
            live.copy_(state[name])
