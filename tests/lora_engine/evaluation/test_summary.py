"""Losses in one number against means worked out by hand, and the choice of the best checkpoint."""

import numpy as np
import pytest

from lora_engine.evaluation.summary import RULE, Best, choose_best, primary_losses, summarise
from lora_engine.records import ValidationRecord

# [caption set, image, timestep]
LOSSES = np.array(
    [
        [[1, 2, 3, 4], [5, 6, 7, 8]],
        [[100, 200, 300, 400], [500, 600, 700, 800]],
        [[11, 12, 13, 14], [15, 16, 17, 18]],
    ],
    dtype=np.float32,
)
SETS = ["a", "", "b"]


def record(step: int, loss: float, curve_loss: float) -> ValidationRecord:
    return ValidationRecord(step, loss, curve_loss, 4, 8, {})


def test_the_primary_losses_are_those_under_a_prompt() -> None:
    assert primary_losses(LOSSES, SETS).tolist() == [LOSSES[0].tolist(), LOSSES[2].tolist()]


def test_a_summary_of_the_curve_has_one_loss_under_both_names() -> None:
    assert summarise(7, LOSSES, SETS, None) == ValidationRecord(
        step=7,
        loss=(4.5 + 14.5) / 2,
        curve_loss=(4.5 + 14.5) / 2,
        timesteps=4,
        images=2,
        caption_sets={"a": 4.5, "": 450.0, "b": 14.5},
    )


def test_a_summary_of_the_final_grid_picks_each_images_own_columns_for_the_curve() -> None:
    found = summarise(0, LOSSES, SETS, np.array([[0, 1], [1, 3]]))
    assert found == ValidationRecord(
        step=0,
        loss=9.5,
        curve_loss=(1 + 2 + 6 + 8 + 11 + 12 + 16 + 18) / 8,
        timesteps=4,
        images=2,
        caption_sets={"a": 4.5, "": 450.0, "b": 14.5},
    )


def test_losses_are_summed_in_double_precision() -> None:
    # in single precision, 2^24 + 1 is 2^24
    losses = np.array([[[2.0**24, 1.0, 1.0, 1.0]]], dtype=np.float32)
    found = summarise(1, losses, ["a"], np.array([[0, 1, 2, 3]]))
    assert (found.loss, found.curve_loss) == ((2.0**24 + 3) / 4, (2.0**24 + 3) / 4)
    assert found.caption_sets == {"a": (2.0**24 + 3) / 4}


def test_the_best_has_the_lowest_loss_on_the_curve() -> None:
    records = [record(0, 0.0, 0.1), record(1, 0.1, 0.5), record(20, 0.9, 0.25), record(30, 0.2, 0.375)]
    assert choose_best(records) == Best(
        step=20, loss=0.25, rule=RULE, reason="its loss 0.250000 is the lowest of 3 evaluations"
    )
    assert choose_best(records[:2]).step == 1


def test_of_losses_within_a_ten_thousandth_the_earliest_step_is_the_best() -> None:
    tied = 0.5 * (1 + 1e-4)
    records = [record(30, 0, 0.5), record(10, 0, np.nextafter(tied, 1)), record(40, 0, tied), record(20, 0, tied)]
    assert choose_best(records) == Best(
        step=20,
        loss=tied,
        rule=RULE,
        reason="steps 30, 40, 20 are within 0.0001 of the lowest loss 0.500000, and it is the earliest of them",
    )


def test_two_ties_are_ties() -> None:
    assert choose_best([record(10, 0, 2.0), record(20, 0, 2.0)]) == Best(
        step=10,
        loss=2.0,
        rule=RULE,
        reason="steps 10, 20 are within 0.0001 of the lowest loss 2.000000, and it is the earliest of them",
    )


def test_the_rule_names_what_counts_as_a_tie() -> None:
    assert RULE == "lowest curve loss; of losses within 0.0001 of the lowest, relatively, the earliest step"


def test_without_a_checkpoint_there_is_no_best() -> None:
    with pytest.raises(ValueError, match="empty"):
        choose_best([record(0, 0.1, 0.1)])
