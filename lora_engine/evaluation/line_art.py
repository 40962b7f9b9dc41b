"""Measures how much pictures look like line art, without a network, and how far two sets of pictures are apart.

Every measure is taken on at most 128x128 pixels, so that pictures of different sizes can be compared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import numpy.typing as npt
from PIL import Image

from lora_engine.records import FINITE

_SIDE = 128
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Measures:
    """The measures of one picture, taken on values in [0, 1]. The first four are in [0, 1], the others at least 0."""

    __pydantic_config__ = FINITE

    border_whiteness: float  # mean of the darkest channel along the border, 1/16 of the side wide: 1 is white paper
    ink_coverage: float  # the fraction of pixels that are no lighter than Otsu's threshold
    bimodality: float  # between-class over total variance of the grey values at Otsu's threshold: 1 is pure two-tone
    contrast: float  # twice the standard deviation of the grey values
    stroke_width: float  # mean width of the ink along its skeleton, as a fraction of the side
    colourfulness: float  # Hasler and Suesstrunk 2003


def measure(picture: Image.Image) -> Measures:
    """Measure a picture: of one that is no square the middle square, as training images are cropped."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    small = picture.convert("RGB").crop((left, top, left + side, top + side))
    if side > _SIDE:
        small = small.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(small, dtype=np.float64) / 255
    grey = np.asarray(small.convert("L"))
    ink = _ink(grey)
    return Measures(
        border_whiteness=_border_whiteness(pixels),
        ink_coverage=float(ink.mean()),
        bimodality=_bimodality(grey / 255, ink),
        contrast=float(2 * (grey / 255).std()),
        stroke_width=_stroke_width(ink),
        colourfulness=_colourfulness(pixels),
    )


def _ink(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """The pixels that are ink, by Otsu's threshold. [H, W] to [H, W]."""
    from skimage.filters import threshold_otsu

    if grey.min() == grey.max():
        return np.zeros(grey.shape, bool)  # a blank sheet has no threshold
    return np.asarray(grey <= threshold_otsu(grey), bool)


def _border_whiteness(pixels: Floats) -> float:
    width = max(1, pixels.shape[0] // 16)
    inside = np.zeros(pixels.shape[:2], bool)
    inside[width:-width, width:-width] = True
    return float(pixels.min(axis=2)[~inside].mean())


def _bimodality(grey: Floats, ink: npt.NDArray[np.bool_]) -> float:
    if not ink.any():  # a blank sheet, whose variance is 0 but for rounding
        return 0.0
    inked = ink.mean()
    return float(inked * (1 - inked) * (grey[ink].mean() - grey[~ink].mean()) ** 2 / grey.var())


def _stroke_width(ink: npt.NDArray[np.bool_]) -> float:
    from scipy.ndimage import distance_transform_edt
    from skimage.morphology import skeletonize

    if not ink.any():
        return 0.0
    return float(2 * distance_transform_edt(ink)[skeletonize(ink)].mean() / ink.shape[0])


def _colourfulness(pixels: Floats) -> float:
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = np.hypot(red_green.std(), yellow_blue.std())
    return float(spread + 0.3 * np.hypot(red_green.mean(), yellow_blue.mean()))


def distances(pictures: Iterable[Measures], reference: Sequence[Measures]) -> dict[str, float]:
    """The Wasserstein-1 distance of each measure's distribution to that in `reference`, in the measure's units.

    The mean over the measures is the line-art distance of the report.

    Raises:
        ValueError: one of the two sets is empty.
    """
    from scipy.stats import wasserstein_distance

    ours, theirs = _table(pictures), _table(reference)
    return {
        field.name: float(wasserstein_distance(ours[:, at], theirs[:, at])) for at, field in enumerate(fields(Measures))
    }


def _table(measured: Iterable[Measures]) -> Floats:
    """The measures as an array [pictures, measures]."""
    return np.array([list(asdict(one).values()) for one in measured], dtype=np.float64)
