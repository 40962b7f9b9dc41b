"""The average of an adapter's weights over its updates.

Shape legend: P weights of one adapter.
"""

import torch
from torch import Tensor

from lora_engine.config.ema import EmaConfig
from lora_engine.training.optimizers.row import assign, count


class WeightAverage:
    """The exponential moving average of one adapter's weights (Polyak and Juditsky 1992), as diffusers' EMAModel.

    After accepted update n, average = k average + (1 - k) weights, where k = min(decay, n / (n + 9)): a constant decay
    would for long be that of the weights before training, which are none of an adapter's. So the average is of about
    the last ninth of the updates until that is 1 / (1 - decay) of them. The first update's k is 0.

    Args:
        weights_P: those that are averaged; read in every update.
    """

    def __init__(self, weights_P: Tensor, config: EmaConfig) -> None:
        self._weights_P, self._decay = weights_P.detach(), config.decay
        self._state = {"ema_step": count(weights_P), "ema": weights_P.detach().clone()}

    @torch.no_grad()
    def update(self, refuse: Tensor) -> None:
        """Take the weights of an update in, unless the boolean scalar `refuse` on the device is set."""
        step, average_P = self._state["ema_step"] + 1, self._state["ema"]
        n = step.double()
        keep = (n > 1) * (n / (n + 9)).clamp(max=self._decay)
        assign(average_P, average_P + (1 - keep) * (self._weights_P - average_P), refuse)
        assign(self._state["ema_step"], step, refuse)

    def averaged(self) -> Tensor:
        """The average, [P], live; before the first update it is the weights as they were."""
        return self._state["ema"]

    def state(self) -> dict[str, Tensor]:
        """What continuing needs, live: a scalar, and a vector [P]."""
        return dict(self._state)
