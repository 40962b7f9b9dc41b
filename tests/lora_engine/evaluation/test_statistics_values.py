"""Intervals against SciPy's, and against the jackknife written out."""

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from lora_engine.evaluation.statistics import PairedDifference, paired_difference

Floats = npt.NDArray[np.float64]


def singles(count: int) -> npt.NDArray[np.str_]:
    return np.array([f"{i}" for i in range(count)])


def interval(found: PairedDifference) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def drawn(seeds: int, images: int) -> Floats:
    generator = np.random.default_rng(5)
    of_image, of_seed = generator.normal(0, 1, images), generator.normal(0, 0.4, (seeds, 1))
    return 0.2 + of_image + of_seed + generator.normal(0, 0.3, (seeds, images))


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_groups_of_one_size_are_as_many_observations(confidence: float) -> None:
    differences = drawn(1, 21)
    groups = np.repeat(singles(7), 3)
    found = paired_difference(differences, groups, confidence)
    expected = stats.ttest_1samp(differences.reshape(7, 3).mean(axis=1), 0).confidence_interval(confidence)
    assert interval(found) == pytest.approx((expected.low, expected.high))


def test_groups_of_unlike_sizes_are_left_out_in_turn() -> None:
    sizes = [1, 1, 2, 3, 1, 5, 1]
    groups, differences = np.repeat(singles(7), sizes), drawn(1, 14)[0]
    shuffled = np.random.default_rng(0).permutation(14)
    found = paired_difference(differences[np.newaxis, shuffled], groups[shuffled])
    without = np.array([differences[groups != group].mean() for group in singles(7)])
    variance = 6 / 7 * ((without - differences.mean()) ** 2).sum()
    freedom = 14**2 / (1 + 1 + 4 + 9 + 1 + 25 + 1) - 1
    expected = stats.t.interval(0.95, freedom, loc=differences.mean(), scale=np.sqrt(variance))
    assert interval(found) == pytest.approx(expected)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("confidence", [0.9, 0.975])
def test_images_and_seeds_add_up_with_the_weighted_t_of_cochran_and_cox(seeds: int, confidence: float) -> None:
    differences = drawn(seeds, 9)
    found = paired_difference(differences, singles(9), confidence)
    squares = stats.sem(differences.mean(axis=0)) ** 2, stats.sem(differences.mean(axis=1)) ** 2
    quantiles = stats.t.ppf((1 + confidence) / 2, [8, seeds - 1])
    half = np.average(quantiles, weights=squares) * np.sqrt(sum(squares))
    assert interval(found) == pytest.approx((differences.mean() - half, differences.mean() + half))


def test_an_interval_worked_out_by_hand() -> None:
    # Means of the images: 1 to 6, of the seeds: 2.5 and 4.5. Variances 3.5 / 6 = 7 / 12 and 2 / 2 = 12 / 12, of 5 and 1
    # degrees of freedom.
    differences = np.array([[0.0, 1, 2, 3, 4, 5], [2.0, 3, 4, 5, 6, 7]])
    found = paired_difference(differences, singles(6))
    assert found.mean == 3.5
    half = (7 * stats.t.ppf(0.975, 5) + 12 * stats.t.ppf(0.975, 1)) / 19 * np.sqrt(19 / 12)
    assert interval(found) == pytest.approx((3.5 - half, 3.5 + half))


def test_what_does_not_vary_has_an_interval_of_one_point() -> None:
    assert interval(paired_difference(np.full((1, 8), 0.25), singles(8))) == (0.25, 0.25)
    assert interval(paired_difference(np.full((4, 8), 0.25), singles(8))) == (0.25, 0.25)


def test_six_groups_have_an_interval_and_five_have_none() -> None:
    differences = drawn(1, 12)
    six = paired_difference(differences, np.repeat(singles(6), 2), 0.9)
    assert six.low is not None
    assert six.high is not None
    five = paired_difference(differences, np.array([f"{min(i, 4)}" for i in range(12)]), 0.9)
    assert five == PairedDifference(
        mean=pytest.approx(differences.mean()),
        low=None,
        high=None,
        confidence=0.9,
        images=12,
        groups=5,
        method="cannot tell: 5 independent groups of images, 6 are needed",
        skew=None,
    )


def test_a_difference_says_what_it_is_over_and_how_it_was_found() -> None:
    one = paired_difference(drawn(1, 14), np.repeat(singles(7), 2))
    assert (one.confidence, one.images, one.groups) == (0.95, 14, 7)
    assert one.method == "t interval, jackknife over groups of images"
    several = paired_difference(drawn(3, 8), singles(8), 0.99)
    assert (several.confidence, several.images, several.groups) == (0.99, 8, 8)
    assert several.method == "t interval, jackknife over groups of images, and 3 seeds"


def test_the_skew_is_that_of_the_groups_over_all_seeds() -> None:
    differences = np.random.default_rng(3).exponential(1, (3, 20))
    groups = np.repeat(singles(10), [1, 3, 1, 5, *[2] * 5, 0])
    means = [differences[:, groups == group].mean() for group in singles(9)]
    assert paired_difference(differences, groups).skew == pytest.approx(stats.skew(means))
    assert paired_difference(np.full((1, 8), 0.25), singles(8)).skew is None
