"""Scores adapters on the held-out images, with the same noise and stratified timesteps for every adapter and step.

Shape legend: K adapters that are scored at once (1 for the base model), E components, N held-out images, T timesteps an
image, X of them that a pass scores, P pairs of an image and a timestep, C latent channels, H and W latent size.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lora_engine import diffusion
from lora_engine.adapters import lora
from lora_engine.dataset import randomness
from lora_engine.dataset.encoded import ValidationData
from lora_engine.evaluation.components import Condition
from lora_engine.models.conditioning import conditioning


@dataclass(frozen=True)
class Grid:
    """The (image, timestep) pairs that can be scored."""

    timesteps_NT: randomness.Ints  # in [0, num_train_timesteps)
    strata_NT: randomness.Ints  # the stratum of the final grid of each timestep; with the image's id it names the noise
    curve_NX: randomness.Ints  # each image's columns, in [0, T), that are on the curve

    def columns(self, *, whole: bool) -> randomness.Ints:
        """Each image's columns that a condition scores: all of them, or those on the curve."""
        images, timesteps = self.timesteps_NT.shape
        return np.tile(np.arange(timesteps), (images, 1)) if whole else self.curve_NX


def final_grid(image_ids: Sequence[str], strata: int, final_strata: int, num_train_timesteps: int) -> Grid:
    """The grid of every stratum of every image, for step 0 and the last step. T is `final_strata`.

    Args:
        strata: of each image on the curve; it should divide `final_strata`, or the last of those are never on it.
    """
    timesteps = [randomness.validation_timesteps(i, final_strata, num_train_timesteps) for i in image_ids]
    curve = [randomness.curve_columns(i, strata, final_strata) for i in image_ids]
    return Grid(np.stack(timesteps), np.tile(np.arange(final_strata), (len(image_ids), 1)), np.stack(curve))


def curve_grid(image_ids: Sequence[str], strata: int, final_strata: int, num_train_timesteps: int) -> Grid:
    """The part of the final grid that every other evaluation is scored on. T is `strata`."""
    full = final_grid(image_ids, strata, final_strata, num_train_timesteps)
    timesteps = np.take_along_axis(full.timesteps_NT, full.curve_NX, axis=1)
    return Grid(timesteps, full.curve_NX, np.tile(np.arange(strata), (len(image_ids), 1)))


@dataclass(frozen=True)
class _Pass:
    """Adapters that are scored at once, each under captions of its own, at the same columns of the grid."""

    members: tuple[int, ...]  # K of the scoring's, in ascending order
    components: tuple[str, ...]  # K, those that each member is scored under
    columns_NX: randomness.Ints

    @property
    def pairs(self) -> int:
        return self.columns_NX.size


