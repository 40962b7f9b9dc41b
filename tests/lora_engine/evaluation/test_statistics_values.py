"""Intervals against SciPy's, and against the jackknife written out; and sizes of studies against those next to them."""

from dataclasses import astuple, replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from lora_engine.evaluation.statistics import Estimate, Interval, estimate, wanted_size

Floats = npt.NDArray[np.float64]


def singles(count: int) -> npt.NDArray[np.str_]:
    return np.array([f"{i}" for i in range(count)])


def interval(found: Estimate, confidence: float = 0.95) -> tuple[float, float]:
    result = found.interval(confidence)
    assert result.low is not None
    assert result.high is not None
    assert (result.mean, result.confidence) == (found.mean, confidence)
    return result.low, result.high


def drawn(seeds: int, images: int) -> Floats:
    generator = np.random.default_rng(5)
    of_image, of_seed = generator.normal(0, 1, images), generator.normal(0, 0.4, (seeds, 1))
    return 0.2 + of_image + of_seed + generator.normal(0, 0.3, (seeds, images))


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
def test_groups_of_one_size_are_as_many_observations(confidence: float) -> None:
    values = drawn(1, 21)
    found = estimate(values, np.repeat(singles(7), 3))
    expected = stats.ttest_1samp(values.reshape(7, 3).mean(axis=1), 0).confidence_interval(confidence)
    assert interval(found, confidence) == pytest.approx((expected.low, expected.high))


def test_groups_of_unlike_sizes_are_left_out_in_turn() -> None:
    sizes = [1, 1, 2, 3, 1, 5, 1]
    groups, values = np.repeat(singles(7), sizes), drawn(1, 14)[0]
    shuffled = np.random.default_rng(0).permutation(14)
    found = estimate(values[np.newaxis, shuffled], groups[shuffled])
    without = np.array([values[groups != group].mean() for group in singles(7)])
    variance = 6 / 7 * ((without - values.mean()) ** 2).sum()
    freedom = 14**2 / (1 + 1 + 4 + 9 + 1 + 25 + 1) - 1
    expected = stats.t.interval(0.95, freedom, loc=values.mean(), scale=np.sqrt(variance))
    assert interval(found) == pytest.approx(expected)
    assert (found.images_variance, found.images_freedom) == pytest.approx((variance, freedom))
    assert (found.seeds_variance, found.seeds, found.images, found.groups) == (0, 1, 14, 7)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("confidence", [0.9, 0.975])
def test_images_and_seeds_add_up_with_the_weighted_t_of_cochran_and_cox(seeds: int, confidence: float) -> None:
    values = drawn(seeds, 9)
    found = estimate(values, singles(9))
    squares = stats.sem(values.mean(axis=0)) ** 2, stats.sem(values.mean(axis=1)) ** 2
    quantiles = stats.t.ppf((1 + confidence) / 2, [8, seeds - 1])
    half = np.average(quantiles, weights=squares) * np.sqrt(sum(squares))
    assert interval(found, confidence) == pytest.approx((values.mean() - half, values.mean() + half))
    assert (found.seeds, found.images, found.groups) == (seeds, 9, 9)


def test_an_interval_worked_out_by_hand() -> None:
    # Means of the images: 1 to 6, of the seeds: 2.5 and 4.5. Variances 3.5 / 6 = 7 / 12 and 2 / 2 = 12 / 12, of 5 and 1
    # degrees of freedom.
    values = np.array([[0.0, 1, 2, 3, 4, 5], [2.0, 3, 4, 5, 6, 7]])
    found = estimate(values, singles(6))
    expected = Estimate(
        mean=3.5, images_variance=7 / 12, images_freedom=5, seeds_variance=1, seeds=2, images=6, groups=6, skew=0
    )
    assert astuple(found) == pytest.approx(astuple(expected))
    half = (7 * stats.t.ppf(0.975, 5) + 12 * stats.t.ppf(0.975, 1)) / 19 * np.sqrt(19 / 12)
    assert interval(found) == pytest.approx((3.5 - half, 3.5 + half))


