"""Strengths against published ones, and against what maximum likelihood implies."""

import numpy as np
import pytest

from lora_engine.evaluation.ratings.comparisons import Comparisons
from lora_engine.evaluation.ratings.strengths import Counts, strengths

# Davidson (1970), example 2: brands of chocolate pudding; for each pair of them votes for i, for j, and no preference.
PUDDINGS = {
    (1, 2): (19, 22, 16),
    (1, 3): (16, 19, 12),
    (2, 3): (19, 19, 10),
    (1, 4): (18, 23, 13),
    (2, 4): (23, 19, 9),
    (3, 4): (19, 20, 15),
    (1, 5): (13, 19, 18),
    (2, 5): (16, 20, 12),
    (3, 5): (16, 15, 17),
    (4, 5): (17, 14, 16),
    (1, 6): (18, 21, 12),
    (2, 6): (22, 20, 12),
    (3, 6): (13, 18, 10),
    (4, 6): (14, 19, 18),
    (5, 6): (11, 21, 12),
}
WORTHS, TIE = [0.1388005, 0.1729985, 0.1617420, 0.1653930, 0.1586805, 0.2023855], 0.7468147
# Agresti, "Categorical data analysis" (1990), table 10.10: wins of each baseball team of the American League of 1987
# over each other; and the abilities that R's BradleyTerry2 prints for it, less Baltimore's.
BASEBALL = [
    [0, 7, 9, 7, 7, 9, 11],
    [6, 0, 7, 5, 11, 9, 9],
    [4, 6, 0, 7, 7, 8, 12],
    [6, 8, 6, 0, 6, 7, 10],
    [6, 2, 6, 7, 0, 7, 12],
    [4, 4, 5, 6, 6, 0, 6],
    [2, 4, 1, 3, 1, 7, 0],
]
ABILITIES = [1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839, 0]


def counts(contenders: int, votes: dict[tuple[int, int], tuple[int, int, int]]) -> Counts:
    """Counts of votes on pairs of contenders, which are numbered from 0."""
    rows = []
    for (i, j), (better, worse, ties) in votes.items():
        rows += [(i, j, 1.0, 0, 0, 0)] * better + [(i, j, 0.0, 0, 0, 0)] * worse + [(j, i, 0.5, 0, 0, 0)] * ties
    return Counts.of(Comparisons.of(rows), contenders)


def test_strengths_of_davidsons_puddings_are_the_published_ones() -> None:
    found = strengths(counts(6, {(i - 1, j - 1): votes for (i, j), votes in PUDDINGS.items()}))
    assert found is not None
    worths = np.exp(found.strengths) / np.exp(found.strengths).sum()
    assert worths == pytest.approx(WORTHS, abs=3e-5)  # The published ones are those of the seventh iteration.
    assert found.tie == pytest.approx(TIE, abs=1e-4)


def test_without_ties_it_is_bradley_terry() -> None:
    found = strengths(Counts(np.array(BASEBALL, float), np.zeros((7, 7))))
    assert found is not None
    assert np.array(found.strengths) - found.strengths[-1] == pytest.approx(ABILITIES, abs=1e-4)
    assert found.tie == 0


def test_two_contenders_have_a_closed_form() -> None:
    found = strengths(counts(2, {(0, 1): (12, 3, 7)}))
    assert found is not None
    assert found.strengths == pytest.approx([np.log(12 / 3) / 2, -np.log(12 / 3) / 2])
    assert found.tie == pytest.approx(7 / np.sqrt(12 * 3))


@pytest.mark.parametrize("seed", range(5))
def test_expected_scores_and_ties_are_the_observed_ones(seed: int) -> None:
    """That is where the derivatives of the likelihood are 0."""
    generator = np.random.default_rng(seed)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    votes = {pair: tuple(generator.integers(1, 20, 3).tolist()) for pair in pairs}
    found = strengths(counts(4, votes))
    assert found is not None
    worths = np.exp(found.strengths)
    scores, expected, ties = np.zeros(4), np.zeros(4), 0.0
    for (i, j), (better, worse, equal) in votes.items():
        shares = np.array([worths[i], worths[j], found.tie * np.sqrt(worths[i] * worths[j])])
        shares *= (better + worse + equal) / shares.sum()
        expected[i] += shares[0] + shares[2] / 2
        expected[j] += shares[1] + shares[2] / 2
        scores[i] += better + equal / 2
        scores[j] += worse + equal / 2
        ties += shares[2]
    assert expected == pytest.approx(scores, abs=1e-4)
    assert ties == pytest.approx(sum(equal for _, _, equal in votes.values()), abs=1e-4)


@pytest.mark.parametrize(
    "votes",
    [
        {},
        {(0, 1): (5, 0, 0), (1, 2): (2, 2, 0)},
        {(0, 1): (0, 0, 9), (1, 2): (2, 2, 1)},
        {(0, 1): (3, 3, 0)},
    ],
)
def test_where_one_never_lost_or_was_never_compared_nothing_is_said(
    votes: dict[tuple[int, int], tuple[int, int, int]],
) -> None:
    assert strengths(counts(3, votes)) is None
