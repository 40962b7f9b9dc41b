"""How well samples fit their prompts, by a CLIP model's cosines. Torch-free.

Shape legend: N pictures, P texts.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def score(cosines_NP: npt.NDArray[np.float64], own: Sequence[int]) -> float:
    """The CLIP score, in [0, 100]: the mean over the pictures of 100 * max(cosine to its own text, 0).

    Hessel et al. 2021 (arXiv 2104.08718) with the weight 100 that torchmetrics and the diffusers documentation use.

    Args:
        cosines_NP: in [-1, 1], of each picture to each text.
        own: each picture's own text, in [0, P).
    """
    return float(100 * np.maximum(cosines_NP[np.arange(len(own)), list(own)], 0).mean())


def retrieval(cosines_NP: npt.NDArray[np.float64], own: Sequence[int]) -> float:
    """The fraction of pictures that fit their own text better than any of the other texts.

    Args:
        cosines_NP: in [-1, 1], of each picture to each text.
        own: each picture's own text, in [0, P).
    """
    return float((cosines_NP.argmax(axis=1) == np.array(own)).mean())
