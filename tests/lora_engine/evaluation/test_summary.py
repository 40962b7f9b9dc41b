"""Losses in one number against means worked out by hand, and the choice of the best checkpoint."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from lora_engine.evaluation.loss_file import EvaluationLosses, NotScoredError
from lora_engine.evaluation.statistics import estimate
from lora_engine.evaluation.summary import EARLIER_RULE, RULE, Best, choose_best, choose_lowest, summarise
from lora_engine.records import ValidationRecord

Floats = npt.NDArray[np.float64]

# [component, image, timestep]
LOSSES = np.array(
    [
        [[1, 2, 3, 4], [5, 6, 7, 8]],
        [[100, 200, 300, 400], [500, 600, 700, 800]],
        [[11, 12, 13, 14], [15, 16, 17, 18]],
    ],
    dtype=np.float32,
)
NAMES = ("a", "", "b")
COLUMNS = np.array([[0, 1], [1, 3]])


def losses(array_ENT: npt.NDArray[np.float32], names: Sequence[str], step: int = 7) -> EvaluationLosses:
    _, images, timesteps = array_ENT.shape
    ids = tuple(f"{at}" for at in range(images))
    return EvaluationLosses(step, tuple(names), ids, array_ENT, np.tile(np.arange(timesteps), (images, 1)))


def test_a_summary_of_the_curve_has_one_loss_under_both_names() -> None:
    assert summarise(losses(LOSSES, NAMES), {"a": 0.5, "b": 0.5}, None) == ValidationRecord(
        step=7,
        loss=(4.5 + 14.5) / 2,
        curve_loss=(4.5 + 14.5) / 2,
        timesteps=4,
        images=2,
        caption_sets={"a": 4.5, "": 450.0, "b": 14.5},
    )


def test_a_summary_of_the_final_grid_picks_each_images_own_columns_for_the_curve() -> None:
    assert summarise(losses(LOSSES, NAMES, 0), {"a": 0.5, "b": 0.5}, COLUMNS) == ValidationRecord(
        step=0,
        loss=9.5,
        curve_loss=(1 + 2 + 6 + 8 + 11 + 12 + 16 + 18) / 8,
        timesteps=4,
        images=2,
        caption_sets={"a": 4.5, "": 450.0, "b": 14.5},
    )


def test_a_loss_is_that_of_its_components_alone_by_weight() -> None:
    found = summarise(losses(LOSSES, NAMES), {"": 0.25, "a": 0.75}, COLUMNS)
    assert found.loss == 0.25 * 450 + 0.75 * 4.5
    assert found.curve_loss == 0.25 * (100 + 200 + 600 + 800) / 4 + 0.75 * (1 + 2 + 6 + 8) / 4


def test_captions_that_were_scored_on_the_curve_alone_are_summed_over_that() -> None:
    part = LOSSES.copy()
    part[2] = np.nan
    np.put_along_axis(part[2], COLUMNS, np.take_along_axis(LOSSES[2], COLUMNS, axis=1), axis=1)
    found = summarise(losses(part, NAMES), {"a": 1}, COLUMNS)
    assert found.caption_sets == {"a": 4.5, "": 450.0, "b": (11 + 12 + 16 + 18) / 4}
    with pytest.raises(NotScoredError, match="'b'"):
        summarise(losses(part, NAMES), {"b": 1}, COLUMNS)
    with pytest.raises(NotScoredError, match="'c'"):
        summarise(losses(part, NAMES), {"c": 1}, COLUMNS)


def test_losses_are_summed_in_double_precision() -> None:
    # in single precision, 2^24 + 1 is 2^24
    array = np.array([[[2.0**24, 1.0, 1.0, 1.0]]], dtype=np.float32)
    found = summarise(losses(array, ["a"]), {"a": 1}, np.array([[0, 1, 2, 3]]))
    assert (found.loss, found.curve_loss) == ((2.0**24 + 3) / 4, (2.0**24 + 3) / 4)
    assert found.caption_sets == {"a": (2.0**24 + 3) / 4}


GROUPS = np.array(["a", "b", "c", "c", "d", "e", "f"])
OF_IMAGES = np.array([0.5, 0.1, 0.3, 0.9, 0.4, 0.2, 0.7])  # a loss that images differ in far more than steps
NOISE = np.array([0.01, -0.02, 0.03, 0.0, -0.01, 0.02, -0.03])  # its mean is 0


def curve(**means: float) -> dict[int, Floats]:
    """A loss of each image at the steps `of_<step>`, whose differences are all but noiseless."""
    return {
        int(name.removeprefix("of_")): OF_IMAGES + mean + NOISE * 1e-3 * at
        for at, (name, mean) in enumerate(means.items())
    }


def test_the_best_has_the_lowest_loss_on_the_curve() -> None:
    steps = curve(of_30=0.2, of_0=0.0, of_10=0.3, of_20=0.1)
    value = float(steps[20].mean())
    assert value == pytest.approx(OF_IMAGES.mean() + 0.1)
    assert choose_best(steps, GROUPS) == Best(
        step=20,
        loss=value,
        rule=RULE,
        reason=f"its loss {value:.6f} is the lowest of 3 checkpoints, and is told from every earlier one",
    )


def test_a_single_evaluation_is_the_best() -> None:
    assert choose_best(curve(of_0=0.0, of_1=0.3), GROUPS).step == 1


def test_of_steps_that_are_not_told_from_the_lowest_the_earliest_is_the_best() -> None:
    """An interval of the paired differences says so, whatever lies between."""
    high = estimate(NOISE[np.newaxis], GROUPS).interval(0.95).high
    assert high is not None
    lowest = OF_IMAGES
    told = OF_IMAGES + NOISE + 1.01 * high
    alike = OF_IMAGES + NOISE + 0.99 * high
    steps: Mapping[int, Floats] = {0: lowest - 1, 10: told, 20: alike, 30: told, 40: alike, 50: lowest, 60: alike}
    assert choose_best(steps, GROUPS) == Best(
        step=20,
        loss=float(alike.mean()),
        rule=RULE,
        reason=f"its loss {alike.mean():.6f} is not told from {lowest.mean():.6f} at step 50, the lowest of 6 "
        "checkpoints, and it is the earliest such",
    )
    assert choose_best({step: losses for step, losses in steps.items() if step not in (20, 40)}, GROUPS).step == 50


def test_a_loss_is_told_from_another_by_groups_of_images() -> None:
    """One image in which the steps differ is no reason; ten pictures of it are none, either."""
    one = np.zeros(7)
    one[2] = 1.0
    steps = {10: OF_IMAGES + one, 20: OF_IMAGES}
    assert choose_best(steps, GROUPS).step == 10
    copies, groups = np.repeat(np.arange(7), [1, 1, 10, 1, 1, 1, 1]), np.array([*"abcdefg"])
    many = {step: losses_N[copies] for step, losses_N in steps.items()}
    assert choose_best(many, groups[copies]).step == 10
    assert choose_best(many, np.array([f"{at}" for at in range(16)])).step == 20


def test_of_equal_losses_the_earliest_step_is_the_best() -> None:
    found = choose_best({20: OF_IMAGES, 10: OF_IMAGES, 30: OF_IMAGES}, GROUPS)
    assert found.step == 10
    assert "told from every earlier one" in found.reason


def test_with_few_groups_the_lowest_is_the_best() -> None:
    few = np.array(["a", "b", "c", "c", "d", "e", "e"])
    found = choose_best({10: OF_IMAGES + NOISE + 1e-6, 20: OF_IMAGES, 30: OF_IMAGES}, few)
    assert found == Best(
        step=20,
        loss=float(OF_IMAGES.mean()),
        rule=RULE,
        reason=f"its loss {OF_IMAGES.mean():.6f} is the lowest of 3 checkpoints; too few images to tell any two apart",
    )
    assert choose_best({10: OF_IMAGES + NOISE + 1e-6, 20: OF_IMAGES}, GROUPS).step == 10


def test_the_rules_say_what_counts_as_alike() -> None:
    assert RULE == (
        "lowest curve loss as trained; of the steps whose loss, paired by image, is not told from the lowest at 95%, "
        "the earliest"
    )
    assert EARLIER_RULE == "lowest curve loss; of losses within 0.0001 of the lowest, relatively, the earliest step"


def test_without_a_checkpoint_there_is_no_best() -> None:
    with pytest.raises(ValueError, match="empty"):
        choose_best({0: OF_IMAGES}, GROUPS)
    with pytest.raises(ValueError, match="empty"):
        choose_lowest({0: 0.1})


def test_earlier_versions_chose_the_lowest() -> None:
    assert choose_lowest({0: 0.1, 1: 0.5, 20: 0.25, 30: 0.375}) == Best(
        step=20, loss=0.25, rule=EARLIER_RULE, reason="its loss 0.250000 is the lowest of 3 evaluations"
    )
    assert choose_lowest({0: 0.1, 1: 0.5}).step == 1


def test_earlier_versions_chose_the_earliest_of_losses_within_a_ten_thousandth() -> None:
    tied = 0.5 * (1 + 1e-4)
    assert choose_lowest({30: 0.5, 10: float(np.nextafter(tied, 1)), 40: tied, 20: tied}) == Best(
        step=20,
        loss=tied,
        rule=EARLIER_RULE,
        reason="steps 20, 30, 40 are within 0.0001 of the lowest loss 0.500000, and it is the earliest of them",
    )


def test_two_ties_are_ties() -> None:
    assert choose_lowest({10: 2.0, 20: 2.0}) == Best(
        step=10,
        loss=2.0,
        rule=EARLIER_RULE,
        reason="steps 10, 20 are within 0.0001 of the lowest loss 2.000000, and it is the earliest of them",
    )
