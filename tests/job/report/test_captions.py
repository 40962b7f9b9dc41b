"""Under whose captions adapters are compared: equal ones under two names, mixes and dropout, and other variants'."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from job.layout import Member
from job.report.build import build_comparison
from job.report.schema import Comparison, Interval, Pair
from job.run.losses import read_losses
from tests.job.report.by_hand import assert_holds
from tests.job.report.cases import CASES, DROPPED, MIXED, UNTOUCHED, WHOLE, A, B, C, Levels, uneven
from tests.job.report.made_run import BASE, Design, Floats, MadeRun, Scored, around, make_run

ONE_TEXT = {"name": "one", "captions": {"strategy": "constant", "text": "a drawing"}}
SIDECARS = {"name": "two", "captions": {"strategy": "existing"}}


def a_drawing(_: int) -> str:
    return "a drawing"


def only(found: Comparison) -> Pair:
    (pair,) = found.pairs
    return pair


def test_equal_captions_of_two_strategies_are_scored_once_and_are_one(tmp_path: Path) -> None:
    levels = {BASE: {"one": 1, "": 1.1}, "one": {"one": 0.7, "": 0.8}, "two": {"one": 0.8, "": 0.9}}
    made = make_run(tmp_path, Design([ONE_TEXT, SIDECARS], around(levels), texts=a_drawing))
    found = build_comparison(made.run)
    pair = only(found)
    assert pair.cells is not None
    assert pair.cells.under_a == pair.cells.under_b == pair.cells.as_trained
    assert pair.cells.no_prompt != pair.cells.as_trained
    assert [member.caption_set for member in found.members] == ["one", "two"]
    for member in found.members:
        assert member.caption_sets.keys() == {"one", ""}
        assert member.listening is None  # of a constant there is nothing to listen to
    assert pair.factor == []
    assert pair.verdict is not None
    assert pair.verdict.code == "lower"
    assert pair.base_as_trained is not None
    assert (pair.base_as_trained.mean, pair.base_as_trained.low, pair.base_as_trained.high) == (0, 0, 0)


def test_equal_captions_stand_at_the_final_timesteps_in_all_three_cells(tmp_path: Path) -> None:
    """The cell under a's captions is not that of the curve's timesteps, which would be another number."""
    made = make_run(tmp_path, Design([ONE_TEXT, SIDECARS], uneven, groups=range(14), texts=a_drawing, settings=WHOLE))
    pair = only(build_comparison(made.run))
    one, two = (read_losses(made.run, Member(variant, 1), 4) for variant in ("one", "two"))
    at = one.components.index("one")
    whole = (one.losses_ENT[at] - two.losses_ENT[at]).astype(float)
    assert pair.cells is not None
    assert pair.cells.under_a.mean == pytest.approx(whole.mean(), rel=1e-5)
    on_curve = np.take_along_axis(whole, made.held_out.curve_NC, axis=1).mean()
    assert pair.cells.under_a.mean != pytest.approx(on_curve, rel=1e-2)


def test_captions_that_differ_on_training_images_alone_are_a_factor(tmp_path: Path) -> None:
    def texts(number: int) -> str:
        return "a drawing" if number < 12 else f"drawing {number}"

    levels = {BASE: {"one": 1, "": 1.1}, "one": {"one": 0.7, "": 0.8}, "two": {"one": 0.8, "": 0.9}}
    made = make_run(tmp_path, Design([ONE_TEXT, SIDECARS], around(levels), texts=texts))
    pair = only(build_comparison(made.run))
    assert pair.factor == ["captions"]
    assert pair.cells is not None
    assert pair.cells.under_a == pair.cells.under_b == pair.cells.as_trained


def test_mixes_and_dropout_are_means_over_fixed_components_by_weight(tmp_path: Path) -> None:
    levels: dict[str, Levels] = {
        BASE: {"mixed part 1": 1, "mixed part 2": 2, "": 3},
        "mixed": {"mixed part 1": 0.1, "mixed part 2": 0.3, "": 0.5},
        "dropped": {"mixed part 1": 0.2, "mixed part 2": 0.5, "": 0.9},
    }
    made = make_run(tmp_path, Design([MIXED, DROPPED], around(levels, noise=0)))
    found = build_comparison(made.run)
    mixed, dropped = found.members
    pair = only(found)
    # three quarters see a part, two thirds of them the first; a quarter, or a tenth, sees the empty prompt
    own, others = 0.5 * 0.1 + 0.25 * 0.3 + 0.25 * 0.5, 0.9 * 0.2 + 0.1 * 0.9
    assert mixed.final_loss == pytest.approx(own, rel=1e-6)
    assert dropped.final_loss == pytest.approx(others, rel=1e-6)
    assert mixed.base_loss == pytest.approx(0.5 * 1 + 0.25 * 2 + 0.25 * 3, rel=1e-6)
    assert pair.cells is not None
    assert pair.beats is not None
    assert pair.gain is not None
    assert pair.cells.as_trained.mean == pytest.approx(own - others, rel=1e-5)
    assert pair.cells.under_a.mean == pytest.approx(own - (0.5 * 0.2 + 0.25 * 0.5 + 0.25 * 0.9), rel=1e-5)
    assert pair.cells.under_b.mean == pytest.approx(0.9 * 0.1 + 0.1 * 0.5 - others, rel=1e-5)
    assert pair.cells.no_prompt.mean == pytest.approx(0.5 - 0.9, rel=1e-5)
    assert pair.beats.loser_same.mean == pytest.approx(own - (0.5 * 0.2 + 0.25 * 0.5 + 0.25 * 0.9), rel=1e-5)
    assert pair.beats.loser_none.mean == pytest.approx(own - 0.9, rel=1e-5)
    assert pair.gain.mean == pytest.approx(0.9 * 1 + 0.1 * 3 - (own + others) / 2, rel=1e-5)  # the base prompted as b
    curve = {point.step: point.caption_sets.keys() for point in mixed.validation}
    assert curve[2] == {"mixed part 1", "mixed part 2", ""}
    assert pair.factor == ["captions"]
    assert {point.step: point.caption_sets.keys() for point in dropped.validation}[2] == {"mixed part 1", ""}


def test_dropout_alone_is_a_difference_of_captions(tmp_path: Path) -> None:
    levels: dict[str, Levels] = {BASE: {"a": 1, "": 1}, "a": {"a": 0.7, "": 0.8}, "dropped": {"a": 0.7, "": 0.75}}
    found = build_comparison(make_run(tmp_path, Design([A, DROPPED], around(levels))).run)
    assert [member.caption_set for member in found.members] == ["a", "a"]
    assert only(found).factor == ["captions"]


def renamed(scored: Scored) -> Floats:
    """Uneven losses of the texts, whichever variant's name they have: c has the captions of a."""
    component = "a" + scored.component[1:] if scored.component.startswith("c") else scored.component
    return uneven(Scored(scored.variant, scored.seed, scored.step, component))


