"""Votes and what follows of them: comparisons, agreement, catch trials and how many votes it takes."""

from statistics import NormalDist

import numpy as np
import pytest

from lora_engine.evaluation.ratings.agreement import agreement, agreement_of
from lora_engine.evaluation.ratings.catch import Answer, Caught, caught, contradicts, tells_twins_apart
from lora_engine.evaluation.ratings.comparisons import Comparisons, outcomes
from lora_engine.evaluation.ratings.power import wanted_votes

# Krippendorff, "Computing Krippendorff's alpha-reliability" (2011): four observers of twelve units, nominal.
OBSERVERS = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]


@pytest.mark.parametrize(
    ("shown", "best", "worst", "said"),
    [
        (3, 0, 2, {(0, 1): 1, (0, 2): 1, (1, 2): 1}),
        (3, 2, 0, {(0, 1): 0, (0, 2): 0, (1, 2): 0}),
        (3, 1, None, {(0, 1): 0, (0, 2): 0.5, (1, 2): 1}),
        (3, None, 1, {(0, 1): 1, (0, 2): 0.5, (1, 2): 0}),
        (3, None, None, {(0, 1): 0.5, (0, 2): 0.5, (1, 2): 0.5}),
        (2, 1, None, {(0, 1): 0}),
        (2, None, None, {(0, 1): 0.5}),
    ],
)
def test_a_vote_says_something_of_each_pair(
    shown: int, best: int | None, worst: int | None, said: dict[tuple[int, int], float]
) -> None:
    assert {(a, b): score for a, b, score in outcomes(shown, best, worst)} == said


def test_comparisons_are_of_the_contender_with_the_smaller_number() -> None:
    votes = Comparisons.of([(2, 0, 1.0, 5, 6, 7), (0, 2, 0.5, 1, 2, 3), (0, 1, 0.0, 0, 0, 0)])
    assert votes.pairs() == [(0, 1), (0, 2)]
    pair = votes.pair(0, 2)
    assert pair.scores.tolist() == [0, 0.5]
    assert (pair.prompts.tolist(), pair.raters.tolist(), pair.trials.tolist()) == ([5, 1], [6, 2], [7, 3])


def test_alpha_is_the_published_one() -> None:
    counts = np.array([[sum(o[unit] == str(said) for o in OBSERVERS) for said in range(1, 6)] for unit in range(12)])
    found = agreement_of(counts[counts.sum(axis=1) > 1].astype(float))
    assert found is not None
    assert (round(found.alpha or 0, 3), found.units) == (0.743, 11)


def test_agreement_is_that_of_those_who_judged_the_same() -> None:
    rows = [(0, 1, 1.0, 0, 0, 0), (0, 1, 1.0, 0, 1, 0), (0, 1, 0.0, 0, 2, 0), (0, 1, 0.0, 1, 2, 1)]
    found = agreement(Comparisons.of(rows))
    assert found is not None
    assert (found.share, found.units) == (pytest.approx(1 / 3), 1)
    assert agreement(Comparisons.of(rows[2:])) is None
    assert agreement(Comparisons.of([])) is None
    alike = agreement(Comparisons.of(rows[:2]))
    assert alike is not None
    assert (alike.share, alike.alpha) == (1, None)


@pytest.mark.parametrize(("rate", "votes"), [(0.6, 188), (0.65, 79), (0.7, 41), (0.4, 188), (0.35, 79)])
def test_votes_for_a_power_of_80_percent(rate: float, votes: int) -> None:
    assert wanted_votes(rate) == votes
    assert wanted_votes(rate, design_effect=2.5) == pytest.approx(2.5 * votes, abs=2)
    assert (wanted_votes(rate, confidence=0.99) or 0) > votes


def test_at_a_half_no_number_of_votes_would_do() -> None:
    assert wanted_votes(0.5) is None
    assert wanted_votes(0.5001) is None
    assert wanted_votes(1.0) is None


def test_so_many_votes_have_that_power() -> None:
    for rate, votes in ((0.6, 188), (0.65, 79), (0.7, 41)):
        z = (rate - 0.5) / np.sqrt(rate * (1 - rate) / votes)
        assert NormalDist().cdf(z - NormalDist().inv_cdf(0.975)) == pytest.approx(0.8, abs=0.005)


@pytest.mark.parametrize(
    ("first", "again", "fails"),
    [
        (("abc", 0, 2), ("cab", 1, 0), False),
        (("abc", 0, 2), ("cab", 0, 1), True),
        (("abc", 0, 2), ("bca", 0, 1), False),
        (("abc", 0, None), ("abc", 1, None), False),
        (("abc", 0, None), ("abc", 1, 0), True),
        (("abc", None, 2), ("abc", 2, None), True),
        (("abc", None, None), ("abc", 0, 2), False),
        (("ab", 0, None), ("ba", 1, None), False),
        (("ab", 0, None), ("ba", 0, None), True),
        (("ab", 0, None), ("ba", None, None), False),
    ],
)
def test_a_repeated_trial_that_is_turned_around_is_failed(
    first: tuple[str, int | None, int | None], again: tuple[str, int | None, int | None], fails: bool
) -> None:
    answers = [Answer(tuple(shown), best, worst) for shown, best, worst in (first, again)]
    assert contradicts(answers[0], answers[1]) is fails
    assert caught([(answers[0], answers[1])], []) == Caught(1, int(fails))


@pytest.mark.parametrize(
    ("answer", "fails"),
    [
        (("aab", 0, 1), True),
        (("aab", 1, 0), True),
        (("aab", 0, 2), False),
        (("aab", 2, 0), False),
        (("aab", 0, None), False),
        (("aab", None, None), False),
        (("aa", 0, None), True),
        (("aa", None, None), False),
    ],
)
def test_twins_that_are_told_apart_are_a_failure(answer: tuple[str, int | None, int | None], fails: bool) -> None:
    shown, best, worst = answer
    assert tells_twins_apart(Answer(tuple(shown), best, worst)) is fails


@pytest.mark.parametrize(
    ("answered", "failed", "careless"),
    [(3, 3, False), (4, 1, False), (4, 2, True), (6, 1, False), (6, 2, True), (8, 2, False), (8, 3, True)],
)
def test_a_rater_is_left_out_beyond_a_quarter_of_at_least_four(answered: int, failed: int, careless: bool) -> None:
    assert Caught(answered, failed).is_careless is careless
