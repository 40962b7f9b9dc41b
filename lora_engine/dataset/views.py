"""What the members of a pack make of the noise and the timesteps that their seed draws for an update.

Every number here is an image's own, and none depends on the other images of an update.

Shape legend: A images of an update and member, C latent channels, H and W latent size.
"""

from typing import NamedTuple

import numpy as np

from lora_engine.config.noise import MultiresConfig, NoiseConfig, TimestepsConfig
from lora_engine.dataset import randomness

_WHOLE_RANGE = 1000  # what `TimestepsConfig.to` is for all timesteps, however many the base model has


PLAIN_NOISE, ALL_TIMESTEPS = NoiseConfig(), TimestepsConfig()


class View(NamedTuple):
    """What decides which noise and timesteps a member sees; members of equal views see the same."""

    seed: int
    noise: NoiseConfig = PLAIN_NOISE
    timesteps: TimestepsConfig = ALL_TIMESTEPS


def seen_timesteps(view: View, drawn_A: randomness.Ints, num_train_timesteps: int) -> randomness.Ints:
    """The drawn timesteps, moved into the view's range: from + floor(t (to - from) / T), so that rows stay paired.

    `from` and `to` are thousandths of the T timesteps of the base model, rounded down; at least one is left.

    Args:
        drawn_A: t, uniform in [0, num_train_timesteps).

    Returns:
        int64 [A]; what was drawn, where the range is the whole.
    """
    bounds = view.timesteps.from_, view.timesteps.to
    first, end = (bound * num_train_timesteps // _WHOLE_RANGE for bound in bounds)
    return first + drawn_A * max(1, end - first) // num_train_timesteps


def seen_noise(view: View, step: int, drawn_ACHW: randomness.Floats) -> randomness.Floats:
    """The noise that the view's members learn to predict. float32 [A, C, H, W].

    It is what was drawn, or with offset w: noise + w z, where z is normal, one number for an image and channel. Source:
    Guttenberg, "Diffusion with offset noise", 2023. See `_of_several_sizes` for multires.
    """
    config = view.noise
    if config.multires is not None:
        images = [
            _of_several_sizes(config.multires, view.seed, step, image, noise) for image, noise in enumerate(drawn_ACHW)
        ]
        return np.stack(images)
    if config.offset:
        return drawn_ACHW + np.float32(config.offset) * randomness.offset_noise(view.seed, step, *drawn_ACHW.shape[:2])
    return drawn_ACHW


def seen_input_noise(view: View, step: int, noise_ACHW: randomness.Floats) -> randomness.Floats:
    """The noise that x_t is made with: `noise`, to which g times other noise is added. float32 [A, C, H, W].

    Source: Ning et al., arXiv 2301.11706, algorithm 1.

    Args:
        noise_ACHW: that of `seen_noise`, which stays what is learned.
    """
    if not view.noise.input_perturbation:
        return noise_ACHW
    other = randomness.perturbation_noise(view.seed, step, noise_ACHW.shape)
    return noise_ACHW + np.float32(view.noise.input_perturbation) * other


def _of_several_sizes(
    config: MultiresConfig, seed: int, step: int, image: int, noise_CHW: randomness.Floats
) -> randomness.Floats:
    """One image's noise with noise of smaller sizes, enlarged: (noise + sum of discount^i noise_i) / its deviation.

    Source: Whitaker, "Multi-resolution noise for diffusion model training", 2023, with sizes as in sd-scripts,
    `pyramid_noise_like`, of which the first is the noise's own. The deviation is over this image alone.
    """
    _, height, width = noise_CHW.shape
    total, sizes = noise_CHW, randomness.multires_noise(seed, step, image, noise_CHW.shape, config.iterations)
    for iteration, smaller in enumerate(sizes):
        total = total + np.float32(config.discount**iteration) * enlarged(smaller, height, width)
    return total / np.float32(total.std(ddof=1, dtype=np.float64))


def enlarged(noise_CHW: randomness.Floats, height: int, width: int) -> randomness.Floats:
    """The noise at a larger size, bilinearly: values stand in the middle of their pixels. float32 [C, height, width].

    It is written in sums and products of single values, so that every machine gets the same bits.
    """
    return _stretched(_stretched(noise_CHW, height, 1), width, 2)


def _stretched(noise_CHW: randomness.Floats, size: int, axis: int) -> randomness.Floats:
    """The noise with so many values along one axis."""
    count = noise_CHW.shape[axis]
    places = np.maximum((np.arange(size) + 0.5) * count / size - 0.5, 0)
    below = places.astype(np.int64)
    above = np.minimum(below + 1, count - 1)
    share: randomness.Floats = (places - below).astype(np.float32).reshape(size, *[1] * (2 - axis))
    lower: randomness.Floats = noise_CHW.take(below, axis)
    upper: randomness.Floats = noise_CHW.take(above, axis)
    return lower * (1 - share) + upper * share