TWIN = {"name": "c", "captions": {"strategy": "existing", "style_hints": "", "hints_position": "first"}}  # a's texts


def estimates(found: Comparison) -> list[tuple[Any, ...]]:
    """Of each row of a and b, all that other variants must leave as it is: means, standard errors, gain and margin."""
    rows = [pair for pair in found.pairs if (pair.a, pair.b) == ("a", "b")]
    result = []
    for row in rows:
        assert row.cells is not None
        assert row.beats is not None
        assert row.best_as_trained is not None
        assert row.base_as_trained is not None
        assert row.gain is not None
        assert row.margin is not None
        shown: list[Interval] = [row.base_as_trained, row.best_as_trained, row.gain]
        shown += [getattr(row.cells, name) for name in type(row.cells).model_fields]
        shown += [getattr(row.beats, name) for name in type(row.beats).model_fields]
        errors = [standard_error(each, row.groups) for each in shown if row.seed is not None]
        numbers = [row.margin, row.skew, *(each.mean for each in shown), *errors]
        result.append((row.seed, row.images, row.groups, row.factor, row.like_for_like, *numbers))
    return result


def standard_error(shown: Interval, groups: int) -> float:
    """That of one seed and groups of one image each."""
    assert shown.high is not None
    return (shown.high - shown.mean) / float(stats.t.ppf((1 + shown.confidence) / 2, groups - 1))


