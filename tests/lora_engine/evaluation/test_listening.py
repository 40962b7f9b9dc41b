"""What another image's caption costs, against numbers worked out by hand and intervals of `statistics`."""

import numpy as np
import numpy.typing as npt
import pytest

from lora_engine.evaluation.components import NO_PROMPT, Components, shuffle
from lora_engine.evaluation.listening import Listening, cost_of_shuffling, listening, most_listened
from lora_engine.evaluation.loss_file import EvaluationLosses, NotScoredError
from lora_engine.evaluation.statistics import estimate

Floats = npt.NDArray[np.float64]

IDS = tuple("abcdefgh")
GROUPS = np.array(["a", "b", "c", "c", "d", "e", "f", "g"])
TEXTS = {"x": ("1", "2", "3", "4", "5", "6", "7", "8"), "y": ("1", "1", "1", "1", "1", "2", "3", "4")}
MOVED = {name: shuffle(texts, IDS) for name, texts in TEXTS.items()}
COMPONENTS = Components(
    {
        "x": TEXTS["x"],
        "y": TEXTS["y"],
        "x shuffled": MOVED["x"],
        "y shuffled": MOVED["y"],
        "z": ("constant",) * 8,
        NO_PROMPT: ("",) * 8,
    },
    {"v": {"x": 1.0}, "w": {"y": 1.0}, "u": {"z": 1.0}},
    {"x": "x shuffled", "y": "y shuffled"},
)
CURVE_NC = np.array([[0, 2], [1, 3], [0, 2], [1, 3], [0, 2], [1, 3], [0, 2], [1, 3]])
COST = np.array([0.3, 0.1, 0.2, 0.25, 0.3, 0.15, 0.2, 0.1])  # of shuffling, for the base


def losses(costs: dict[str, Floats], step: int = 0) -> EvaluationLosses:
    """Losses that these costs are the mean of, on the curve; elsewhere `y` would be what costs the most."""
    names, arrays = [], []
    for name, cost_N in costs.items():
        own = 0.5 + np.random.default_rng(len(name)).normal(0, 0.1, (8, 4))
        moved = own + (77.0 if name == "y" else -77.0)
        moved_on_curve = np.take_along_axis(own, CURVE_NC, axis=1) + cost_N[:, np.newaxis] + np.array([-0.01, 0.01])
        np.put_along_axis(moved, CURVE_NC, moved_on_curve, axis=1)
        names += [name, f"{name} shuffled"]
        arrays += [own, moved]
    timesteps = np.tile(np.arange(4), (8, 1))
    return EvaluationLosses(step, tuple(names), IDS, np.stack(arrays).astype(np.float32), timesteps)


BASE = losses({"x": COST, "y": COST / 2})


def heard(own_N: Floats, base: EvaluationLosses = BASE, confidence: float = 0.95) -> Listening | None:
    return listening(losses({"x": own_N, "y": own_N}, 100), base, COMPONENTS, CURVE_NC, GROUPS, confidence)


def test_the_cost_is_that_of_the_images_that_can_have_another_caption_on_the_curve() -> None:
    assert cost_of_shuffling(BASE, COMPONENTS, "x", CURVE_NC) == pytest.approx(COST, abs=1e-6)
    # Of eight images, five show the same text, so that two of these keep it.
    kept = np.array([one == other for one, other in zip(TEXTS["y"], MOVED["y"], strict=True)])
    assert kept.sum() == 2
    assert cost_of_shuffling(BASE, COMPONENTS, "y", CURVE_NC) == pytest.approx(COST[~kept] / 2, abs=1e-6)


def test_the_base_listens_most_where_shuffling_costs_it_most_on_average() -> None:
    assert most_listened(BASE, COMPONENTS, CURVE_NC) == "x"
    assert most_listened(losses({"x": COST, "y": 2 * COST}), COMPONENTS, CURVE_NC) == "y"
    assert most_listened(losses({"x": -2 * COST, "y": -COST}), COMPONENTS, CURVE_NC) == "y"