class Scoring:
    """Scores adapters on a grid under the captions of some components: iterate to do the work, then read `losses`.

    Args:
        names: of the adapters, scored at once; none score the base model itself.
        conditions: what each of the adapters, or the base model, is scored under.
        batch_size: (image, timestep) pairs at once, of each adapter.
    """

    def __init__(
        self,
        unet: nn.Module,
        names: Sequence[str],
        conditions: Sequence[Sequence[Condition]],
        data: ValidationData,
        grid: Grid,
        noise_schedule: diffusion.NoiseSchedule,
        batch_size: int,
    ) -> None:
        self._unet, self._names, self._conditions = unet, tuple(names), conditions
        self._data, self._grid, self._batch_size = data, grid, batch_size
        self._noise_schedule = noise_schedule.to(data.latents_NCHW.device, data.latents_NCHW.dtype)
        self._passes = [each for whole in (True, False) for each in self._passes_at(whole)]
        self.done = 0  # pairs scored, pass after pass, and in each pass image after image
        self._losses_KP = [
            torch.zeros(
                (len(each.members), each.pairs),
                dtype=torch.promote_types(data.latents_NCHW.dtype, torch.float32),
                device=data.latents_NCHW.device,
            )
            for each in self._passes
        ]

    def _passes_at(self, whole: bool) -> Iterator[_Pass]:
        """The passes at all columns, or at the curve's: the first condition of every adapter, then the second ..."""
        wanted = [[c.component for c in conditions if c.whole == whole] for conditions in self._conditions]
        for components in zip_longest(*wanted):
            members = tuple(k for k, component in enumerate(components) if component is not None)
            yield _Pass(members, tuple(components[k] for k in members), self._grid.columns(whole=whole))

    @property
    def pairs(self) -> int:
        """The number of (image, timestep) pairs of all passes."""
        return sum(each.pairs for each in self._passes)

    @property
    def losses_count(self) -> int:
        """The number of losses of all adapters, each of which is a forward pass of one image."""
        return sum(losses.numel() for losses in self._losses_KP)

    @property
    def facts(self) -> str:
        """A hash of all that decides the losses of these adapters to the bit, but for the step of their training."""
        passes = [[each.members, each.components, each.columns_NX.tolist()] for each in self._passes]
        scored = [self._names, self._data.image_ids, self._grid.timesteps_NT.tolist(), self._batch_size, passes]
        return hashlib.sha256(json.dumps(scored).encode()).hexdigest()

    def __iter__(self) -> Iterator[int]:
        """Score batch after batch, yielding after each how many pairs were in it."""
        first = 0
        for each, losses_KP in zip(self._passes, self._losses_KP, strict=True):
            lora.activate(self._unet, [self._names[k] for k in each.members] if self._names else [])
            while self.done < first + each.pairs:
                start = self.done - first
                pairs = np.arange(start, min(start + self._batch_size, each.pairs))
                with torch.inference_mode():
                    losses_KP[:, pairs[0] : pairs[-1] + 1] = self._score(each, pairs)
                self.done += len(pairs)
                yield len(pairs)
            first += each.pairs

    def resume(self, losses_L: npt.NDArray[np.float32], done: int) -> bool:
        """Take up the losses of an earlier scoring of equal `facts`, of which the first `done` pairs are scored.

        Returns:
            Whether they can be such losses. If not, nothing is taken up.
        """
        sizes = [losses.numel() for losses in self._losses_KP]
        if losses_L.shape != (sum(sizes),) or not 0 <= done <= self.pairs:
            return False
        for losses, found in zip(self._losses_KP, torch.split(torch.from_numpy(losses_L), sizes), strict=True):
            losses.copy_(found.view_as(losses))
        self.done = done
        return True

    @property
    def so_far(self) -> npt.NDArray[np.float32]:
        """All losses one after the other, 0 where not scored yet, as `resume` takes them."""
        return torch.cat([losses.float().reshape(-1) for losses in self._losses_KP]).cpu().numpy()

    def losses(self, member: int) -> npt.NDArray[np.float32]:
        """The mean squared errors of an adapter, or of the base model, in the order of its conditions.

        Returns:
            Float32 [E, N, T], NaN at the columns that a condition does not score.
        """
        images, timesteps = self._grid.timesteps_NT.shape
        found = {}
        for each, losses_KP in zip(self._passes, self._losses_KP, strict=True):
            if member in each.members:
                k = each.members.index(member)
                filled = np.full((images, timesteps), np.nan, dtype=np.float32)
                scored = losses_KP[k].float().cpu().numpy().reshape(each.columns_NX.shape)
                np.put_along_axis(filled, each.columns_NX, scored, axis=1)
                found[each.components[k]] = filled
        return np.stack([found[condition.component] for condition in self._conditions[member]])

    def _score(self, each: _Pass, pairs: randomness.Ints) -> torch.Tensor:
        """The losses of these consecutive pairs of a pass, numbered image after image: [K, len(pairs)]."""
        device, dtype = self._data.latents_NCHW.device, self._data.latents_NCHW.dtype
        images, columns = pairs // each.columns_NX.shape[1], each.columns_NX.reshape(-1)[pairs]
        strata, shape = self._grid.strata_NT[images, columns], tuple(self._data.latents_NCHW.shape[1:])
        noises = [
            randomness.validation_noise(self._data.image_ids[i], int(j), shape)
            for i, j in zip(images, strata, strict=True)
        ]
        noise = torch.from_numpy(np.stack(noises)).to(device, dtype)
        timesteps = torch.from_numpy(self._grid.timesteps_NT[images, columns]).to(device)
        latents = self._data.latents_NCHW[torch.from_numpy(images).to(device)]
        noisy = diffusion.add_noise(self._noise_schedule, latents, noise, timesteps)
        target = diffusion.target(self._noise_schedule, latents, noise, timesteps)
        copies = len(each.members)  # each adapter computes with its own copy of the batch
        text = self._conditioning(each, images)
        prediction = self._unet(noisy.to(text.dtype).repeat(copies, 1, 1, 1), timesteps.repeat(copies), text).sample
        return diffusion.squared_error_per_image(prediction, target.repeat(copies, 1, 1, 1)).view(copies, -1)

    def _conditioning(self, each: _Pass, images: randomness.Ints) -> torch.Tensor:
        """What the UNet attends to for these images, each adapter under its own captions: [K * len(images), L, D]."""
        different, places = np.unique(images, return_inverse=True)  # An image's text is encoded once for its timesteps.
        rows = np.concatenate([self._data.rows[component][different] for component in each.components])
        texts = conditioning(self._unet, self._data.texts.place(self._data.texts.read(rows)))
        per_adapter = texts.view(len(each.members), len(different), *texts.shape[1:])
        return per_adapter[:, torch.from_numpy(places).to(texts.device)].flatten(0, 1)