@pytest.mark.parametrize(
    ("others", "seeds"),
    [([A, B, C], [1]), ([TWIN, A, B], [1, 2, 3]), ([A, C, B, {**TWIN, "name": "d"}], [1])],
    ids=["a third", "a first with the same captions", "two, between and after"],
)
def test_no_estimate_of_a_pair_depends_on_the_other_variants(
    tmp_path: Path, others: Sequence[dict[str, Any]], seeds: Sequence[int]
) -> None:
    def made(name: str, variants: Sequence[dict[str, Any]], *settings: str) -> Comparison:
        design = Design(variants, renamed, seeds, range(14), settings=[*WHOLE, *settings])
        return build_comparison(make_run(tmp_path / name, design).run)

    alone, among = made("alone", [A, B]), made("among", others)
    assert len(among.pairs) > len(alone.pairs)
    for left, right in zip(estimates(alone), estimates(among), strict=True):
        assert left[:5] == right[:5]
        assert right[5:] == pytest.approx(left[5:], rel=1e-12, abs=1e-12)

    # The levels, and with them intervals and verdicts, are the same where as many pairs are compared.
    asked = made("asked", others, "evaluation.pairs=[[a, b]]")
    assert len(asked.pairs) == len(alone.pairs)
    for left_pair, right_pair in zip(alone.pairs, asked.pairs, strict=True):
        assert_holds(right_pair.model_dump(), left_pair.model_dump(), rel=1e-12)


# --- listening ---


def test_an_adapter_that_has_stopped_reading_its_prompt_is_flagged(tmp_path: Path) -> None:
    levels: dict[str, Any] = {
        BASE: {"a": 1, "b": 1, "": 1, "shuffled": 0.2},
        "a": {"a": 0.7, "b": 0.7, "": 0.8, "shuffled": 0.1},
        "b": {"a": 0.7, "b": 0.7, "": 0.8, "shuffled": 0.02},
    }
    found = build_comparison(make_run(tmp_path, Design([A, B], around(levels), (1, 2))).run)
    for member in found.members:
        assert member.listening is not None
        assert member.listening.confidence == pytest.approx(1 - 0.05 / 4)
        assert member.listening.base == pytest.approx(0.2, abs=0.01)
        assert member.listening.images == 12
    assert [m.listening.flagged for m in found.members if m.listening] == [False, False, True, True]
    notes = [note for note in found.notes if "has stopped reading its prompt" in note]
    assert [note.partition(" has")[0] for note in notes] == ["b, seed 1,", "b, seed 2,"]


def test_an_adapter_is_shown_the_captions_to_which_the_base_listens_most(tmp_path: Path) -> None:
    def losses(scored: Scored) -> Floats:
        cost = {"a shuffled": 0.1, "b shuffled": 0.3}.get(scored.component, 0.0)
        prompt = scored.component.removesuffix(" shuffled")
        levels = {who: {prompt: level + cost, "shuffled": 0} for who, level in ((BASE, 1), ("a", 0.7), ("b", 0.7))}
        return around(levels)(scored)

    found = build_comparison(make_run(tmp_path, Design([A, B], losses)).run)
    assert [member.listening.set for member in found.members if member.listening] == ["b", "b"]
    assert all("a shuffled" not in member.caption_sets for member in found.members)


def test_images_that_keep_their_caption_when_captions_are_shuffled_do_not_count(tmp_path: Path) -> None:
    """Eight of twelve images show one text, of which four go to those that show another."""

    def texts(number: int) -> str:
        return "a drawing" if number < 8 else f"drawing {number}"

    levels = {BASE: {**UNTOUCHED, "shuffled": 0.2}, "a": {**UNTOUCHED, "shuffled": 0.2}}
    made = make_run(tmp_path, Design([A], around(levels), texts=texts))
    member = build_comparison(made.run).members[0]
    before, after = (made.held_out.components.texts[name] for name in ("a", "a shuffled"))
    moved = [number for number in range(12) if before[number] != after[number]]
    assert len(moved) == 8
    assert member.listening is not None
    assert member.listening.images == 8
    base = read_losses(made.run, Member("a", 1), 0)
    cost_N = base.per_image({"a shuffled": 1}, made.held_out.curve_NC) - base.per_image(
        {"a": 1}, made.held_out.curve_NC
    )
    assert member.listening.base == pytest.approx(cost_N[moved].mean(), rel=1e-12)


