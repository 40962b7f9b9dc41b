"""Hashes what a picture looks like, and what is drawn on it: copies saved or scaled again differ in few bits."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from lora_engine.images.figure import find_figure

_Pixels = npt.NDArray[np.float64]

HASH_BYTES = 128  # of the page's and the figure's waves, a bit each for those above and for those below
_SIDE = 64  # pixels a side, to which a picture is reduced
_WAVES = 16  # the lowest frequencies that are kept in each direction, so 256 waves
# How far a coefficient must stand from nothing to set its bit: by a quarter of what the coefficients have on the whole,
# and at most by a wave of a sixth of a grey level. Symmetric and near-blank drawings have many coefficients of almost
# nothing; were their signs taken, the noise of saving again would set their bits.
_DEAD_ZONE = 0.25
_MOST = 5.0
_LEAST_OF_PAGE = 2.0  # the noise of a faint page, which its figure rises above
_LEAST_OF_FIGURE = 0.5

# The orthonormal cosine transform (DCT-II) of those frequencies, a row each. SciPy has it too, but every worker process
# would have to import SciPy.
_COSINES = np.sqrt(2 / _SIDE) * np.cos(np.pi / _SIDE * np.outer(np.arange(_WAVES), np.arange(_SIDE) + 0.5))
_COSINES[0] /= np.sqrt(2)


def perceptual_hash(image: Image.Image) -> bytes:
    """Hash a picture to 128 bytes: 256 bits each of the page's waves above and below, and of the figure's.

    The waves are the lowest frequencies, 16 rows of 16, each row one frequency downwards. The first bit, of the mean,
    is never set. A blank picture sets no bit at all, whatever its colour.
    """
    grey = image.convert("L")
    # A reduction by a whole number to twice the side comes first: the filter alone would take three times as long.
    page = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0), dtype=np.float64)
    return _bits(page, _LEAST_OF_PAGE) + _bits(_drawn(grey), _LEAST_OF_FIGURE)


def _drawn(grey: Image.Image) -> _Pixels:
    """The part of a picture on which something is drawn, [64, 64]; nothing but zeros where there is none."""
    figure = find_figure(grey)
    if figure is None:
        return np.zeros((_SIDE, _SIDE))
    # Floating point keeps what lies between two grey levels, which a faint figure needs.
    page = figure.page.convert("F")
    return np.asarray(
        page.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, figure.box, reducing_gap=2.0), dtype=np.float64
    )


def _bits(pixels: _Pixels, least: float) -> bytes:
    """Which waves stand clear above nothing, then which stand clear below it: 64 bytes."""
    waves = _COSINES @ pixels @ _COSINES.T
    waves[0, 0] = 0
    clear = min(_MOST, max(least, _DEAD_ZONE * float(np.sqrt(np.square(waves).mean()))))
    return np.packbits(waves > clear).tobytes() + np.packbits(waves < -clear).tobytes()
