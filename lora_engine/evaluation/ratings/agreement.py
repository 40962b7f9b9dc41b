"""Whether raters agree with each other. Shape legend: U units that were judged, 3 outcomes."""

from dataclasses import dataclass

import numpy as np

from lora_engine.evaluation.ratings.comparisons import Comparisons, Floats


@dataclass(frozen=True)
class Agreement:
    """How often two raters say the same of the same two pictures."""

    share: float  # of the pairs of raters' votes on the same two pictures, those that are equal, in [0, 1]
    alpha: float | None  # Krippendorff's: 1 is full agreement, 0 that of chance; None where all votes are alike
    units: int  # trials' pairs of pictures on which at least two raters voted


def agreement(votes: Comparisons) -> Agreement | None:
    """The agreement of all raters on what several of them judged; None where there is no such thing.

    Krippendorff's alpha for nominal data, which are better, worse and no difference (Krippendorff, "Computing
    Krippendorff's alpha-reliability", 2011).
    """
    keys_V3 = np.stack([votes.trials, votes.first, votes.second], axis=1)
    _, unit_V = np.unique(keys_V3, axis=0, return_inverse=True)
    counts_U3 = np.zeros((unit_V.max(initial=-1) + 1, 3))
    np.add.at(counts_U3, (unit_V.ravel(), np.rint(2 * votes.scores).astype(np.int64)), 1)
    return agreement_of(counts_U3[counts_U3.sum(axis=1) > 1])


def agreement_of(counts_UK: Floats) -> Agreement | None:
    """The agreement of votes that are counted: for each unit, of which each has two votes or more, by what was said."""
    if len(counts_UK) == 0:
        return None
    votes_U, said_K = counts_UK.sum(axis=1), counts_UK.sum(axis=0)
    equal_U = (counts_UK * (counts_UK - 1)).sum(axis=1)
    pairs_U = votes_U * (votes_U - 1)
    total = said_K.sum()
    by_chance = 1 - float((said_K * (said_K - 1)).sum() / (total * (total - 1)))
    differ = float(((pairs_U - equal_U) / (votes_U - 1)).sum() / total)
    return Agreement(
        share=float(equal_U.sum() / pairs_U.sum()),
        alpha=None if by_chance == 0 else 1 - differ / by_chance,
        units=len(counts_UK),
    )
