"""Scores adapters on the held-out images, with the same noise and stratified timesteps for every adapter and step.

Shape legend: K adapters (1 for the base model), E caption sets, N held-out images, T timesteps an image,
C latent channels, H and W latent size, L tokens of a text and D features of a token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lora_engine import diffusion
from lora_engine.adapters import lora
from lora_engine.dataset import randomness
from lora_engine.dataset.encoded import ValidationData


@dataclass(frozen=True)
class Grid:
    """The (image, timestep) pairs that are scored."""

    timesteps_NT: randomness.Ints  # in [0, num_train_timesteps)
    strata_NT: randomness.Ints  # the stratum of the final grid of each timestep; with the image's id it names the noise


def final_grid(image_ids: Sequence[str], final_strata: int, num_train_timesteps: int) -> Grid:
    """The grid of every stratum of every image, which step 0 and the last step are scored on. T is `final_strata`."""
    timesteps = [randomness.validation_timesteps(i, final_strata, num_train_timesteps) for i in image_ids]
    return Grid(np.stack(timesteps), np.tile(np.arange(final_strata), (len(image_ids), 1)))


def curve_grid(image_ids: Sequence[str], strata: int, final_strata: int, num_train_timesteps: int) -> Grid:
    """The part of the final grid that every other evaluation is scored on. T is `strata`.

    Args:
        strata: of each image on the curve; it should divide `final_strata`, or the last of those are never on it.
    """
    full = final_grid(image_ids, final_strata, num_train_timesteps)
    columns = np.stack([randomness.curve_columns(i, strata, final_strata) for i in image_ids])
    return Grid(np.take_along_axis(full.timesteps_NT, columns, axis=1), columns)


class Scoring:
    """Scores adapters on a grid under every caption set: iterate to do the work, then read `losses`.

    Args:
        names: of the adapters, scored at once; none score the base model itself.
        batch_size: (image, timestep) pairs at once, of each adapter.
    """

    def __init__(
        self,
        unet: nn.Module,
        names: Sequence[str],
        data: ValidationData,
        caption_sets: Sequence[str],
        grid: Grid,
        noise_schedule: diffusion.NoiseSchedule,
        batch_size: int,
    ) -> None:
        self._unet = unet
        self._names = tuple(names)
        self._data = data
        self._sets = tuple(caption_sets)
        self._grid = grid
        self._noise_schedule = noise_schedule.to(data.latents_NCHW.device, data.latents_NCHW.dtype)
        self._batch_size = batch_size
        self.done = 0  # pairs scored
        self._losses_KEP = torch.zeros(  # P pairs, image after image
            (max(1, len(names)), len(self._sets), grid.timesteps_NT.size),
            dtype=torch.promote_types(data.latents_NCHW.dtype, torch.float32),
            device=data.latents_NCHW.device,
        )

    @property
    def pairs(self) -> int:
        """The number of (image, timestep) pairs on the grid."""
        return self._grid.timesteps_NT.size

    def __iter__(self) -> Iterator[int]:
        """Score batch after batch, yielding after each how many pairs were in it."""
        lora.activate(self._unet, self._names)
        while self.done < self.pairs:
            pairs = np.arange(self.done, min(self.done + self._batch_size, self.pairs))
            with torch.inference_mode():
                self._score(pairs)
            self.done += len(pairs)
            yield len(pairs)

    def resume(self, losses: npt.NDArray[np.float32], done: int) -> None:
        """Take up the `losses` of an earlier scoring of the same, of which the first `done` pairs are scored.

        Args:
            losses: [K, E, N, T]
        """
        self._losses_KEP.copy_(torch.from_numpy(losses).view_as(self._losses_KEP))
        self.done = done

    @property
    def losses(self) -> npt.NDArray[np.float32]:
        """The mean squared errors, float32 [K, E, N, T]; 0 where not scored yet."""
        shape = (*self._losses_KEP.shape[:2], *self._grid.timesteps_NT.shape)
        return self._losses_KEP.float().cpu().numpy().reshape(shape)

    def _score(self, pairs: randomness.Ints) -> None:
        """Score these consecutive pairs, numbered image after image, with every adapter under every caption set."""
        device, dtype = self._data.latents_NCHW.device, self._data.latents_NCHW.dtype
        images = pairs // self._grid.timesteps_NT.shape[1]
        strata = self._grid.strata_NT.reshape(-1)[pairs]
        shape = tuple(self._data.latents_NCHW.shape[1:])
        noises = [
            randomness.validation_noise(self._data.image_ids[i], int(j), shape)
            for i, j in zip(images, strata, strict=True)
        ]
        noise = torch.from_numpy(np.stack(noises)).to(device, dtype)
        timesteps = torch.from_numpy(self._grid.timesteps_NT.reshape(-1)[pairs]).to(device)
        latents = self._data.latents_NCHW[torch.from_numpy(images).to(device)]
        noisy = diffusion.add_noise(self._noise_schedule, latents, noise, timesteps)
        target = diffusion.target(self._noise_schedule, latents, noise, timesteps)
        copies = self._losses_KEP.shape[0]  # each adapter computes with its own copy of the batch
        for at, name in enumerate(self._sets):
            text = self._data.embeddings.place(self._data.embeddings.read(self._data.caption_rows[name][images]))
            prediction = self._unet(
                noisy.to(text.dtype).repeat(copies, 1, 1, 1), timesteps.repeat(copies), text.repeat(copies, 1, 1)
            ).sample
            losses = diffusion.loss_per_image(prediction, target.repeat(copies, 1, 1, 1))
            self._losses_KEP[:, at, pairs[0] : pairs[-1] + 1] = losses.view(copies, -1)
