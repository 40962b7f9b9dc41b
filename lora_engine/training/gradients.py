"""The gradients of an update: forward and backward, micro-batch by micro-batch.

Shape legend: K members that take part, S distinct seeds, V distinct views, A images of an update and member (of several
processes that train together: this one's), B of them in one micro-batch, P weights of one adapter, C latent channels, H
and W latent size, L tokens of a text and D features of a token.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lora_engine import diffusion
from lora_engine.adapters import lora
from lora_engine.dataset.encoded import TrainingData
from lora_engine.models.conditioning import conditioning
from lora_engine.system.memory import kept_bytes
from lora_engine.training.inputs import Inputs
from lora_engine.training.loss_scale import LossScale
from lora_engine.training.losses import PackLosses
from lora_engine.training.micro_batches import MicroBatches
from lora_engine.training.weights import PackWeights


@dataclass(frozen=True)
class Batch:
    """The tensors that one update is computed from, on the device: per view, or per member."""

    noisy: Tensor  # [V, A, C, H, W]
    target: Tensor  # [V, A, C, H, W]
    timesteps: Tensor  # [V, A]
    text: Tensor  # [K, A, L, D], or tokens [K, A, L], see `conditioning`
    dropout_keys: Tensor  # [V, A]


def make_batch(inputs: Inputs, data: TrainingData, noise_schedule: diffusion.NoiseSchedule) -> Batch:
    """Draw latents from the VAE's posterior and add noise to them. Nothing waits for the device."""
    mean, std = data.moments.place(inputs.moments).unbind(2)
    latents = mean + std * inputs.posterior.to(mean.dtype)
    if len(inputs.noise) > len(latents):  # Where there are as many views as seeds, each seed has one, in their order.
        latents = latents[inputs.seed_of_view]
    noise, timesteps = inputs.noise.to(mean.dtype), inputs.timesteps
    input_noise = inputs.input_noise.to(mean.dtype) if len(inputs.input_noise) else noise

    def made(make: Callable[..., Tensor], noise: Tensor) -> Tensor:
        flat = make(noise_schedule, latents.flatten(0, 1), noise.flatten(0, 1), timesteps.flatten())
        return flat.view_as(latents)

    noisy, target = made(diffusion.add_noise, input_noise), made(diffusion.target, noise)
    dropout_keys = inputs.dropout_keys[inputs.seed_of_view]
    return Batch(noisy, target, timesteps, data.texts.place(inputs.texts), dropout_keys)


class PackGradients:
    """Computes the gradients of the adapters that take part.

    Attributes:
        unet: the frozen UNet with its adapters.
        weights: those of the adapters that take part; their gradients are what this computes.
        scale: what their losses are multiplied by.
        micro_batches: how an update is cut up.
        unet_context: every pass through the UNet happens within such a context, for instance one in which it is
            compiled.
    """

    def __init__(self, unet: nn.Module, images_per_step: int, micro_batches: MicroBatches) -> None:
        self.unet = unet
        self.micro_batches = micro_batches
        self.unet_context: Callable[[], AbstractContextManager[None]] = nullcontext
        self._images_per_step = images_per_step

    def set_members(
        self, weights: PackWeights, scale: LossScale, losses: PackLosses, views: Tensor, dropout: Tensor | None
    ) -> None:
        """Compute the gradients of these adapters from now on.

        Args:
            scale: of their losses.
            losses: that each trains on.
            views: the place of each one's view among the distinct views, int64 [K] on the device.
            dropout: the share of hidden values that each one's images do without, [K] on the device; None for none.
        """
        self.weights, self.scale, self._pack_losses, self._views_K = weights, scale, losses, views
        self._dropout_K = dropout

    def accumulate(self, batch: Batch) -> Tensor:
        """Add an update's gradients to those of `weights`, multiplied by the loss scale.

        Returns:
            The part of each member's mean loss, and of its mean squared error, that this process's images make up,
            [2, K].
        """
        count = len(self._views_K)
        sums_2K = torch.zeros(2, count, device=batch.target.device, dtype=batch.target.dtype)
        for members, images in self.micro_batches.slices(count, batch.timesteps.shape[1]):
            if self.micro_batches.members < count:
                self.weights.select(members.start, members.stop)
            with self.unet_context(), self._dropping(batch, members, images):
                losses_KB, squared_KB = self._losses(batch, members, images)
                losses_KB = losses_KB / self._images_per_step
                torch.autograd.backward(self.scale.scaled(losses_KB, members))
            self.weights.accumulate()
            sums_2K[0, members] += losses_KB.detach().sum(dim=1)
            sums_2K[1, members] += (squared_KB / self._images_per_step).sum(dim=1)
        return sums_2K

    def compute(self, batch: Batch) -> Tensor:
        """Compute an update's gradients anew, multiplied by the loss scale, and copy them. [K, P]."""
        self.weights.zero_grad()
        self.accumulate(batch)
        return self.weights.gradients_KP.clone()

    def try_out(self, batch: Batch) -> None:
        """Compute an update's gradients as `micro_batches` says; `PackUpdate` forgets them.

        Raises:
            torch.cuda.OutOfMemoryError: they do not fit.
        """
        self.weights.select()
        self.accumulate(batch)

    def image_bytes(self, batch: Batch) -> int:
        """The bytes that one image of one member keeps for the backward pass. Computes one forward pass."""
        self.weights.select(0, 1)
        return kept_bytes(lambda: self._losses(batch, slice(0, 1), slice(0, 1))[0], self.unet.parameters())

    def _dropping(self, batch: Batch, members: slice, images: slice) -> AbstractContextManager[None]:
        """Within, the adapters of these members do without some of their hidden values, if they are to."""
        if self._dropout_K is None:
            return nullcontext()
        keys_KB = batch.dropout_keys[:, images][self._views_K[members]]
        return lora.dropping(self.unet, keys_KB, self._dropout_K[members])

    def _losses(self, batch: Batch, members: slice, images: slice) -> tuple[Tensor, Tensor]:
        """The losses of a micro-batch and its squared errors, see `PackLosses`. [K, B] each."""
        views_K = self._views_K[members]
        text = conditioning(self.unet, batch.text[members, images].flatten(0, 1))  # [K * B, L, D]

        def per_member(per_view: Tensor) -> Tensor:
            """[V, A, ...] to [K * B, ...]."""
            return per_view[:, images][views_K].flatten(0, 1)

        noisy, timesteps = per_member(batch.noisy).to(text.dtype), per_member(batch.timesteps)
        prediction = self.unet(noisy, timesteps, text).sample
        return self._pack_losses(prediction, per_member(batch.target), timesteps, members)
