"""Comparisons of two adapters against the same worked out image by image."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from lora_engine.evaluation.comparison import AdapterLosses, Compared, PairLosses, Prompts, compare, is_within
from lora_engine.evaluation.statistics import Estimate, Interval, estimate

Floats = npt.NDArray[np.float64]
Rows = list[list[float]]  # a number of each image, for each seed

IMAGES = 11
GROUPS = np.array(["a", "b", "a", "c", "d", "e", "e", "e", "f", "g", "h"])
PROMPTS: tuple[Prompts, ...] = ("a", "b", "none")
CONFIDENCE, SHARE, LEVEL = 0.975, 0.1, 0.0125


def random_losses(seeds: int, number: int, *, same_captions: bool = False, effect: float = 0.05) -> PairLosses:
    generator = np.random.default_rng([seeds, number])
    shape = (seeds, IMAGES)

    def drawn(level: float) -> Floats:
        return level + generator.normal(0, 0.02, shape) + generator.normal(0, 0.005, (seeds, 1))

    def adapter(level: float) -> AdapterLosses:
        under: dict[Prompts, Floats] = {prompts: drawn(level + 0.01 * at) for at, prompts in enumerate(PROMPTS)}
        return AdapterLosses(drawn(level), drawn(1.0), under)

    a, b = adapter(0.6), adapter(0.6 + effect)
    base: dict[Prompts, Floats] = {
        prompts: drawn(level) for prompts, level in zip(PROMPTS, (1, 0.97, 1.1), strict=True)
    }
    if same_captions:
        a = replace(a, under={**a.under, "b": a.under["a"]})
        b = replace(b, under={**b.under, "a": b.under["b"]}, start=a.start)
        base["b"] = base["a"]
    return PairLosses(a, b, base, same_captions)


@dataclass(frozen=True)
class ByHand:
    """A number of each seed and image, averaged one after the other."""

    of: Rows

    @property
    def mean(self) -> float:
        return self._mean_without(None)

    def _mean_without(self, group: str | None) -> float:
        kept = [each for row in self.of for each, its in zip(row, GROUPS, strict=True) if its != group]
        return sum(kept) / len(kept)

    def reach(self, probability: float) -> float:
        """By how much the mean may be wrong."""
        groups, seeds = sorted(set(GROUPS)), len(self.of)
        without = [self._mean_without(group) for group in groups]
        over_images = (len(groups) - 1) / len(groups) * sum((one - self.mean) ** 2 for one in without)
        quantile = over_images * stats.t.ppf(probability, IMAGES**2 / (4 + 1 + 1 + 1 + 9 + 1 + 1 + 1) - 1)
        over_seeds = 0.0
        if seeds > 1:
            of_seeds = [sum(row) / IMAGES for row in self.of]
            over_seeds = sum((one - self.mean) ** 2 for one in of_seeds) / (seeds - 1) / seeds
            quantile += over_seeds * stats.t.ppf(probability, seeds - 1)
        return float(quantile / (over_images + over_seeds) ** 0.5) if quantile else 0.0

    def is_interval(self, found: Interval, confidence: float = CONFIDENCE) -> None:
        reach = self.reach((1 + confidence) / 2)
        assert (found.mean, found.low, found.high) == pytest.approx((self.mean, self.mean - reach, self.mean + reach))
        assert found.confidence == confidence


def less(one: Floats, other: Floats) -> Rows:
    return [[float(one[s, i] - other[s, i]) for i in range(IMAGES)] for s in range(len(one))]


def plus(one: Rows, other: Rows, times: float) -> Rows:
    return [[x + times * y for x, y in zip(*rows, strict=True)] for rows in zip(one, other, strict=True)]


def by_hand(losses: PairLosses) -> tuple[dict[str, Rows], dict[str, Rows], Rows]:
    """Cells, beats and gain."""
    a, b = losses.a, losses.b
    cells = {
        "as_trained": less(a.own, b.own),
        "under_a": less(a.under["a"], b.under["a"]),
        "under_b": less(a.under["b"], b.under["b"]),
        "no_prompt": less(a.under["none"], b.under["none"]),
    }
    a_is_lower = ByHand(cells["as_trained"]).mean <= 0
    if a_is_lower:
        beats = {
            "loser_own": less(a.under["a"], b.under["b"]),
            "loser_same": less(a.under["a"], b.under["a"]),
            "loser_none": less(a.under["a"], b.under["none"]),
        }
    else:
        beats = {
            "loser_own": less(b.under["b"], a.under["a"]),
            "loser_same": less(b.under["b"], a.under["b"]),
            "loser_none": less(b.under["b"], a.under["none"]),
        }
    if losses.same_captions:
        cells["under_a"] = cells["under_b"] = cells["as_trained"]
        beats["loser_own"] = beats["loser_same"] = less(a.own, b.own) if a_is_lower else less(b.own, a.own)
    best = min(losses.base.values(), key=lambda losses_SN: ByHand(losses_SN.tolist()).mean)
    gain = plus(less(best, a.under["a"]), less(best, b.under["b"]), 1)
    return cells, beats, [[each / 2 for each in row] for row in gain]


def compared(losses: PairLosses) -> Compared:
    return compare(losses, GROUPS, CONFIDENCE, SHARE, LEVEL)


CASES = [
    random_losses(seeds, number, same_captions=same_captions, effect=effect)
    for seeds in (1, 3)
    for same_captions in (False, True)
    for number, effect in enumerate((0.05, 0.02, 0.005, -0.002, -0.02, -0.3))
]
all_cases = pytest.mark.parametrize("losses", CASES, ids=range(len(CASES)))


@all_cases
def test_every_interval_is_that_of_its_difference(losses: PairLosses) -> None:
    found = compared(losses)
    cells, beats, gain = by_hand(losses)
    for shown, expected in ((found.cells, cells), (found.beats, beats)):
        assert list(shown) == list(expected)
        for name, each in expected.items():
            ByHand(each).is_interval(shown[name])
    ByHand(gain).is_interval(found.gain)
    ByHand(less(losses.a.start, losses.b.start)).is_interval(found.base_as_trained)
    assert found.as_trained == estimate(losses.a.own - losses.b.own, GROUPS)


@all_cases
def test_what_is_within_the_margin_is_so_by_both_one_sided_tests(losses: PairLosses) -> None:
    found = compared(losses)
    cells, beats, gain = by_hand(losses)
    within = set()
    for name, each in (cells | beats).items():
        above, below = ByHand(plus(each, gain, -SHARE)), ByHand(plus(each, gain, SHARE))
        if above.mean + above.reach(1 - LEVEL) < 0 < below.mean - below.reach(1 - LEVEL):
            within.add(name)
    assert found.within == within
    assert found.margin == pytest.approx(SHARE * ByHand(gain).mean)


def test_the_cases_have_something_within_the_margin_and_something_beyond() -> None:
    found = [compared(losses) for losses in CASES]
    assert any("as_trained" in each.within for each in found)
    assert any(not each.within for each in found)
    assert {each.as_trained.mean <= 0 for each in found} == {True, False}


def test_under_equal_captions_the_adapters_differ_as_trained() -> None:
    for losses in CASES:
        found = compared(losses)
        alike = found.cells["under_a"] == found.cells["under_b"] == found.cells["as_trained"]
        assert alike == losses.same_captions


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_smallest_effect_is_that_of_the_difference_as_trained(seeds: int) -> None:
    losses = random_losses(seeds, 7)
    expected = estimate(losses.a.own - losses.b.own, GROUPS).minimum_detectable(CONFIDENCE)
    assert compared(losses).minimum_detectable == expected
    assert expected is not None


def without_gain(losses: PairLosses, gain: float) -> PairLosses:
    """Losses with a base that both adapters are better than by that on average."""
    own = (losses.a.under["a"] + losses.b.under["b"]) / 2
    noise = np.linspace(-0.01, 0.01, IMAGES)
    base: Mapping[Prompts, Floats] = {"a": own + 1, "b": own + noise - noise.mean() + gain, "none": own + 2}
    return replace(losses, base=base)


def test_without_a_gain_over_the_base_prompted_its_best_there_is_no_margin() -> None:
    losses = random_losses(1, 3, effect=0.0)
    losses = replace(losses, b=replace(losses.b, own=losses.a.own + 1e-9, under=losses.a.under))
    for gain, is_one in ((-0.1, False), (0.0, False), (1e-4, False), (0.1, True)):
        found = compared(without_gain(losses, gain))
        assert found.gain.mean == pytest.approx(gain)
        assert (found.margin is not None) == is_one
        assert bool(found.within) == is_one


def test_there_is_a_gain_where_its_one_sided_bound_is_above_zero() -> None:
    losses = without_gain(random_losses(1, 3), 0.0)
    spread = estimate(losses.base["b"] - (losses.a.under["a"] + losses.b.under["b"]) / 2, GROUPS)
    high = spread.interval(0.9).high
    assert high is not None
    reach = high - spread.mean
    for times, is_one in ((0.999, False), (1.001, True)):
        found = compared(without_gain(losses, times * reach))
        assert (found.margin is not None) == is_one


def test_the_base_is_prompted_its_best() -> None:
    losses = random_losses(3, 5)
    own = (losses.a.under["a"] + losses.b.under["b"]) / 2
    for best in PROMPTS:
        base = {prompts: losses.base[prompts] + (0 if prompts == best else 1) for prompts in PROMPTS}
        found = compared(replace(losses, base=base))
        assert found.gain.mean == pytest.approx((base[best] - own).mean())


@pytest.mark.parametrize("seeds", [1, 3])
def test_adapters_are_unmoved_where_neither_is_told_from_the_base(seeds: int) -> None:
    losses = random_losses(seeds, 9)
    assert not compared(losses).loss_unchanged

    def moved(adapter: AdapterLosses, times: float) -> AdapterLosses:
        """The loss that many times as far from the base's as an interval of 95 % reaches."""
        change = adapter.start - adapter.own
        high = estimate(change, GROUPS).interval(0.95).high
        assert high is not None
        return replace(adapter, own=adapter.own + change.mean() + times * (high - change.mean()))

    for a, b, loss_unchanged in ((0.99, 0.99, True), (0.99, -1.01, False), (1.01, 0.99, False), (-0.99, 0, True)):
        found = compared(replace(losses, a=moved(losses.a, a), b=moved(losses.b, b)))
        assert found.loss_unchanged == loss_unchanged


