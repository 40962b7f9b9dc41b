"""Stateless randomness: every number is a function of what it is for, never of what was drawn before.

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) is a counter-based generator, so order,
noise, timesteps and dropout of any step can be drawn without drawing those before it. That makes resuming exact and
gives every adapter the same stream. Everything is drawn on the CPU.
"""

from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class _Stream(IntEnum):
    ORDER = 1
    TIMESTEP = 2
    NOISE = 3
    POSTERIOR = 4
    DROPOUT = 5
    CAPTION = 6
    VALIDATION_NOISE = 7
    VALIDATION_OFFSET = 8
    VALIDATION_STRATUM = 9
    VALIDATION_CAPTION = 10
    FLIP = 11
    OFFSET = 12
    MULTIRES = 13
    PERTURBATION = 14
    ADAPTER_DROPOUT = 15


def _generator(stream: _Stream, key: int, *counter: int) -> np.random.Generator:
    """The generator of one use of a stream. Uses that differ in key or counter have independent numbers."""
    # The generator counts in the lowest word itself; the words above it tell one use from another.
    words = [0, *counter, *([0] * (3 - len(counter)))]
    return np.random.Generator(
        np.random.Philox(key=np.array([key, stream], dtype=np.uint64), counter=np.array(words, dtype=np.uint64))
    )


def _image_key(image_id: str) -> int:
    """The first 64 bits of an image's id, which is a SHA-256 in hexadecimal."""
    return int(image_id[:16], 16)


def sample_positions(seed: int, step: int, images_per_step: int, images: int) -> tuple[Ints, Ints]:
    """The images that an update sees, from shuffled epochs that visit every image once.

    Args:
        step: the optimizer update, 1 is the first.
        images: size of the training set.

    Returns:
        Index of the image and its epoch (0 is the first), int64, each of shape [images_per_step].
    """
    positions = np.arange((step - 1) * images_per_step, step * images_per_step, dtype=np.int64)
    epochs = positions // images
    orders = {int(e): _generator(_Stream.ORDER, seed, int(e)).permutation(images) for e in np.unique(epochs)}
    indices = np.array([orders[int(e)][p % images] for e, p in zip(epochs, positions, strict=True)], dtype=np.int64)
    return indices, epochs


def training_timesteps(seed: int, step: int, count: int, num_train_timesteps: int) -> Ints:
    """Uniform timesteps in [0, num_train_timesteps), int64 of shape [count]."""
    return _generator(_Stream.TIMESTEP, seed, step).integers(0, num_train_timesteps, size=count, dtype=np.int64)


def training_noise(seed: int, step: int, shape: tuple[int, ...]) -> Floats:
    """Standard normal noise of an update's images, float32 of shape [images, channels, height, width]."""
    return _generator(_Stream.NOISE, seed, step).standard_normal(shape, dtype=np.float32)


def offset_noise(seed: int, step: int, images: int, channels: int) -> Floats:
    """Standard normal numbers that shift whole channels of an update's noise, float32 [images, channels, 1, 1]."""
    return _generator(_Stream.OFFSET, seed, step).standard_normal((images, channels, 1, 1), dtype=np.float32)


def multires_noise(seed: int, step: int, image: int, shape: tuple[int, int, int], iterations: int) -> Iterator[Floats]:
    """Standard normal noise of one image at smaller and smaller sizes, of which the first is its own.

    Number i is smaller by r^i, with an r of its own that is uniform in [2, 4). The last is `iterations - 1`, or the
    first of which a side is a single value.

    Args:
        image: its place among the update's images.
        shape: channels, height and width.

    Yields:
        float32 of shape [channels, smaller height, smaller width].
    """
    generator = _generator(_Stream.MULTIRES, seed, step, image)
    channels, *sides = shape
    for iteration in range(iterations):
        shrink = generator.uniform(2, 4) ** iteration
        height, width = (max(1, int(side / shrink)) for side in sides)
        yield generator.standard_normal((channels, height, width), dtype=np.float32)
        if min(height, width) == 1:
            return


def perturbation_noise(seed: int, step: int, shape: tuple[int, ...]) -> Floats:
    """Standard normal noise that an update's images get beside the noise that is learned; float32 of this shape."""
    return _generator(_Stream.PERTURBATION, seed, step).standard_normal(shape, dtype=np.float32)


def adapter_dropout_keys(seed: int, step: int, count: int) -> Ints:
    """A number of 32 bits for each image of an update, by which adapters' hidden values are dropped. int64 [count]."""
    return _generator(_Stream.ADAPTER_DROPOUT, seed, step).integers(0, 2**32, size=count, dtype=np.int64)


def posterior_noise(seed: int, step: int, shape: tuple[int, ...]) -> Floats:
    """Standard normal numbers that place an update's latents in the VAE's posterior, float32 of this shape."""
    return _generator(_Stream.POSTERIOR, seed, step).standard_normal(shape, dtype=np.float32)


def flips(seed: int, step: int, count: int) -> Ints:
    """1 where an image of an update is seen mirrored, as half of them are, else 0; int64 of shape [count]."""
    return _generator(_Stream.FLIP, seed, step).integers(0, 2, size=count, dtype=np.int64)


def dropout_uniform(seed: int, step: int, count: int) -> Floats:
    """Uniform in [0, 1), float32 of shape [count]: below the rate, an image sees the empty prompt."""
    return _generator(_Stream.DROPOUT, seed, step).random(count, dtype=np.float32)


def caption_uniform(seed: int, epoch: int, image_id: str) -> float:
    """Uniform in [0, 1): decides which text of a mix an image shows in an epoch."""
    return float(_generator(_Stream.CAPTION, seed, epoch, _image_key(image_id)).random())


def validation_caption_uniform(image_id: str) -> float:
    """Uniform in [0, 1): decides which text of a mix an image is scored under, at every step alike."""
    return float(_generator(_Stream.VALIDATION_CAPTION, _image_key(image_id)).random())


def validation_timesteps(image_id: str, strata: int, num_train_timesteps: int) -> Ints:
    """One timestep in each of `strata` equal ranges; the offset within the range is the image's own. int64 [strata]."""
    offset = _generator(_Stream.VALIDATION_OFFSET, _image_key(image_id)).random()
    return ((np.arange(strata) + offset) / strata * num_train_timesteps).astype(np.int64)


def curve_columns(image_id: str, curve_strata: int, final_strata: int) -> Ints:
    """The final strata of an image that are scored on the curve, in [0, final_strata). int64 [curve_strata].

    It is one in each of `curve_strata` coarse ranges, the same one in every range and drawn per image, so that the
    curve's loss is an unbiased part of the final one and both can be compared.
    """
    per_range = final_strata // curve_strata
    within = int(_generator(_Stream.VALIDATION_STRATUM, _image_key(image_id)).integers(per_range))
    return np.arange(curve_strata, dtype=np.int64) * per_range + within


def validation_noise(image_id: str, stratum: int, shape: tuple[int, ...]) -> Floats:
    """Standard normal noise of an image and final stratum, the same for every adapter and step; float32."""
    return _generator(_Stream.VALIDATION_NOISE, _image_key(image_id), stratum).standard_normal(shape, dtype=np.float32)
