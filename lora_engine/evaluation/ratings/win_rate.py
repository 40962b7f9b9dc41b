"""How often one contender is preferred to another, with an interval that knows of prompts and raters.

Shape legend: V votes of the pair, P prompts, R raters, C cells (a prompt and a rater who voted on it).
"""

import math
from dataclasses import dataclass

import numpy as np

from lora_engine.evaluation.ratings.comparisons import LOSS, TIE, WIN, Comparisons, Floats, Places
from lora_engine.evaluation.statistics import Interval, quantile, variance_over_groups

FEWEST_PROMPTS = 6  # with fewer, there is no interval
FEWEST_RATERS = 3  # with fewer, an interval is about these raters, and not about people

_ROUNDING = 1e-12  # variance of a mean below which its parts are equal but for rounding


@dataclass(frozen=True)
class WinRate:
    """The share of votes for the first of a pair, ties counting half, and the summands of its variance.

    With fewer than `FEWEST_RATERS` raters the variance covers the choice of prompts: it is about what these raters
    prefer. With more it covers the choice of raters, too, whose variances add up. Votes on one prompt are alike, and so
    are votes of one rater.
    """

    mean: float
    wins: int
    ties: int
    losses: int
    prompts: int
    raters: int
    like_prompts: float  # as many prompts with equally many votes would average as well
    prompts_variance: float  # of the mean, over the choice of prompts
    prompts_freedom: float  # its degrees of freedom
    like_raters: float  # as many raters with equally many votes would average as well
    raters_variance: float  # what the choice of raters adds to it; 0 where that is not covered

    @property
    def votes(self) -> int:
        """How many there are."""
        return self.wins + self.ties + self.losses

    @property
    def is_of_people(self) -> bool:
        """Whether the interval covers the choice of raters: a rater of few votes is not one more."""
        return round(self.like_raters) >= FEWEST_RATERS

    @property
    def design_effect(self) -> float | None:
        """How many votes such as these say as much as one independent vote without a tie.

        None with too few prompts, and where all votes are alike, which says nothing of how much they vary.

        Source: Kish, "Survey sampling", 1965, section 8.2.
        """
        most = self.mean * (1 - self.mean)
        if self.prompts < FEWEST_PROMPTS or most == 0:
            return None
        return self.votes * (self.prompts_variance + self.raters_variance) / most

    def lacks_raters(self, confidence: float) -> bool:
        """Whether the interval of that confidence is wide for few raters rather than for few prompts."""
        of_prompts, of_raters = self._widths((1 + confidence) / 2)
        return of_raters > of_prompts

    def interval(self, confidence: float) -> Interval:
        """The two-sided interval of that confidence, in (0, 1), within [0, 1]; without ends where prompts are too few.

        Wilson's score interval, whose square of a quantile over a number of votes is here the sum over prompts and
        raters (Dean and Pagano, "Evaluating confidence interval methods for binomial proportions in clustered surveys",
        2015; sums of summands by themselves as in Burdick and Graybill, "Confidence intervals on variance components",
        1992).
        """
        if self.prompts < FEWEST_PROMPTS:
            return Interval(self.mean, None, None, confidence)
        width = sum(self._widths((1 + confidence) / 2))
        centre = (self.mean + width / 2) / (1 + width)
        half = math.sqrt(width * self.mean * (1 - self.mean) + width**2 / 4) / (1 + width)
        low, high = max(0.0, centre - half), min(1.0, centre + half)  # Rounding leads out of both bounds.
        return Interval(self.mean, min(self.mean, low), max(self.mean, high), confidence)

    def _widths(self, probability: float) -> tuple[float, float]:
        """What the choice of prompts and that of raters add: the quantile's square over a number of votes.

        No variance over prompts is larger than where all votes on a prompt are alike, so that each prompt is one vote
        of which the variance is known from the mean. Raters who agree would else make intervals wider.
        """
        known = quantile(math.inf, probability) ** 2 / (self.like_prompts - 1)
        most = self.mean * (1 - self.mean)
        if most == 0:
            return known, 0.0
        found = quantile(self.prompts_freedom, probability) ** 2 * self.prompts_variance / most
        of_raters = 0.0
        if self.raters_variance > 0:
            of_raters = quantile(self.like_raters - 1, probability) ** 2 * self.raters_variance / most
        return min(known, found), of_raters


