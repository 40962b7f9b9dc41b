"""How an update is cut into micro-batches so that it fits in memory, and how much memory one takes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from lora_engine.config.training import TrainingConfig
from lora_engine.errors import ResourceError

_SPENDABLE = {"cuda": 0.9, "cpu": 0.65}  # of what is free; a pass needs some besides, and a GPU lets us try
_RECOMPUTED = 0.4  # of a pass's activations that are alive at once when they are recomputed block by block


@dataclass(frozen=True)
class MicroBatches:
    """How much of an update passes through the UNet at once; the gradients of its micro-batches add up to the same."""

    images: int  # of each member
    members: int
    recompute: bool = False  # activations in the backward pass (gradient checkpointing) instead of keeping them

    def slices(self, members: int, images: int) -> Iterator[tuple[slice, slice]]:
        """The members and images of each micro-batch."""
        for first in range(0, members, self.members):
            for start in range(0, images, self.images):
                yield slice(first, min(first + self.members, members)), slice(start, min(start + self.images, images))

    @property
    def alive(self) -> float:
        """Images whose activations are kept at once."""
        return self.images * self.members * (_RECOMPUTED if self.recompute else 1)

    def bytes(self, image_bytes: int) -> int:
        """Of its activations, if one image of one member keeps so many."""
        return round(image_bytes * self.alive)


def candidates(config: TrainingConfig, members: int, images: int, *, fold: bool) -> Iterator[MicroBatches]:
    """The ways that `training.memory` allows, fastest first.

    Args:
        images: of an update and member that this process computes.
        fold: put micro-batches together, which pays where a small batch leaves the device idle.
    """
    if config.memory == "low":
        yield MicroBatches(1, 1, recompute=True)
        return
    if not fold and config.memory != "fast":
        images = min(images, config.batch_size)
    yield MicroBatches(images, members)
    if config.memory == "fast":
        return
    while images > 1:
        images = (images + 1) // 2
        yield MicroBatches(images, members)
    while members > 1:
        members = (members + 1) // 2
        yield MicroBatches(1, members)
    yield MicroBatches(1, 1, recompute=True)


def choose(
    ways: Iterable[MicroBatches], image_bytes: int, spendable_bytes: int, try_out: Callable[[MicroBatches], None]
) -> MicroBatches:
    """The first way that fits by the estimate, and that `try_out` does not find too large.

    Raises:
        ResourceError: none does.
    """
    micro_batches = None
    for micro_batches in ways:
        if micro_batches.bytes(image_bytes) > spendable_bytes:
            continue
        try:
            try_out(micro_batches)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
        else:
            return micro_batches
    assert micro_batches is not None, "there is always a way to try"
    raise ResourceError(
        f"Training needs about {_gib(micro_batches.bytes(image_bytes))} GiB for activations at its smallest, and "
        f"{_gib(spendable_bytes)} GiB can be had.",
        "Use training.memory: auto, a smaller batch_size or resolution, or a larger machine.",
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"


def spendable(free_bytes: int, device: torch.device) -> int:
    """How much of that a pass's activations may take."""
    return round(_SPENDABLE[device.type] * free_bytes)
