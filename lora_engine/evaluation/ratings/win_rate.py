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
    prompts_variance: float  # of the mean, over the choice of prompts; 0 where all prompts agree
    prompts_freedom: float  # its degrees of freedom
    raters_variance: float  # what the choice of raters adds to it; 0 where that is not covered
    raters_freedom: float
    effective_votes: float  # as many independent votes without a tie would say as much

    @property
    def votes(self) -> int:
        """How many there are."""
        return self.wins + self.ties + self.losses

    @property
    def is_of_people(self) -> bool:
        """Whether the interval covers the choice of raters."""
        return self.raters >= FEWEST_RATERS

    @property
    def design_effect(self) -> float | None:
        """How many votes such as these say as much as one independent vote without a tie. None with too few prompts.

        Source: Kish, "Survey sampling", 1965, section 8.2.
        """
        return None if self.prompts < FEWEST_PROMPTS else self.votes / self.effective_votes

    def interval(self, confidence: float) -> Interval:
        """The two-sided interval of that confidence, in (0, 1), within [0, 1]; without ends where prompts are too few.

        Wilson's score interval on the effective number of votes, with a quantile of t (Dean and Pagano, "Evaluating
        confidence interval methods for binomial proportions in clustered surveys", 2015). Its square is the mean of the
        squares of those that the summands of the variance would need by themselves, weighted by the summands (as in
        modified large-sample intervals: Burdick and Graybill, "Confidence intervals on variance components", 1992).
        """
        if self.prompts < FEWEST_PROMPTS:
            return Interval(self.mean, None, None, confidence)
        t, n = self._quantile((1 + confidence) / 2), self.effective_votes
        centre = (self.mean + t**2 / (2 * n)) / (1 + t**2 / n)
        half = t / (1 + t**2 / n) * math.sqrt(self.mean * (1 - self.mean) / n + (t / (2 * n)) ** 2)
        return Interval(self.mean, max(0.0, centre - half), min(1.0, centre + half), confidence)

    def _quantile(self, probability: float) -> float:
        of_prompts = quantile(self.prompts_freedom, probability)
        variance = self.prompts_variance + self.raters_variance
        if self.raters_variance == 0:
            return of_prompts
        of_raters = quantile(self.raters_freedom, probability)
        return math.sqrt((self.prompts_variance * of_prompts**2 + self.raters_variance * of_raters**2) / variance)


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
    def freedom(self) -> float:
        """Of as many groups of equal size as would average as well, less one (Kish, "Survey sampling", 1965).

        Infinite where each group is one vote: a score interval knows the variance of single votes from their mean.
        """
        if (self.sizes == 1).all():
            return math.inf
        return float(self.sizes.sum() ** 2 / np.square(self.sizes).sum() - 1)


def win_rate(votes: Comparisons) -> WinRate:
    """The win rate of the first contender. The votes, at least one, are all of the same pair."""
    scores_V = votes.scores
    by_prompt, by_rater = _Groups.of(scores_V, votes.prompts), _Groups.of(scores_V, votes.raters)
    of_raters, raters = 0.0, len(by_rater.sums)
    if raters >= FEWEST_RATERS:
        # All of it would be subtracted if the variance over raters were known. With three raters it is by chance often
        # so small that nothing would be left, and intervals held in 92 of 100 studies.
        subtracted = 1 - 2 / (raters - 1) ** 2
        of_raters = max(0.0, by_rater.variance - subtracted * _error_variance(votes))
    return WinRate(
        mean=float(scores_V.mean()),
        wins=int((scores_V == WIN).sum()),
        ties=int((scores_V == TIE).sum()),
        losses=int((scores_V == LOSS).sum()),
        prompts=len(by_prompt.sums),
        raters=raters,
        prompts_variance=by_prompt.variance,
        prompts_freedom=by_prompt.freedom,
        raters_variance=of_raters,
        raters_freedom=by_rater.freedom,
        effective_votes=_effective_votes(float(scores_V.mean()), by_prompt, by_prompt.variance + of_raters),
    )


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


def _effective_votes(mean: float, by_prompt: _Groups, variance: float) -> float:
    """How many independent votes without a tie have a mean with that variance.

    Where all prompts agree, that is told from one further prompt on either side: that all of six agree does not make it
    certain that every prompt would (Agresti and Coull, "Approximate is better than exact for interval estimation of
    binomial proportions", 1998).
    """
    if variance > _ROUNDING:
        return mean * (1 - mean) / variance
    means = np.concatenate([by_prompt.sums / by_prompt.sizes, [WIN, LOSS]])
    return float(means.mean() * (1 - means.mean()) / (means.var(ddof=1) / len(means)))
