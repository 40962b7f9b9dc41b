"""Differences between adapters on the same images, with an honest interval. Torch-free."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
FEWEST_GROUPS = 6  # below, a bootstrap over groups says nothing
_RESAMPLES = 9999


@dataclass(frozen=True)
class PairedDifference:
    """How much higher one adapter's loss is than another's on the same held-out images."""

    mean: float  # over images, so it is the difference of the two reported losses
    low: float | None  # of the interval; None when the data cannot tell
    high: float | None
    confidence: float
    images: int
    groups: int  # of near-duplicates: what is resampled, since images of one group are not independent
    method: str


def paired_difference(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], groups: npt.NDArray[np.str_], seed: int = 0
) -> PairedDifference:
    """Mean of `a - b` over images, and a percentile bootstrap interval that resamples whole groups.

    The mean over images is the ratio of two sums over groups (differences, images), so both are resampled together:
    Cameron, Gelbach and Miller, "Bootstrap-based improvements for inference with clustered errors" (2008).

    Args:
        a, b: losses of the same images, [images].
        groups: the group of each image, [images].
        seed: of the resampling; equal data and seed give the same interval.
    """
    _, at = np.unique(groups, return_inverse=True)
    sums = np.bincount(at, weights=a - b)
    counts = np.bincount(at).astype(np.float64)
    mean, n = float(np.mean(a - b)), len(sums)
    if n < FEWEST_GROUPS:
        method = f"cannot tell: {n} independent groups of images, {FEWEST_GROUPS} are needed"
        return PairedDifference(mean, None, None, CONFIDENCE, len(a), n, method)
    if np.ptp(sums / counts) == 0:
        return PairedDifference(mean, mean, mean, CONFIDENCE, len(a), n, "all groups differ by the same amount")

    from scipy.stats import bootstrap  # takes most of a second to import, and is asked for at the end of a run

    def ratio(s: npt.NDArray[np.float64], c: npt.NDArray[np.float64], axis: int = -1) -> npt.NDArray[np.float64]:
        return np.asarray(np.sum(s, axis=axis) / np.sum(c, axis=axis))

    result = bootstrap(
        (sums, counts),
        ratio,
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    interval = result.confidence_interval
    method = f"percentile bootstrap over groups, {_RESAMPLES} resamples, seed {seed}"
    return PairedDifference(mean, float(interval.low), float(interval.high), CONFIDENCE, len(a), n, method)
