"""What a CLIP model's cosines say of samples."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def score(cosines: npt.NDArray[np.float64], own: Sequence[int]) -> float:
    """CLIP score: mean over the pictures of 100 * max(cosine to its own text, 0).

    Hessel et al. 2021 (arXiv 2104.08718) with the weight 100 that torchmetrics and the diffusers documentation use.

    Args:
        cosines: [pictures, texts]
        own: each picture's own text.
    """
    return float(100 * np.maximum(cosines[np.arange(len(own)), list(own)], 0).mean())


def retrieval(cosines: npt.NDArray[np.float64], own: Sequence[int]) -> float:
    """Share of pictures that fit their own text better than any of the other texts."""
    return float((cosines.argmax(axis=1) == np.array(own)).mean())