def test_what_does_not_vary_has_an_interval_of_one_point() -> None:
    for seeds in (1, 4):
        found = estimate(np.full((seeds, 8), 0.25), singles(8))
        assert interval(found) == (0.25, 0.25)
        assert found.minimum_detectable(0.95) == 0
        assert found.skew is None
        assert not found.is_below_zero(0.05)
        assert estimate(np.full((seeds, 8), -0.25), singles(8)).is_below_zero(1e-9)


def test_seeds_that_do_not_differ_leave_the_interval_of_the_images() -> None:
    values = drawn(1, 9)
    alike = estimate(values.repeat(4, axis=0), singles(9))
    assert alike.seeds_variance == pytest.approx(0, abs=1e-30)
    assert interval(alike) == pytest.approx(interval(estimate(values, singles(9))))


def test_there_is_an_interval_from_two_groups_on() -> None:
    values = drawn(3, 12)
    two = estimate(values, np.repeat(["a", "b"], 6))
    assert interval(two)[0] < two.mean < interval(two)[1]
    one = estimate(values, np.repeat(["a"], 12))
    assert one.interval(0.9) == Interval(one.mean, None, None, 0.9)
    assert one.mean == pytest.approx(values.mean())
    assert (one.images_variance, one.images_freedom, one.groups, one.images) == (None, 0, 1, 12)
    assert one.minimum_detectable(0.9) is None
    assert not replace(one, mean=-1e9).is_below_zero(0.5)
    assert wanted_size(one, 1e9, 0.9) is None


def test_groups_of_which_one_is_nearly_all_say_nothing() -> None:
    groups = np.array([*"abcde", *["f"] * 95])
    found = estimate(np.arange(100.0)[np.newaxis], groups)
    low, high = interval(found)
    assert low < -1e6 < 1e6 < high
    assert found.minimum_detectable(0.95) == pytest.approx(high - found.mean)
    assert not replace(found, mean=-1e6).is_below_zero(0.05)


