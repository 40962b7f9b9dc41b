"""Means over held-out images and training seeds, with intervals and tests that say how sure they are. Torch-free.

Shape legend: S training seeds, N held-out images.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95  # of all intervals of one kind together
FEWEST_GROUPS = 6  # of near-duplicate images; with fewer, no verdict is read off an interval
FEWEST_SEEDS = 3  # with fewer, the adapters can be compared, but not the strategies that trained them
SKEW_GROUPS = 50  # with so many groups of images the mean is near enough to normal, however they are distributed
STRONG_SKEW = 1.0  # of fewer groups, beyond which an interval of one seed may be too narrow
POWER = 0.8  # the probability with which a minimum detectable effect is found

_MOST = 10_000_000  # groups or seeds that are ever asked for
_ROUNDING = 1e-12  # relative spread below which numbers are equal but for rounding


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its interval."""

    mean: float  # over seeds and images
    low: float | None  # None where there are fewer than two independent groups of images
    high: float | None
    confidence: float  # of the interval, in (0, 1)

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below 0, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class Estimate:
    """A mean, and the summands of its variance.

    One seed's covers the choice of images: it is about these adapters. That of several seeds covers the choice of
    images and of seeds, whose variances add up (Cameron, Gelbach and Miller, "Robust inference with multiway
    clustering", 2011; what both count is not taken off).
    """

    mean: float
    images_variance: float | None  # of the mean over the choice of images; None where there is one group of them
    images_freedom: float  # its degrees of freedom
    seeds_variance: float  # of the mean over the choice of seeds; 0 for one seed
    seeds: int  # S
    images: int  # N
    groups: int  # of near-duplicate images, which are not independent of each other
    skew: float | None  # of the groups' means; None where they do not vary

    def interval(self, confidence: float) -> Interval:
        """The two-sided t interval of that confidence, in (0, 1)."""
        half = self._reach(quantile, (1 + confidence) / 2)
        if half is None:
            return Interval(self.mean, None, None, confidence)
        return Interval(self.mean, self.mean - half, self.mean + half, confidence)

    def is_below_zero(self, level: float) -> bool:
        """Whether a one-sided test of that level, in (0, 1), finds the mean to be below 0."""
        reach = self._reach(quantile, 1 - level)
        return reach is not None and self.mean + reach < 0

    def minimum_detectable(self, confidence: float) -> float | None:
        """The smallest effect that an interval of that confidence tells from 0 in 80 of 100 such studies."""
        return self._reach(_detectable, (1 + confidence) / 2)

    def with_size(self, groups: int, seeds: int) -> "Estimate":
        """The estimate that a study of so many groups of images and seeds, otherwise like this one, would give."""
        grown = groups / self.groups
        return replace(
            self,
            images_variance=None if self.images_variance is None else self.images_variance / grown,
            images_freedom=(self.images_freedom + 1) * grown - 1,
            seeds_variance=self.seeds_variance * self.seeds / seeds if seeds > 1 else 0.0,
            seeds=seeds,
            images=round(self.images * grown),
            groups=groups,
        )

    def _reach(self, times: Callable[[float, float], float], probability: float) -> float | None:
        """So many times the standard error; None where nothing is known of it.

        How many times is the mean of what each summand of the variance would need by itself, by its degrees of freedom
        and the probability, weighted by the summands (Cochran and Cox, "Experimental designs", 1957, section 4.14). A
        single t with the degrees of freedom of Welch and Satterthwaite is too short where the variance over three
        seeds, which has few of them, is estimated too small.
        """
        if self.images_variance is None or self.images_freedom <= 0:
            return None
        variance = self.images_variance + self.seeds_variance
        if variance == 0:
            return 0.0
        weighted = self.images_variance * times(self.images_freedom, probability)
        if self.seeds_variance:
            weighted += self.seeds_variance * times(self.seeds - 1, probability)
        return weighted / math.sqrt(variance)


def simultaneous(intervals: int) -> float:
    """The confidence of each of so many intervals, at least 1, if all are to hold together with `CONFIDENCE`.

    Bonferroni's: it needs no independence, and is on the safe side where the estimates are alike.
    """
    return 1 - (1 - CONFIDENCE) / intervals


def quantile(freedom: float, probability: float) -> float:
    """The quantile of Student's t."""
    from scipy.special import stdtrit  # takes a fifth of a second to import, and is needed only by reports

    return float(stdtrit(freedom, probability))


