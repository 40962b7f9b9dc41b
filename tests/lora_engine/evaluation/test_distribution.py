"""Distances of sets against SciPy's and against sums written out, of all pictures and without each group."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import wasserstein_distance

from lora_engine.evaluation.distribution import (
    LeaveOneOut,
    cmmd_kernel,
    kid_kernel,
    squared_mmd,
    wasserstein,
)
from lora_engine.evaluation.statistics import estimate

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

GROUPS = [
    pytest.param(np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4]), id="equal"),
    pytest.param(np.array([2, 0, 1, 1, 2, 3, 0, 1, 1, 2]), id="unequal, in no order"),
    pytest.param(np.arange(10), id="single"),
]


def units(count: int, dimensions: int, seed: int) -> Floats:
    """Vectors of length 1 that are rather alike."""
    vectors = 0.7 + np.random.default_rng(seed).normal(0, 1, (count, dimensions))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def written_out(kernel: Callable[[Floats, Floats], float], pictures: Floats, references: Floats) -> float:
    """The unbiased squared maximum mean discrepancy, a pair at a time."""
    n, v = len(pictures), len(references)
    among = sum(kernel(pictures[i], pictures[j]) for i in range(n) for j in range(n) if i != j)
    of_references = sum(kernel(references[i], references[j]) for i in range(v) for j in range(v) if i != j)
    across = sum(kernel(x, y) for x in pictures for y in references)
    return among / (n * (n - 1)) + of_references / (v * (v - 1)) - 2 * across / (n * v)


def cubic(x: Floats, y: Floats) -> float:
    """KID's kernel of vectors of length 1, which it takes times the square root of their dimensions."""
    dimensions = len(x)
    x, y = np.sqrt(dimensions) * x, np.sqrt(dimensions) * y
    return float((x @ y / dimensions + 1) ** 3)


def gaussian(x: Floats, y: Floats) -> float:
    return float(1000 * np.exp(-np.square(x - y).sum() / (2 * 10**2)))


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize(("kernel", "of_pair"), [(kid_kernel, cubic), (cmmd_kernel, gaussian)], ids=["kid", "cmmd"])
def test_a_discrepancy_is_the_sum_over_pairs_that_is_written_out(
    kernel: Callable[[Floats], Floats], of_pair: Callable[[Floats, Floats], float], groups: Places
) -> None:
    pictures, references = units(10, 24, 1), units(13, 24, 2)
    found = squared_mmd(kernel, pictures, references, groups)
    assert found.whole == pytest.approx(written_out(of_pair, pictures, references), rel=1e-9, abs=1e-10)
    without = [written_out(of_pair, pictures[groups != group], references) for group in np.unique(groups)]
    np.testing.assert_allclose(found.without_G, without, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kernel", [kid_kernel, cmmd_kernel])
def test_a_discrepancy_is_0_on_average_where_there_is_none(kernel: Callable[[Floats], Floats]) -> None:
    """As the biased estimate is not: of pictures it has the mean of (k(x, x) - k(x, y)) / N, and of references."""
    pool = units(4000, 8, 3).reshape(100, 40, 8)
    found = np.array([squared_mmd(kernel, one[:20], one[20:], np.arange(20)).whole for one in pool])
    assert abs(found.mean()) < 3 * found.std() / 10
    assert found.min() < 0


@pytest.mark.parametrize("groups", GROUPS)
def test_the_area_between_distributions_is_that_of_scipy(groups: Places) -> None:
    generator = np.random.default_rng(4)
    pictures, references = generator.normal(0.3, 1, 10).round(1), generator.normal(0, 1, 17).round(1)  # with ties
    found = wasserstein(pictures, references, groups)
    assert found.whole == pytest.approx(wasserstein_distance(pictures, references), rel=1e-12)
    without = [wasserstein_distance(pictures[groups != group], references) for group in np.unique(groups)]
    np.testing.assert_allclose(found.without_G, without, rtol=1e-12)
    assert wasserstein(references, references, np.arange(17)).whole == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("groups", GROUPS)
def test_pseudo_values_of_a_mean_have_the_variance_of_its_own_estimate(groups: Places) -> None:
    numbers = np.random.default_rng(5).exponential(1, 10)
    without = np.array([numbers[groups != group].mean() for group in np.unique(groups)])
    pseudo_values = LeaveOneOut(float(numbers.mean()), without, groups).pseudo_values()
    direct, jackknifed = (estimate(each[np.newaxis], groups.astype(str)) for each in (numbers, pseudo_values))
    assert jackknifed.mean == pytest.approx(direct.mean, rel=1e-12)
    assert jackknifed.images_variance == pytest.approx(direct.images_variance, rel=1e-12)
    assert jackknifed.skew == pytest.approx(direct.skew, rel=1e-12)
    assert (jackknifed.images_freedom, jackknifed.groups) == (direct.images_freedom, direct.groups)


def test_pseudo_values_have_the_jackknifes_variance_around_the_statistic() -> None:
    """Of groups of equal size, as in Efron and Stein 1981: (G - 1) / G times the sum of squares."""
    groups = np.repeat(np.arange(5), 2)
    found = squared_mmd(kid_kernel, units(10, 24, 1), units(13, 24, 2), groups)
    estimated = estimate(found.pseudo_values()[np.newaxis], groups.astype(str))
    variance = 4 / 5 * np.square(found.without_G - found.without_G.mean()).sum()
    assert estimated.mean == pytest.approx(found.whole, rel=1e-12)
    assert estimated.images_variance == pytest.approx(variance, rel=1e-12)


def test_of_one_group_nothing_but_the_statistic_is_known() -> None:
    one = np.zeros(10, dtype=np.int64)
    for found in (
        squared_mmd(kid_kernel, units(10, 24, 1), units(13, 24, 2), one),
        wasserstein(np.arange(10.0), np.arange(3.0), one),
    ):
        np.testing.assert_allclose(found.pseudo_values(), found.whole)