@pytest.mark.parametrize("cost", [-0.1, 0.0])
def test_where_the_base_reads_no_captions_nothing_is_said_of_adapters(tmp_path: Path, cost: float) -> None:
    levels = {BASE: {**UNTOUCHED, "shuffled": cost}, "a": CASES["lower, however prompted"].a}
    member = build_comparison(make_run(tmp_path, Design([A], around(levels, 0.05))).run).members[0]
    assert member.listening is None


# --- the best checkpoint ---


def best_of(made: MadeRun) -> tuple[int, str]:
    best = build_comparison(made.run).members[0].best
    assert best is not None
    assert best.reason is not None
    return best.step, best.reason


@pytest.mark.parametrize(
    ("by_step", "step", "reason"),
    [
        ({2: 0.80, 4: 0.70, 6: 0.60, 8: 0.50}, 8, "is the lowest of 4 checkpoints, and is told from every earlier one"),
        ({2: 0.80, 4: 0.50, 6: 0.50, 8: 0.60}, 4, "the lowest of 4 checkpoints"),
        ({2: 0.50, 4: 0.60, 6: 0.70, 8: 0.80}, 2, "is the lowest of 4 checkpoints, and is told from every earlier one"),
        (
            {2: 0.5001, 4: 0.60, 6: 0.5, 8: 0.5},
            2,
            "at step 6, the lowest of 4 checkpoints, and it is the earliest such",
        ),
    ],
)
def test_the_best_checkpoint_knows_the_noise(tmp_path: Path, by_step: dict[int, float], step: int, reason: str) -> None:
    def losses(scored: Scored) -> Floats:
        return around({scored.variant or BASE: dict.fromkeys(["a", ""], by_step.get(scored.step, 1.0))})(scored)

    settings = ["training.steps=8", "evaluation.every=2"]
    found, said = best_of(make_run(tmp_path, Design([A], losses, settings=settings)))
    assert found == step
    assert reason in said


def test_the_best_and_the_lowest_are_worth_keeping(tmp_path: Path) -> None:
    """Step 4 is the lowest, step 2 not told from it, the base model lower than both."""
    held_out = make_run(tmp_path, Design([A], around({BASE: {"a": 1, "": 1}, "a": {"a": 0.5, "": 0.5}}))).held_out
    noise = np.where(np.arange(len(held_out.image_ids)) % 2, 0.01, -0.01)
    level = np.full(len(noise), 0.5)
    losses = {0: level - 0.4, 2: level + noise + 1e-6, 4: level, 6: level + 0.3, 8: level + 0.2}
    best = held_out.choose_best(losses)
    assert best is not None
    assert best.step == 2
    assert held_out.worth_keeping(losses) == {2, 4}
    assert held_out.worth_keeping({8: losses[8], 6: losses[6]}) == {8}
    assert held_out.worth_keeping({0: losses[0]}) == set()
    assert held_out.worth_keeping({}) == set()


def test_best_against_best_is_chosen_on_one_half_of_the_groups_and_scored_on_the_other(tmp_path: Path) -> None:
    """At step 2 an adapter is good at the even groups, at step 4 at the odd: a choice by half is always wrong."""

    def losses(scored: Scored) -> Floats:
        number = np.arange(24)
        good = (number % 2 == 0) if scored.step == 2 else (number % 2 == 1)
        found: Floats = around({scored.variant or BASE: {"a": 0.5, "b": 0.5, "": 0.5, "shuffled": 0}}, images=24)(
            scored
        )
        return found - 0.3 * good[:, np.newaxis] if scored.variant == "a" else found

    made = make_run(tmp_path, Design([A, B], losses, groups=range(24)))
    pair = only(build_comparison(made.run))
    assert pair.cells is not None
    assert pair.best_as_trained is not None
    assert pair.cells.as_trained.mean == pytest.approx(-0.15, abs=0.002)
    assert pair.best_as_trained.mean == pytest.approx(0, abs=0.002)