def test_at_equal_losses_a_stands_for_the_lower_one() -> None:
    losses = random_losses(1, 2)
    losses = replace(losses, b=replace(losses.b, own=losses.a.own))
    found = compared(losses)
    assert found.as_trained.mean == 0
    assert found.beats["loser_own"].mean == pytest.approx((losses.a.under["a"] - losses.b.under["b"]).mean())


def test_exchanging_the_adapters_turns_the_cells_around_and_nothing_else() -> None:
    for losses in CASES:
        base: Mapping[Prompts, Floats] = {"a": losses.base["b"], "b": losses.base["a"], "none": losses.base["none"]}

        def turned(adapter: AdapterLosses) -> AdapterLosses:
            under = adapter.under
            return replace(adapter, under={"a": under["b"], "b": under["a"], "none": under["none"]})

        there, back = (
            compared(losses),
            compared(PairLosses(turned(losses.b), turned(losses.a), base, losses.same_captions)),
        )
        other = {"under_a": "under_b", "under_b": "under_a"}
        assert {other.get(name, name) for name in there.within} == back.within
        assert there.margin == pytest.approx(back.margin)
        for name, cell in there.cells.items():
            assert cell.low == pytest.approx(-(back.cells[other.get(name, name)].high or 0))
        for name, beat in there.beats.items():
            assert (beat.low, beat.high) == pytest.approx((back.beats[name].low, back.beats[name].high))


def test_one_group_of_images_has_differences_and_no_more() -> None:
    losses = random_losses(3, 1)
    found = compare(losses, np.array(["a"] * IMAGES), CONFIDENCE, SHARE, LEVEL)
    shown = (*found.cells.values(), *found.beats.values(), found.gain, found.base_as_trained)
    assert all((each.low, each.high) == (None, None) for each in shown)
    assert (found.margin, found.within, found.loss_unchanged, found.minimum_detectable) == (
        None,
        frozenset(),
        True,
        None,
    )


@pytest.mark.parametrize("side", [1, -1])
def test_a_difference_is_within_a_margin_that_both_bounds_keep(side: int) -> None:
    values = side * (0.3 + np.random.default_rng(2).normal(0, 0.1, (3, IMAGES)))
    found: Estimate = estimate(side * values, GROUPS)
    high = found.interval(1 - 2 * LEVEL).high
    assert high is not None
    assert is_within(values, np.full((3, IMAGES), 1.001 * high), GROUPS, LEVEL)
    assert not is_within(values, np.full((3, IMAGES), 0.999 * high), GROUPS, LEVEL)