def test_where_every_caption_is_constant_nothing_is_listened_to() -> None:
    constant = Components({"z": ("constant",) * 8, NO_PROMPT: ("",) * 8}, {"u": {"z": 1.0}}, {})
    base = EvaluationLosses(0, ("z",), IDS, np.zeros((1, 8, 4), np.float32), np.tile(np.arange(4), (8, 1)))
    assert most_listened(base, constant, CURVE_NC) is None
    assert listening(base, base, constant, CURVE_NC, GROUPS, 0.95) is None


@pytest.mark.parametrize("confidence", [0.8, 0.99])
def test_an_adapter_listens_with_the_interval_of_its_own_cost(confidence: float) -> None:
    own = 0.9 * COST + np.linspace(-0.01, 0.01, 8)
    found = heard(own, confidence=confidence)
    assert found is not None
    expected = estimate(own[np.newaxis], GROUPS).interval(confidence)
    assert (found.component, found.images, found.flagged) == ("x", 8, False)
    assert found.base == pytest.approx(COST.mean(), rel=1e-6)
    assert found.own.confidence == confidence
    assert (found.own.mean, found.own.low, found.own.high) == pytest.approx(
        (expected.mean, expected.low, expected.high), rel=1e-5
    )


def test_images_that_keep_their_caption_and_their_groups_do_not_count() -> None:
    found = heard(COST, losses({"x": COST / 10, "y": COST}))
    assert found is not None
    changed = np.array([one != other for one, other in zip(TEXTS["y"], MOVED["y"], strict=True)])
    expected = estimate(COST[np.newaxis, changed], GROUPS[changed]).interval(0.95)
    assert (found.component, found.images) == ("y", 6)
    assert found.base == pytest.approx(COST[changed].mean(), rel=1e-6)
    assert (found.own.low, found.own.high) == pytest.approx((expected.low, expected.high), rel=1e-5)


def test_an_adapter_has_stopped_listening_where_it_surely_hears_less_than_a_quarter_of_the_base() -> None:
    """The interval is that of its cost less a quarter of the base's, image by image."""
    noise = np.array([0.02, -0.02, 0.01, -0.01, 0.03, -0.03, 0.0, 0.0])
    high = estimate(noise[np.newaxis], GROUPS).interval(0.95).high
    assert high is not None
    for excess, flagged in ((-1.01 * high, True), (-0.99 * high, False), (0.0, False), (1.01 * high, False)):
        found = heard(0.25 * COST + noise - noise.mean() + excess)
        assert found is not None
        assert found.flagged == flagged
    deaf = heard(np.zeros(8))
    assert deaf is not None
    assert deaf.flagged
    assert deaf.own.mean == pytest.approx(0, abs=1e-6)


def test_nothing_is_said_of_listening_where_the_base_does_not_surely_listen() -> None:
    noise = np.array([0.02, -0.02, 0.01, -0.01, 0.03, -0.03, 0.0, 0.0])
    high = estimate(noise[np.newaxis], GROUPS).interval(0.95).high
    assert high is not None
    for level, is_heard in ((0.99 * high, False), (1.01 * high, True), (-10 * high, False)):
        base = losses({"x": noise - noise.mean() + level, "y": np.full(8, level / 2 if level > 0 else 2 * level)})
        assert (heard(COST, base) is not None) == is_heard


def test_two_images_of_one_group_say_nothing() -> None:
    """There is no interval, so that nobody knows whether the base listens."""
    one_group = np.array(["a"] * 8)
    assert listening(BASE, BASE, COMPONENTS, CURVE_NC, one_group, 0.95) is None


def test_what_was_not_scored_cannot_be_listened_to() -> None:
    other = losses({"y": COST}, 100)
    with pytest.raises(NotScoredError, match="'x"):
        listening(other, BASE, COMPONENTS, CURVE_NC, GROUPS, 0.95)
    with pytest.raises(NotScoredError, match="'x"):
        most_listened(other, COMPONENTS, CURVE_NC)
