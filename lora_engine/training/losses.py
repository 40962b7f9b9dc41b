"""The losses that the members of a pack train on, each its own.

Shape legend: K members, B images of each, C latent channels, H and W latent size.
"""

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from lora_engine import diffusion
from lora_engine.config.loss import LossConfig, MseLoss, NoWeighting, WeightingConfig
from lora_engine.config.training import TrainingConfig

Kind = tuple[LossConfig, WeightingConfig]
PLAIN: Kind = (MseLoss(), NoWeighting())  # whose loss is the squared error itself


class PackLosses:
    """Computes the losses of members that take part, in the order of `configs`."""

    def __init__(self, configs: Sequence[TrainingConfig], noise_schedule: diffusion.NoiseSchedule) -> None:
        self._kinds: list[Kind] = [(config.loss, config.weighting) for config in configs]
        self._noise_schedule = noise_schedule

    def __call__(self, prediction: Tensor, target: Tensor, timesteps: Tensor, members: slice) -> tuple[Tensor, Tensor]:
        """The losses of a part of the members, for each of their images.

        Args:
            prediction: [K * B, C, H, W], as are the others, of those members.

        Returns:
            What is trained on, and the plain squared error without a gradient, [K, B] each.
        """
        kinds = self._kinds[members]
        images = len(timesteps) // len(kinds)
        trained, squared, first = [], [], 0
        for kind, group in groupby(kinds):  # Neighbours that are alike are computed at once.
            last = first + images * len(list(group))
            part = slice(first, last)
            losses = self._losses(kind, prediction[part], target[part], timesteps[part])
            trained.append(losses)
            if kind == PLAIN:
                squared.append(losses.detach())
            else:
                squared.append(diffusion.squared_error_per_image(prediction[part].detach(), target[part]))
            first = last
        return _joined(trained).view(-1, images), _joined(squared).view(-1, images)

    def _losses(self, kind: Kind, prediction: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
        loss, weighting = kind
        losses = diffusion.loss_per_image(prediction, target, loss, self._noise_schedule, timesteps)
        if isinstance(weighting, NoWeighting):
            return losses
        return losses * diffusion.loss_weights(self._noise_schedule, timesteps, weighting).to(losses.dtype)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