@dataclass(frozen=True)
class _Groups:
    """The votes of a pair by prompt, or by rater."""

    sums: Floats
    sizes: Floats

    @classmethod
    def of(cls, scores_V: Floats, labels_V: Places) -> "_Groups":
        _, group_V = np.unique(labels_V, return_inverse=True)
        return cls(np.bincount(group_V, weights=scores_V).astype(np.float64), np.bincount(group_V).astype(np.float64))

    @property
    def variance(self) -> float:
        """Of the mean over all votes, over the choice of groups; 0 where there is one."""
        return variance_over_groups(self.sums, self.sizes) if len(self.sums) > 1 else 0.0

    @property
    def like(self) -> float:
        """As many groups of equal size would average as well (Kish, "Survey sampling", 1965)."""
        return float(self.sizes.sum() ** 2 / np.square(self.sizes).sum())


def win_rate(votes: Comparisons) -> WinRate:
    """The win rate of the first contender. The votes, at least one, are all of the same pair."""
    scores_V = votes.scores
    by_prompt, by_rater = _Groups.of(scores_V, votes.prompts), _Groups.of(scores_V, votes.raters)
    of_raters, raters = 0.0, len(by_rater.sums)
    if round(by_rater.like) >= FEWEST_RATERS:
        # All of it would be subtracted if the variance over raters were known. With three raters it is by chance often
        # so small that nothing would be left, and intervals held in 92 of 100 studies.
        subtracted = 1 - 2 / (by_rater.like - 1) ** 2
        of_raters = max(0.0, by_rater.variance - subtracted * _error_variance(votes))
    return WinRate(
        mean=float(scores_V.mean()),
        wins=int((scores_V == WIN).sum()),
        ties=int((scores_V == TIE).sum()),
        losses=int((scores_V == LOSS).sum()),
        prompts=len(by_prompt.sums),
        raters=raters,
        like_prompts=by_prompt.like,
        prompts_variance=_prompts_variance(by_prompt),
        # A score interval knows the variance of single votes from their mean.
        prompts_freedom=math.inf if len(scores_V) == len(by_prompt.sums) else by_prompt.like - 1,
        like_raters=by_rater.like,
        raters_variance=of_raters,
    )


def _prompts_variance(by_prompt: _Groups) -> float:
    """The variance of the mean over the choice of prompts.

    Where all prompts agree, it is told from one further prompt on either side: that all of six agree does not make it
    certain that every prompt would (Agresti and Coull, "Approximate is better than exact for interval estimation of
    binomial proportions", 1998).
    """
    if by_prompt.variance > _ROUNDING:
        return by_prompt.variance
    means = np.concatenate([by_prompt.sums / by_prompt.sizes, [WIN, LOSS]])
    return float(means.var(ddof=1) / len(means))


def _error_variance(votes: Comparisons) -> float:
    """The part of the mean's variance that is neither of prompts nor of raters, which variances over both count.

    It is what the cells' means vary about a sum of a number for each prompt and one for each rater.
    """
    prompts, prompt_V = np.unique(votes.prompts, return_inverse=True)
    raters, rater_V = np.unique(votes.raters, return_inverse=True)
    cells, cell_V = np.unique(prompt_V * len(raters) + rater_V, return_inverse=True)
    sizes_C = np.bincount(cell_V)
    means_C = np.bincount(cell_V, weights=votes.scores) / sizes_C
    design = np.hstack([np.eye(len(prompts))[cells // len(raters)], np.eye(len(raters))[cells % len(raters)]])
    fitted, _, rank, _ = np.linalg.lstsq(design, means_C, rcond=None)
    freedom = len(cells) - int(rank)
    if freedom == 0:
        return 0.0
    error = float(np.square(means_C - design @ fitted).sum()) / freedom
    return error * float(np.square(sizes_C / sizes_C.sum()).sum())
