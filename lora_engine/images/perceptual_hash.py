"""A 256-bit hash of what a picture looks like: copies that were saved or scaled again differ in few bits."""

import numpy as np
from PIL import Image

_SIDE = 64  # pixels a side, to which a picture is reduced
_WAVES = 16  # the lowest frequencies that are kept in each direction, so 256 bits
# How far a coefficient must stand above the median to set its bit: by a wave of a sixth of a grey level. Symmetric and
# near-blank drawings have many coefficients of almost nothing; were they compared with the median alone, the noise of
# saving again would set their bits.
_DEAD_ZONE = 5.0

# The orthonormal cosine transform (DCT-II) of those frequencies, a row each. SciPy has it too, but every worker process
# would have to import SciPy.
_COSINES = np.sqrt(2 / _SIDE) * np.cos(np.pi / _SIDE * np.outer(np.arange(_WAVES), np.arange(_SIDE) + 0.5))
_COSINES[0] /= np.sqrt(2)


def perceptual_hash(image: Image.Image) -> bytes:
    """Hash a picture to 32 bytes: a bit is set where a low frequency's coefficient stands clear above the median."""
    # A reduction by a whole number to twice the side comes first: the filter alone would take three times as long.
    grey = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    waves = _COSINES @ np.asarray(grey, dtype=np.float64) @ _COSINES.T
    return np.packbits(waves > np.median(waves) + _DEAD_ZONE).tobytes()