def test_the_sign_of_an_interval_is_that_of_all_that_it_holds() -> None:
    ends = [(0.1, 0.2), (-0.2, -0.1), (-0.1, 0.2), (0.0, 0.2), (-0.2, 0.0), (None, None), (None, 0.2), (0.1, None)]
    assert [Interval(0.0, low, high, 0.95).sign for low, high in ends] == [1, -1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("level", [0.05, 0.0125])
@pytest.mark.parametrize("seeds", [1, 3])
def test_a_mean_is_below_zero_where_its_one_sided_bound_is(level: float, seeds: int) -> None:
    found = estimate(drawn(seeds, 12), singles(12))
    reach = interval(found, 1 - 2 * level)[1] - found.mean
    assert replace(found, mean=-1.000001 * reach).is_below_zero(level)
    assert not replace(found, mean=-0.999999 * reach).is_below_zero(level)
    assert not replace(found, mean=1.1 * reach).is_below_zero(level)
    # of one seed, SciPy's test
    values = drawn(1, 12) - 0.7
    p = float(stats.ttest_1samp(values[0], 0, alternative="less").pvalue)
    assert estimate(values, singles(12)).is_below_zero(p * 1.000001)
    assert not estimate(values, singles(12)).is_below_zero(p * 0.999999)


def test_a_mean_whose_bound_is_zero_is_not_below_it() -> None:
    assert not estimate(np.zeros((1, 8)), singles(8)).is_below_zero(0.05)


def test_the_skew_is_that_of_the_groups_over_all_seeds() -> None:
    values = np.random.default_rng(3).exponential(1, (3, 20))
    groups = np.repeat(singles(10), [1, 3, 1, 5, *[2] * 5, 0])
    means = [values[:, groups == group].mean() for group in singles(9)]
    assert estimate(values, groups).skew == pytest.approx(stats.skew(means))
    assert estimate(-values, groups).skew == pytest.approx(-stats.skew(means))


def test_what_varies_by_rounding_alone_has_no_skew() -> None:
    groups = np.repeat(singles(6), [1, 3, 1, 5, 2, 7])
    assert estimate(np.full((3, 19), 0.1), groups).skew is None
    nearly = np.full((1, 19), 1.0)
    nearly[0, 0] += 1e-8
    assert estimate(nearly, groups).skew == pytest.approx(stats.skew([1, 0, 0, 0, 0, 0]), rel=1e-5)


def test_an_effect_is_detectable_that_a_t_test_finds_in_eight_of_ten_cases() -> None:
    for groups, tolerance in ((6, 0.01), (16, 0.002), (100, 0.0003)):
        found = Estimate(0, 0.25, groups - 1, 0, 1, groups, groups, None)
        for confidence in (0.95, 0.99, 0.999):
            effect = found.minimum_detectable(confidence)
            assert effect is not None
            above = stats.nct.sf(stats.t.ppf((1 + confidence) / 2, groups - 1), groups - 1, effect / 0.5)
            assert above == pytest.approx(0.8, abs=tolerance)


def test_what_is_detectable_over_seeds_is_weighted_as_the_interval_is() -> None:
    found = Estimate(7.0, 0.3, 15, 0.2, 3, 20, 16, None)
    alone = [
        Estimate(0, variance, freedom, 0, 1, 20, 16, None).minimum_detectable(0.975) / np.sqrt(variance)
        for variance, freedom in ((0.3, 15), (0.2, 2))
    ]
    expected = np.average(alone, weights=[0.3, 0.2]) * np.sqrt(0.5)
    assert found.minimum_detectable(0.975) == pytest.approx(expected)
    # Abramowitz and Stegun's 26.7.10, with two degrees of freedom
    t = stats.t.ppf(0.9875, 2)
    by_hand = t * (1 - 1 / 8) + stats.norm.ppf(0.8) * np.sqrt(1 + t**2 / 4)
    assert alone[1] == pytest.approx(by_hand)


def test_a_study_of_another_size_has_the_variance_that_follows_from_it() -> None:
    found = Estimate(0.5, 0.3, 11.5, 0.2, 4, 40, 20, 0.7)
    assert found.with_size(20, 4) == found
    other = Estimate(0.5, 0.2, 1.5 * 12.5 - 1, 0.08, 10, 60, 30, 0.7)
    assert astuple(found.with_size(30, 10)) == pytest.approx(astuple(other))
    assert found.with_size(20, 2).seeds_variance == pytest.approx(0.4)
    one = found.with_size(20, 1)
    assert (one.seeds_variance, one.seeds) == (0, 1)
    assert one.interval(0.95).high is not None


def test_a_study_of_twice_the_groups_is_as_if_each_were_there_twice() -> None:
    values, groups = drawn(1, 14), np.repeat(singles(7), [1, 1, 2, 3, 1, 5, 1])
    twice = estimate(np.tile(values, 2), np.concatenate([groups, np.char.add(groups, "'")]))
    grown = estimate(values, groups).with_size(14, 1)
    assert (grown.images, grown.groups, grown.images_freedom) == pytest.approx(
        (twice.images, twice.groups, twice.images_freedom)
    )
    assert grown.images_variance == pytest.approx(twice.images_variance, rel=0.1)  # (G - 1) / G, of 7 and of 14


def test_of_a_study_that_shrinks_to_nothing_nothing_is_known() -> None:
    found = Estimate(0.5, 0.3, 5, 0.2, 3, 6, 6, None)
    assert found.with_size(1, 3).interval(0.95) == Interval(0.5, None, None, 0.95)
    assert found.with_size(1, 3).minimum_detectable(0.95) is None
    assert replace(found, images_variance=None, images_freedom=0, groups=1).with_size(7, 3).images_variance is None


def detects(found: Estimate, effect: float, groups: int, seeds: int, confidence: float) -> bool:
    least = found.with_size(groups, seeds).minimum_detectable(confidence)
    assert least is not None
    return least <= effect


def test_of_one_seed_as_many_images_are_wanted_as_detect_the_effect_and_no_fewer() -> None:
    found, wanted = estimate(drawn(1, 8), singles(8)), []
    for effect in (2.0, 1.0, 0.5, 0.2, 0.05, 0.01):
        size = wanted_size(found, effect, 0.95)
        assert size is not None
        groups, seeds = size
        assert seeds == 1
        assert detects(found, effect, groups, 1, 0.95)
        assert groups == 8 or not detects(found, effect, groups - 1, 1, 0.95)
        wanted.append(groups)
    assert wanted == sorted(wanted)
    assert wanted[0] == 8 < wanted[1] < wanted[-1]
    higher = wanted_size(found, 0.5, 0.99)
    assert higher is not None
    assert higher[0] > wanted[2]


def test_what_no_number_of_images_detects_is_wanted_of_nobody() -> None:
    found = estimate(drawn(1, 8), singles(8))
    assert wanted_size(found, 1e-5, 0.95) is None
    ten_million = found.with_size(10_000_000, 1).minimum_detectable(0.95)
    assert ten_million is not None
    assert wanted_size(found, ten_million, 0.95) == (10_000_000, 1)
    assert wanted_size(found, ten_million * 0.999, 0.95) is None


def test_over_seeds_images_are_wanted_where_they_are_enough() -> None:
    found = Estimate(0, 0.5, 19, 0.001, 3, 20, 20, None)
    size = wanted_size(found, 0.5, 0.95)
    assert size is not None
    groups, seeds = size
    assert (groups > 20, seeds) == (True, 3)
    assert detects(found, 0.5, groups, 3, 0.95)
    assert not detects(found, 0.5, groups - 1, 3, 0.95)
    assert wanted_size(found, 5, 0.95) == (20, 3)
    either = Estimate(0, 0.5, 19, 0.1, 3, 20, 20, None)
    now = either.minimum_detectable(0.95)
    assert now is not None
    size = wanted_size(either, 0.95 * now, 0.95)
    assert size is not None
    assert (size[0] > 20, size[1]) == (True, 3)


def test_seeds_are_wanted_where_images_cannot_be_enough() -> None:
    found = Estimate(0, 0.001, 19, 0.5, 3, 20, 20, None)
    assert not detects(found, 1.0, 10_000_000, 3, 0.95)
    size = wanted_size(found, 1.0, 0.95)
    assert size is not None
    groups, seeds = size
    assert (groups, seeds > 3) == (20, True)
    assert detects(found, 1.0, 20, seeds, 0.95)
    assert not detects(found, 1.0, 20, seeds - 1, 0.95)
    of_two = wanted_size(found.with_size(20, 2), 1.0, 0.95)
    assert of_two == size


def test_both_are_wanted_where_neither_is_enough() -> None:
    found = Estimate(0, 0.5, 19, 0.5, 3, 20, 20, None)
    assert not detects(found, 1.0, 10_000_000, 3, 0.95)
    assert not detects(found, 1.0, 20, 10_000_000, 0.95)
    size = wanted_size(found, 1.0, 0.95)
    assert size is not None
    groups, seeds = size
    assert detects(found, 1.0, groups, seeds, 0.95)
    assert not detects(found, 1.0, groups - 1, seeds, 0.95)
    # So many seeds that any number of images leaves half of the variance to them, and no more.
    assert detects(found, 1 / np.sqrt(2), 10_000_000, seeds, 0.95)
    assert not detects(found, 1 / np.sqrt(2), 10_000_000, seeds - 1, 0.95)
    assert wanted_size(found, 1e-5, 0.95) is None


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("confidence", [0.95, 1 - 0.05 / 6, 1 - 0.05 / 28])
@pytest.mark.parametrize("seed_share", [0.01, 0.1, 0.5])
def test_no_larger_study_than_the_wanted_one_fails_to_detect(seeds: int, confidence: float, seed_share: float) -> None:
    """Although a weighted t of three seeds may be longer with more images."""
    found = Estimate(0, 1 - seed_share, 5, seed_share, seeds, 6, 6, None)
    now = found.minimum_detectable(confidence)
    assert now is not None
    for effect in np.geomspace(now / 50, now, 40):
        size = wanted_size(found, effect, confidence)
        assert size is not None
        groups, wanted_seeds = size
        assert groups >= 6
        assert wanted_seeds >= seeds
        assert detects(found, effect, groups, wanted_seeds, confidence)
        if size != (6, seeds):
            larger = [int(groups * 1.3**k) for k in range(40)]
            assert all(detects(found, effect, each, wanted_seeds, confidence) for each in larger if each < 10**7)
