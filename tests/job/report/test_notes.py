"""What a report says beside its verdicts, and studies at the edge of what can be compared."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from job import layout
from job.layout import Member
from job.report.build import build_comparison
from job.report.schema import Comparison, report_schema
from tests.job.report.cases import CASES, UNTOUCHED, WHOLE, A, B, Levels, uneven
from tests.job.report.made_run import BASE, Design, Floats, Losses, Scored, around, make_run

LOWER = CASES["lower, however prompted"]
EMPTY = {"name": "empty", "captions": {"strategy": "constant", "text": ""}}


def report(folder: Path, variants: Sequence[Mapping[str, Any]], losses: Losses, **more: Any) -> Comparison:
    """The report of a run that is made so, once it is known to hold to its schema."""
    found = build_comparison(make_run(folder, Design(variants, losses, **more)).run)
    jsonschema.validate(found.model_dump(mode="json"), report_schema())
    return found


def test_a_few_images_that_decide_a_difference_are_noted(tmp_path: Path) -> None:
    def losses(scored: Scored) -> Floats:
        found = LOWER.losses(scored)
        return found + np.where(np.arange(12) == 7, 0.5 if scored.variant == "b" else 0, 0)[:, np.newaxis]

    found = report(tmp_path, [A, B], losses)
    (note,) = (note for note in found.notes if "strongly skewed" in note)
    assert note.startswith("The difference of a and b, seed 1, is strongly skewed over the held-out images (skew -")
    assert not any("skewed" in note for note in report(tmp_path / "other", [A, B], LOWER.losses).notes)


def test_what_packs_differ_in_is_noted(tmp_path: Path) -> None:
    found = report(tmp_path, [A, {**B, "training": {"batch_size": 3}}], LOWER.losses)
    assert [pack.members for pack in found.packs] == [["a/seed-1"], ["b/seed-1"]]
    assert found.packs[1].differs == ["training.batch_size"]
    assert (
        "Some pairs differ in more than one thing (captions, training.batch_size), so what made it cannot be told."
        in found.notes
    )
    assert found.timing.keys() == {"prepare", "pack-0", "pack-1"}


def test_a_store_that_keeps_no_second_writer_out_is_noted(tmp_path: Path) -> None:
    made = make_run(tmp_path, Design([A, B], LOWER.losses))
    made.edit(layout.RESOLVED, fenced=False)
    assert any(note.startswith("The store ignores conditional writes") for note in build_comparison(made.run).notes)


def test_packs_of_their_own_change_nothing_but_the_packs(tmp_path: Path) -> None:
    together = report(tmp_path / "one", [A, B], LOWER.losses, seeds=(1, 2, 3))
    apart = report(tmp_path / "two", [A, B], LOWER.losses, seeds=(1, 2, 3), settings=["split_packs_by=[seed]"])
    assert len(apart.packs) == 3
    by_seed = [(m.variant, m.seed) for m in apart.members]
    assert by_seed == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3), ("b", 3)]
    assert apart.pairs == together.pairs
    assert apart.verdict == together.verdict


@pytest.mark.parametrize(("margin", "code"), [(0.1, "lower"), (0.3, "lower"), (0.5, "different_within_margin")])
def test_the_margin_is_the_share_of_the_gain_that_the_manifest_says(tmp_path: Path, margin: float, code: str) -> None:
    found = report(tmp_path, [A, B], LOWER.losses, settings=[f"evaluation.equivalence_margin={margin}"])
    (pair,) = found.pairs
    assert pair.gain is not None
    assert pair.margin == pytest.approx(margin * pair.gain.mean)
    assert pair.gain.mean == pytest.approx(0.25, abs=0.001)
    assert pair.verdict is not None
    assert pair.verdict.code == code
    if code != "lower":
        assert "within 50% of the gain" in pair.verdict.sentence


def test_an_adapter_alone_that_diverged(tmp_path: Path) -> None:
    losses = around({BASE: UNTOUCHED, "a": LOWER.a})
    found = report(tmp_path, [A], losses, seeds=(1, 2), diverged={Member("a", 2): 3})
    assert found.verdict.sentence.startswith("Training lowered the loss of a (seed 1) as trained: -0.3 [")
    assert found.verdict.sentence.endswith("a (seed 2) diverged at step 3.")


def test_adapters_that_all_diverged_have_a_report_without_numbers(tmp_path: Path) -> None:
    diverged = {Member(variant, seed): 1 for variant in "ab" for seed in (1, 2, 3)}
    found = report(tmp_path, [A, B], LOWER.losses, seeds=(1, 2, 3), diverged=diverged)
    row = found.pairs[-1]
    assert (row.seed, row.seeds, row.cells, row.minimum_detectable) == (None, 0, None, None)
    assert row.verdict is not None
    assert row.verdict.code == "withheld"
    assert found.verdict.sentence == "a, seed 1, diverged at step 1: a and b are not compared; no verdict."


def test_an_empty_caption_is_the_empty_prompt(tmp_path: Path) -> None:
    """And is scored once, though it is trained with, compared with and shown for its own sake."""
    levels: dict[str, Levels] = {BASE: {"a": 1, "": 1}, "a": {"a": 0.7, "": 0.8}, "empty": {"a": 0.75, "": 0.75}}
    found = report(tmp_path, [A, EMPTY], around(levels))
    a, empty = found.members
    assert a.caption_sets.keys() == {"a", "", "a shuffled"}
    assert empty.caption_sets.keys() == {"a", "", "a shuffled"}
    (pair,) = found.pairs
    assert pair.cells is not None
    assert pair.cells.under_b.mean == pair.cells.no_prompt.mean
    assert pair.cells.as_trained.mean == pytest.approx(-0.05, abs=0.002)


@pytest.mark.parametrize("strata", [1, 4])
def test_a_curve_of_all_final_timesteps(tmp_path: Path, strata: int) -> None:
    settings = [f"evaluation.timesteps={strata}", f"evaluation.final_timesteps={strata}"]
    found = report(tmp_path, [A, B], LOWER.losses, settings=settings)
    for member in found.members:
        assert member.curve_base_loss == member.base_loss
        assert member.validation[-1].curve_loss == member.validation[-1].loss
        assert len(member.timesteps) == strata
    assert found.pairs[0].verdict is not None
    assert found.pairs[0].verdict.code == "lower"


@pytest.mark.parametrize("images", [1, 2])
def test_one_or_two_images(tmp_path: Path, images: int) -> None:
    losses = around({BASE: UNTOUCHED, "a": LOWER.a, "b": LOWER.b}, images=images)
    found = report(tmp_path, [A, B], losses, groups=range(images))
    (pair,) = found.pairs
    assert pair.verdict is not None
    assert (pair.verdict.code, pair.verdict.more_images) == ("cannot_tell", 6 - images)
    assert pair.cells is not None
    assert (pair.cells.as_trained.low is None) == (images == 1)
    assert (pair.best_as_trained is None) == (images == 1)
    assert (pair.minimum_detectable is None) == (images == 1)


def test_a_study_that_compares_no_pair_says_what_each_adapter_gained(tmp_path: Path) -> None:
    found = report(tmp_path, [A, B], LOWER.losses, settings=["evaluation.pairs=[]"])
    assert found.pairs == []
    assert "Training lowered the loss of a (seed 1)" in found.verdict.sentence
    assert "Training lowered the loss of b (seed 1)" in found.verdict.sentence


def test_training_losses_are_means_over_windows_of_at_most_a_hundred(tmp_path: Path) -> None:
    settings = ["training.steps=205", "evaluation.every=205"]
    member = report(tmp_path, [A], LOWER.losses, settings=settings, skipped={Member("a", 1): 4}).members[0]
    assert len(member.train) == 69  # of three steps each, the last of one
    assert [point.step for point in member.train[:2]] == [3, 6]
    assert member.train[0].loss is None  # its updates were refused
    assert member.train[1].loss == pytest.approx(1 + (1 / 5 + 1 / 6) / 2)
    assert member.train[-1].step == 205
    assert member.train[-1].loss == pytest.approx(1 + 1 / 205)


def test_losses_at_timesteps_of_their_own_are_not_those_of_the_curve(tmp_path: Path) -> None:
    found = report(tmp_path, [A, B], uneven, groups=range(14), settings=WHOLE)
    for member in found.members:
        assert member.curve_base_loss != pytest.approx(member.base_loss, rel=1e-3)
        assert member.base_loss == pytest.approx(np.mean([bin_.base for bin_ in member.timesteps]))
