"""A 256-bit hash of what a picture looks like: copies that were saved or scaled again differ in few bits."""

import numpy as np
import scipy.fft
from PIL import Image

_SIDE = 64  # pixels, to which a picture is reduced
_WAVES = 16  # lowest frequencies kept in each direction, so 256 bits
# A wave of a sixth of a grey level. Symmetric and near-blank drawings have many coefficients of almost nothing; were
# they compared with the median alone, the noise of saving again would set their bits.
_DEAD_ZONE = 5.0


def perceptual_hash(image: Image.Image) -> bytes:
    """32 bytes: a bit for each low frequency of the cosine transform that stands clear above their median."""
    grey = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    waves = scipy.fft.dctn(np.asarray(grey, dtype=np.float64), norm="ortho")[:_WAVES, :_WAVES]
    return np.packbits(waves > np.median(waves) + _DEAD_ZONE).tobytes()
