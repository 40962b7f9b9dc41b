"""How well samples fit their prompts, by a CLIP model's cosines. Torch-free.

Shape legend: N pictures, P texts.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def scores(cosines_NP: npt.NDArray[np.float64], own: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Each picture's CLIP score, in [0, 100]: 100 * max(cosine to its own text, 0). [N].

    Hessel et al. 2021 (arXiv 2104.08718) with the weight 100 that torchmetrics and the diffusers documentation use.

    Args:
        cosines_NP: in [-1, 1], of each picture to each text.
        own: each picture's own text, in [0, P).
    """
    return np.asarray(100 * np.maximum(cosines_NP[np.arange(len(own)), np.asarray(own, np.int64)], 0), np.float64)


def retrieved(cosines_NP: npt.NDArray[np.float64], own: Sequence[int] | npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each picture fits its own text better than any of the other texts. [N].

    Args:
        cosines_NP: in [-1, 1], of each picture to each text.
        own: each picture's own text, in [0, P).
    """
    return np.asarray(cosines_NP.argmax(axis=1) == np.asarray(own, np.int64), bool)


def score(cosines_NP: npt.NDArray[np.float64], own: Sequence[int]) -> float:
    """The CLIP score of pictures together, in [0, 100]: the mean of `scores`."""
    return float(scores(cosines_NP, own).mean())


def retrieval(cosines_NP: npt.NDArray[np.float64], own: Sequence[int]) -> float:
    """The fraction of pictures that fit their own text better than any of the other texts: the mean of `retrieved`."""
    return float(retrieved(cosines_NP, own).mean())
