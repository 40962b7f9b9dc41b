"""How often intervals of win rates hold the truth in simulated studies. `pytest -s` prints every share."""

from itertools import product
from statistics import fmean

import pytest

from lora_engine.evaluation.ratings.win_rate import win_rate
from lora_engine.evaluation.statistics import CONFIDENCE
from tests.lora_engine.evaluation.ratings.simulated import Design, Study, studies

STUDIES, FEW = 1000, 150
BAND = 0.02  # by which the share of intervals that hold may be off, of all designs of a kind
OF_A_DESIGN = 0.03  # of one design, of which 1000 studies tell the share to within 0.014
CARELESS = {1: (0,), 3: (0, 1), 8: (0, 2)}  # by the number of raters who look
TRIED_ALWAYS = [
    Design(1, 12, 2, 0.65),
    Design(3, 12, 3, 0.6),
    Design(3, 24, 2, 0.75, careless=1),
    Design(8, 24, 3, 0.65, careless=2),
]


def holds(study: Study, first: int, second: int) -> bool:
    """Whether the interval of a pair holds the truth."""
    found = win_rate(study.votes.pair(first, second)).interval(CONFIDENCE)
    assert found.low is not None
    assert found.high is not None
    return found.low <= study.truth[first, second] <= found.high


def held(design: Design, count: int) -> float:
    """The share of intervals that hold the truth, of all pairs of so many studies."""
    found = [holds(study, *pair) for study in studies(design, count, design) for pair in study.votes.pairs()]
    return sum(found) / len(found)


@pytest.mark.slow
@pytest.mark.parametrize("contenders", [2, 3])
@pytest.mark.parametrize("raters", CARELESS)
def test_intervals_hold_the_truth_as_often_as_they_say(raters: int, contenders: int) -> None:
    shares = {}
    for prompts, rate, careless in product((12, 24), (0.5, 0.6, 0.65, 0.75), CARELESS[raters]):
        design = Design(raters, prompts, contenders, rate, careless)
        shares[design] = held(design, STUDIES)
        print("figures:", design, f"{shares[design]:.3f}")
    assert abs(fmean(shares.values()) - CONFIDENCE) <= BAND
    assert max(abs(share - CONFIDENCE) for share in shares.values()) <= OF_A_DESIGN


@pytest.mark.parametrize("design", TRIED_ALWAYS, ids=str)
def test_intervals_hold_in_a_few_studies_of_some_designs(design: Design) -> None:
    """Within the band, and three standard errors of so few studies more."""
    spread = (CONFIDENCE * (1 - CONFIDENCE) / FEW) ** 0.5
    assert held(design, FEW) >= CONFIDENCE - BAND - 3 * spread
