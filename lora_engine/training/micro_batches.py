"""How an update is cut into micro-batches so that it fits in memory, and how much memory one takes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from lora_engine.config.training import TrainingConfig
from lora_engine.errors import ResourceError

# The part of the free memory that a micro-batch's activations may take, since a pass needs some besides. It is larger
# on a GPU, where an update's gradients are tried before the first step.
_SPENDABLE_FRACTION = {"cuda": 0.9, "cpu": 0.65}
_RECOMPUTED_FRACTION = 0.4  # of the activations, which are alive at once where they are recomputed block by block


@dataclass(frozen=True)
class MicroBatches:
    """How much of an update passes through the UNet at once; the gradients of its micro-batches add up to the same."""

    images: int  # of each member
    members: int
    recompute: bool = False  # compute activations again in the backward pass (gradient checkpointing), not keep them

    def __post_init__(self) -> None:
        if min(self.images, self.members) < 1:  # of fewer than one, an update would have no gradients
            raise ValueError(f"micro-batches of {self.images} images and {self.members} members")

    def slices(self, members: int, images: int) -> Iterator[tuple[slice, slice]]:
        """The members and images of each micro-batch of an update of so many members and images of each."""
        for first in range(0, members, self.members):
            for start in range(0, images, self.images):
                yield slice(first, min(first + self.members, members)), slice(start, min(start + self.images, images))

    @property
    def alive(self) -> float:
        """How many images' activations are kept at once; a part of one where activations are computed again."""
        return self.images * self.members * (_RECOMPUTED_FRACTION if self.recompute else 1)

    def bytes(self, image_bytes: int) -> int:
        """The bytes of a micro-batch's activations, where one image of one member keeps `image_bytes`."""
        return round(image_bytes * self.alive)


def candidates(config: TrainingConfig, members: int, images: int, *, fold: bool) -> Iterator[MicroBatches]:
    """The micro-batches that `training.memory` allows, fastest first.

    Args:
        members: that take part in updates.
        images: of an update and member that this process computes.
        fold: put the batches of gradient accumulation together, which pays where a small batch leaves the device idle.
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
    allowed: Iterable[MicroBatches], image_bytes: int, spendable_bytes: int, try_out: Callable[[MicroBatches], None]
) -> MicroBatches:
    """The first of the allowed micro-batches that fits by the estimate, and that `try_out` does not find too large.

    Args:
        allowed: fastest first, at least one.
        image_bytes: what one image of one member keeps for the backward pass.
        try_out: raises torch.cuda.OutOfMemoryError where they are too large.

    Raises:
        ResourceError: none fits.
    """
    micro_batches = None
    for micro_batches in allowed:
        if micro_batches.bytes(image_bytes) > spendable_bytes:
            continue
        try:
            try_out(micro_batches)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
        else:
            return micro_batches
    assert micro_batches is not None, "some are always allowed"
    raise ResourceError(
        f"Training needs about {_gib(micro_batches.bytes(image_bytes))} GiB for activations at its smallest, and "
        f"{_gib(spendable_bytes)} GiB can be had.",
        "Use training.memory: auto, a smaller batch_size or resolution, or a larger machine.",
    )


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f}"


def spendable(free_bytes: int, device: torch.device) -> int:
    """How many of the free bytes a micro-batch's activations may take."""
    return round(_SPENDABLE_FRACTION[device.type] * free_bytes)
