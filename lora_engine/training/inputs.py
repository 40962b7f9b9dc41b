"""Reads what an update computes with, before it is needed and in another thread, and puts it on the device.

Shape legend: K members of the pack, S distinct seeds among them, V distinct views, A images of an update and member
that this process computes (all of them, unless several processes train together), C latent channels, H and W latent
size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lora_engine.dataset.draws import DrawHashes, Draws, PackMember
from lora_engine.dataset.encoded import TrainingData


class Inputs(NamedTuple):
    """All that decides an update, as tensors."""

    moments: Tensor  # [S, A, ...], as `TensorTable.read` gives them
    texts: Tensor  # [K, A, ...], as `TensorTable.read` gives them
    seed_of_view: Tensor  # [V], int64: the place of each view's seed
    posterior: Tensor  # [S, A, C, H, W], float32: where in the VAE's posterior each latent lies
    dropout_keys: Tensor  # [S, A], int64, see `adapter_dropout_keys`
    timesteps: Tensor  # [V, A], int64
    noise: Tensor  # [V, A, C, H, W], float32: what is learned
    input_noise: Tensor  # the same of what the UNet sees; [0, A, C, H, W] where that is what is learned


@dataclass(frozen=True)
class ReadInputs:
    """The inputs of one update on the CPU, with the texts of all members of the pack."""

    step: int  # 1 is the first update
    hashes: tuple[DrawHashes, ...]  # one for each distinct seed
    inputs: Inputs


class InputReader:
    """Reads the inputs of any update of a pack.

    Args:
        data: the latents and texts of the training set.
        members: all members of the pack, in its order.
        draws: what the members' seeds draw for each update.
        images: which of an update's images this process computes.
    """

    def __init__(self, data: TrainingData, members: Sequence[PackMember], draws: Draws, images: slice) -> None:
        self._data, self._members, self._draws, self._images = data, tuple(members), draws, images

    def read(self, step: int) -> ReadInputs:
        """Read the inputs of update `step` (1 is the first) into the CPU's memory. Any thread may call this."""
        draw, images, data = self._draws.of_step(step), self._images, self._data
        rows_KA = self._draws.caption_rows(draw, self._members)[:, images]
        seen = self._draws.seen(draw)
        input_noise = seen.input_noise[: 0 if seen.input_noise is seen.noise else None]
        inputs = Inputs(
            data.moments.read((draw.indices + draw.flips * len(data.image_ids))[:, images]),
            data.texts.read(rows_KA),
            self._pinned(seen.seed_of_view),
            *(
                self._pinned(a[:, images])
                for a in (draw.posterior, draw.dropout_keys, seen.timesteps, seen.noise, input_noise)
            ),
        )
        return ReadInputs(step, self._draws.hashes(draw), inputs)

    def place(self, read: ReadInputs, members: Sequence[int]) -> Inputs:
        """Put what was read on the device, the texts of the members at these places of the pack alone.

        Nothing waits for the device.
        """
        placed = Inputs(*(tensor.to(self._data.device, non_blocking=True) for tensor in read.inputs))
        if len(members) == len(self._members):
            return placed
        return placed._replace(texts=placed.texts[list(members)])

    def _pinned(self, array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> Tensor:
        """The array as a tensor that a GPU can copy while the CPU goes on."""
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if self._data.device.type == "cuda" else tensor
