"""How often an interval of drawn numbers holds the truth; `test_simulated_studies.py` asks it of whole studies."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from lora_engine.evaluation.statistics import FEWEST_GROUPS, Interval, estimate
from lora_engine.evaluation.verdicts import Evidence, decide


def singles(count: int) -> npt.NDArray[np.str_]:
    return np.array([f"{i}" for i in range(count)])


def covers(found: Interval, truth: float) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low <= truth <= found.high


def test_images_that_are_all_alone_have_the_t_interval() -> None:
    values = np.array([0.5, -1.0, 1.0, 2.5, 0.3, 8.0, 1.1])
    found = estimate(values[np.newaxis], singles(7)).interval(0.9)
    assert found.mean == pytest.approx(values.mean())
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_few_groups_have_an_interval_but_cannot_tell() -> None:
    n, few = 40, FEWEST_GROUPS - 1
    found = estimate(100.0 + np.arange(float(n))[np.newaxis], np.array([f"g{i % few}" for i in range(n)]))
    cell = found.interval(0.95)
    assert (found.groups, cell.sign) == (few, 1)
    cells = dict.fromkeys(("as_trained", "under_a", "under_b", "no_prompt"), cell)
    evidence = Evidence(
        withheld=False,
        untrained=False,
        identical=False,
        groups=found.groups,
        loss_unchanged=False,
        cells=cells,
        beats={},
        within=frozenset(),
    )
    assert decide(evidence) == "cannot_tell"


@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize("groups", [6, 16, 30])
@pytest.mark.parametrize("sizes", ["equal", "unequal", "one large"])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds: int, groups: int, sizes: str) -> None:
    """Images of a group are nearly one image; seeds differ as a whole, and in each image."""
    trials, covered, seed = 400, 0, 11
    print("seed", seed)
    generator = np.random.default_rng(seed)
    for _ in range(trials):
        of_group = {
            "equal": np.full(groups, 3),
            "unequal": 1 + generator.poisson(1, groups),
            "one large": np.array([8, *[1] * (groups - 1)]),
        }[sizes]
        at = np.repeat(np.arange(groups), of_group)
        effect = generator.normal(0.3, 1, (1, groups)) + generator.normal(0, 0.5, (seeds, groups))
        of_seed = generator.normal(0, 0.5, (seeds, 1)) if seeds > 1 else 0
        values = effect[:, at] + of_seed + generator.normal(0, 0.2, (seeds, len(at)))
        covered += covers(estimate(values, singles(groups)[at]).interval(0.95), 0.3)
    assert covered / trials >= 0.91  # 0.95 less three standard errors of 400 trials, and what unlike groups cost


def test_equal_losses_differ_by_nothing() -> None:
    found = estimate(np.zeros((3, 8)), singles(8)).interval(0.95)
    assert (found.mean, found.low, found.high) == (0, 0, 0)