def _detectable(freedom: float, probability: float) -> float:
    """How many standard errors an effect has, if t exceeds its quantile of that probability in `POWER` of all cases.

    Abramowitz and Stegun, "Handbook of mathematical functions", 1964, equation 26.7.10. That quantile plus the one of
    `POWER` would be too little where the degrees of freedom are few: with two, 69 to 78 in 100 find such an effect.
    """
    reach = quantile(freedom, probability)
    spread = math.sqrt(1 + reach**2 / (2 * freedom))
    # Below a fifth of a degree, where one group is nearly all images, the equation no longer holds.
    return max(reach, reach * (1 - 1 / (4 * freedom)) + NormalDist().inv_cdf(POWER) * spread)


def estimate(values_SN: npt.NDArray[np.float64], groups: npt.NDArray[np.str_]) -> Estimate:
    """The mean over seeds and images.

    Args:
        values_SN: a number for each seed and image.
        groups: the group of near-duplicates that each image belongs to, [N].
    """
    seeds, images = values_SN.shape
    _, group_of_image = np.unique(groups, return_inverse=True)
    sums_G = np.bincount(group_of_image, weights=values_SN.mean(axis=0)).astype(np.float64)
    sizes_G = np.bincount(group_of_image).astype(np.float64)
    return Estimate(
        mean=float(values_SN.mean()),
        images_variance=variance_over_groups(sums_G, sizes_G) if len(sums_G) > 1 else None,
        images_freedom=float(images**2 / np.square(sizes_G).sum() - 1),
        seeds_variance=float(values_SN.mean(axis=1).var(ddof=1)) / seeds if seeds > 1 else 0.0,
        seeds=seeds,
        images=images,
        groups=len(sums_G),
        skew=_skew(sums_G / sizes_G),
    )


def wanted_size(found: Estimate, effect: float, confidence: float) -> tuple[int, int] | None:
    """How many groups of images and how many seeds a study needs to detect that effect.

    More images are asked for where they are enough; else more seeds; else both. A study of one seed speaks of its own
    adapters, so that no seeds are asked of it.

    Args:
        effect: above 0.
        confidence: of the interval that is to tell the effect from 0.

    Returns:
        Groups and seeds, each at least as many as there are; None where no size is known that would do.
    """

    def detects(groups: int, seeds: int, effect: float = effect) -> bool:
        least = found.with_size(groups, seeds).minimum_detectable(confidence)
        return least is not None and least <= effect

    groups = _smallest(found.groups, lambda groups: detects(groups, found.seeds))
    if groups is not None or found.seeds == 1:
        return None if groups is None else (groups, found.seeds)
    seeds = _smallest(found.seeds, lambda seeds: detects(found.groups, seeds))
    if seeds is not None:
        return found.groups, seeds
    # With as many images as there could ever be, the seeds may take half of the variance that the effect allows.
    seeds = _smallest(found.seeds, lambda seeds: detects(_MOST, seeds, effect / math.sqrt(2)))
    if seeds is None:
        return None
    groups = _smallest(found.groups, lambda groups: detects(groups, seeds))
    assert groups is not None, "the largest number would do"
    return groups, seeds


def _smallest(least: int, fits: Callable[[int], bool]) -> int | None:
    """The smallest number from `least` on that fits, as every larger one up to `_MOST` does; None where there is none.

    A number that fits while some larger one does not is passed over, but for `least`: over few seeds, the weighted t
    grows with the share that they have in the variance, so that very many images may detect a little less than many.
    """
    if fits(least):
        return least
    return least + bisect_left(range(least, _MOST), True, key=fits) if fits(_MOST) else None


def _skew(values_G: npt.NDArray[np.float64]) -> float | None:
    """The skewness of the groups' means; None where they are all equal, but for rounding.

    A t interval around the mean of a strongly skewed distribution misses it more often than it says: of a lognormal one
    and few groups, it holds the mean in some 85 of 100 cases instead of 95.
    """
    deviations_G = values_G - values_G.mean()
    spread = math.sqrt(np.square(deviations_G).mean())
    if spread <= _ROUNDING * np.abs(values_G).max():
        return None
    return float(((deviations_G / spread) ** 3).mean())


def variance_over_groups(sums_G: npt.NDArray[np.float64], sizes_G: npt.NDArray[np.float64]) -> float:
    """The variance of the mean over images, by leaving out one group after the other.

    The jackknife is on the safe side where groups are of unequal size (Bell and McCaffrey, "Bias reduction in standard
    errors for linear regression with multi-stage samples", 2002); so are the degrees of freedom of as many groups of
    equal size as would average as well (Kish, "Survey sampling", 1965).
    """
    without_G = (sums_G.sum() - sums_G) / (sizes_G.sum() - sizes_G)
    spread = np.square(without_G - sums_G.sum() / sizes_G.sum()).sum()
    return float(spread * (len(sums_G) - 1) / len(sums_G))
