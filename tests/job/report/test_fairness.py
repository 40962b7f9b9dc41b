"""What withholds a verdict: hashes that nothing explains, adapters that diverged, updates that were refused."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from job import layout
from job.layout import Member
from job.report.build import build_comparison
from job.report.schema import Comparison, Pair
from tests.job.report.cases import CASES, SAME_CAPTIONS, UNTOUCHED, A, B, C
from tests.job.report.made_run import BASE, Design, MadeRun, around, make_run

LOWER = CASES["lower, however prompted"]
THREE: dict[str, Any] = {
    BASE: {"a": 1, "b": 1, "c": 1, "": 1},
    "a": {"a": 0.70, "b": 0.72, "c": 0.72, "": 0.74},
    "b": {"a": 0.80, "b": 0.80, "c": 0.80, "": 0.80},
    "c": {"a": 0.90, "b": 0.90, "c": 0.90, "": 0.90},
}
WORDS = {
    "initial_weights_sha256": "initial weights",
    "order_sha256": "order of images",
    "timesteps_sha256": "timesteps",
    "noise_sha256": "noise",
}
HASHES = list(WORDS)


def alter(made: MadeRun, field: str, member: Member, row: int = 2) -> None:
    """Write another hash: of the initial weights into all commits, or of a draw into one row of the metrics."""
    if field != HASHES[0]:
        made.edit_row(layout.metrics(member), row, **{field: "0" * 64})
        return
    for step in (2, 4):
        made.edit(f"{layout.checkpoint(member, step)}/{layout.COMMIT_NAME}", initial_weights_sha256="0" * 64)


def reports_with_each_hash_altered(made: MadeRun, member: Member) -> Iterator[tuple[str, Comparison]]:
    """Each hash, and the report in which it alone is another one."""
    files = {key: made.run.read(key) or b"" for key, _ in made.run.list(layout.member(member))}
    for field in HASHES:
        alter(made, field, member)
        yield field, build_comparison(made.run)
        for key, data in files.items():
            if made.run.read(key) != data:
                made.run.write(key, data)


def rows(found: Comparison) -> dict[tuple[str, str, int | None], Pair]:
    return {(row.a, row.b, row.seed): row for row in found.pairs}


def code(row: Pair) -> str | None:
    return row.verdict.code if row.verdict else None


def test_a_hash_altered_in_one_adapter_withholds_the_verdicts_of_its_pairs_alone(tmp_path: Path) -> None:
    made = make_run(tmp_path, Design([A, B, C], around(THREE), (1, 2)))
    before = build_comparison(made.run)
    assert before.fair == {"1": True, "2": True}
    assert {code(row) for row in before.pairs} == {"lower"}
    for field, after in reports_with_each_hash_altered(made, Member("c", 2)):
        assert after.fair == {"1": True, "2": False}
        for place, row in rows(after).items():
            if place not in {("a", "c", 2), ("b", "c", 2)}:
                assert row == rows(before)[place]
                continue
            assert row.verdict is not None
            assert (code(row), row.verdict.winner) == ("withheld", None)
            assert (row.like_for_like, row.withheld) == (False, [field])
            assert f"{row.a} and c are not like for like: unlike {WORDS[field]} ({field})" in row.verdict.sentence
            assert row.verdict.sentence.endswith("; no verdict.")
            assert (row.verdict.more_images, row.verdict.more_seeds) == (None, None)
            assert row.cells == rows(before)[place].cells  # the numbers stay, for whoever wants them
            assert f"{row.a} and c, seed 2, did not see the same: {field}." in after.notes


def test_one_withheld_seed_withholds_the_row_over_all(tmp_path: Path) -> None:
    made = make_run(tmp_path, Design([A, B], LOWER.losses, (1, 2, 3)))
    for field, found in reports_with_each_hash_altered(made, Member("a", 3)):
        withheld = {seed: row.withheld for (_, _, seed), row in rows(found).items()}
        assert withheld == {1: [], 2: [], 3: [field], None: [field]}
        assert code(found.pairs[-1]) == "withheld"
        assert found.fair == {"1": True, "2": True, "3": False}
        assert found.verdict.sentence == (found.pairs[-1].verdict and found.pairs[-1].verdict.sentence)


@pytest.mark.parametrize("step", [2, 4])
def test_one_commit_with_other_initial_weights_than_the_rest_is_found(tmp_path: Path, step: int) -> None:
    made = make_run(tmp_path, Design([A, B], LOWER.losses))
    key = f"{layout.checkpoint(Member('b', 1), step)}/{layout.COMMIT_NAME}"
    made.edit(key, initial_weights_sha256="0" * 64)
    assert build_comparison(made.run).pairs[0].withheld == ["initial_weights_sha256"]


def study(tmp_path: Path, *, settings: Sequence[str] = (), **of_b: Any) -> MadeRun:
    """Two variants, of which the second differs in more than captions."""
    return make_run(tmp_path, Design([A, {**B, **of_b}], LOWER.losses, settings=settings))


FACTORS: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {  # what b overrides; what is named, what explained
    "lora.rank": ({"lora": {"rank": 4}}, ["lora.rank"], ["initial_weights_sha256"]),
    "lora.target_modules": (
        {"lora": {"target_modules": ["to_q"]}},
        ["lora.target_modules"],
        ["initial_weights_sha256"],
    ),
    "layers with convolutions, and their rank": (
        {"lora": {"target_modules": "full", "conv_rank": 4}},
        ["lora.target_modules"],
        ["initial_weights_sha256"],
    ),
    "lora.alpha": ({"lora": {"alpha": 4}}, ["lora.alpha"], []),
    "lora.kind": ({"lora": {"kind": "dora"}}, ["lora.kind"], ["initial_weights_sha256"]),
    "lora.patterns": (
        {"lora": {"patterns": {"up_blocks.1": {"rank": 4}, "mid_block": {"alpha": 4}}}},
        ["lora.patterns"],
        ["initial_weights_sha256"],
    ),
    "lora.text_encoder": ({"lora": {"text_encoder": {}}}, ["lora.text_encoder"], ["initial_weights_sha256"]),
    "learning rate": (
        {"training": {"optimizer": {"learning_rate": 1e-3}}},
        ["training.optimizer.learning_rate"],
        [],
    ),
    "training.steps": ({"training": {"steps": 6}}, ["training.steps"], []),
    "training.batch_size": (
        {"training": {"batch_size": 2}},
        ["training.batch_size"],
        ["order_sha256", "timesteps_sha256", "noise_sha256"],
    ),
    "as many images, accumulated": (
        {"training": {"batch_size": 2, "gradient_accumulation": 2}},
        ["training.batch_size", "training.gradient_accumulation"],
        [],
    ),
    "training.random_flip": ({"training": {"random_flip": True}}, ["training.random_flip"], ["order_sha256"]),
    "seed_offset": ({"seed_offset": 100}, ["seed_offset"], HASHES),
}


@pytest.mark.parametrize(("overrides", "named", "explained"), FACTORS.values(), ids=FACTORS)
def test_what_a_pair_differs_in_explains_some_hashes_and_no_others(
    tmp_path: Path, overrides: dict[str, Any], named: list[str], explained: list[str]
) -> None:
    made = study(tmp_path, **overrides)
    found = build_comparison(made.run)
    (pair,) = found.pairs
    assert pair.factor == ["captions", *named]
    assert (pair.like_for_like, pair.withheld, code(pair)) == (True, [], "lower")
    assert pair.verdict is not None
    listed = ", ".join(["captions", *named[:-1]])
    assert f"They differ in {listed} and {named[-1]}, so what made it cannot be told." in pair.verdict.sentence
    first, second = (member.fairness.model_dump() for member in found.members)
    if named != ["training.steps"]:  # whose hashes over all steps differ, of course
        assert [field for field in HASHES if first[field] != second[field]] == explained

    for field in HASHES:
        alter(made, field, Member("a", 1))
    (pair,) = build_comparison(made.run).pairs
    assert pair.withheld == [field for field in HASHES if field not in explained]
    assert (code(pair) == "withheld") == (explained != HASHES)


def test_draws_are_compared_up_to_the_fewer_steps(tmp_path: Path) -> None:
    made = study(tmp_path, training={"steps": 6})
    for row in (4, 5):  # numbered from 0: a has none of these
        alter(made, "noise_sha256", Member("b", 1), row)
    assert build_comparison(made.run).pairs[0].withheld == []
    alter(made, "noise_sha256", Member("b", 1), 3)
    assert build_comparison(made.run).pairs[0].withheld == ["noise_sha256"]


@pytest.mark.parametrize(
    ("section", "key", "value", "factor", "explained"),
    [
        ("training", "timesteps", {"name": "logit_normal"}, "training.timesteps.name", ["timesteps_sha256"]),
        ("lora", "kind", "dora", "lora.kind", ["initial_weights_sha256"]),
        ("lora", "init_from", "0" * 64, "lora.init_from", ["initial_weights_sha256"]),
    ],
)
def test_settings_that_another_version_knows_explain_what_they_decide(
    tmp_path: Path, section: str, key: str, value: Any, factor: str, explained: list[str]
) -> None:
    made = study(tmp_path)
    identity = made.resolved.identity.model_dump(mode="json")
    identity["variants"]["b"][section][key] = value
    made.edit(layout.RESOLVED, identity=identity)
    for field in HASHES:
        alter(made, field, Member("b", 1))
    (pair,) = build_comparison(made.run).pairs
    assert pair.factor == ["captions", factor]
    assert pair.withheld == [field for field in HASHES if field not in explained]


def test_a_pair_that_differs_in_seeds_alone_is_the_noise_floor(tmp_path: Path) -> None:
    levels = {BASE: UNTOUCHED, "a": {"a": 0.7, "": 0.8}, "b": {"a": 0.705, "": 0.8}}
    made = make_run(tmp_path, Design([A, {**SAME_CAPTIONS, "seed_offset": 100}], around(levels), (1, 2, 3)))
    found = build_comparison(made.run)
    assert [row.factor for row in found.pairs] == [["seed_offset"]] * 4
    assert found.fair == {"1": True, "2": True, "3": True}
    assert [member.seed for member in found.members] == [1, 2, 3, 1, 2, 3]
    row = found.pairs[-1]
    assert row.verdict is not None
    assert row.verdict.code == "different_within_margin"
    assert "They differ in their training seeds alone: this is the study's noise floor." in row.verdict.sentence


def test_an_adapter_that_diverged_is_not_compared(tmp_path: Path) -> None:
    made = make_run(tmp_path, Design([A, B, C], around(THREE), (1, 2), diverged={Member("b", 2): 3}))
    found = build_comparison(made.run)
    member = next(member for member in found.members if (member.variant, member.seed) == ("b", 2))
    assert (member.diverged_at, member.skipped_steps) == (3, 0)
    assert (member.final_loss, member.gain, member.listening, member.caption_sets) == (None, None, None, {})
    assert [point.step for point in member.validation] == [0, 2]
    assert member.best is not None
    assert member.best.step == 2
    assert "b, seed 2, diverged and was frozen at step 3; it is not compared." in found.notes
    for (a, b, seed), row in rows(found).items():
        assert row.verdict is not None
        if seed == 2 and "b" in (a, b):
            assert (row.verdict.code, row.cells, row.beats, row.margin) == ("withheld", None, None, None)
            assert row.verdict.sentence == f"b, seed 2, diverged at step 3: {a} and {b} are not compared; no verdict."
            assert row.method.startswith("no interval")
        else:
            assert row.verdict.code == "lower"


def test_an_adapter_that_diverged_with_one_of_three_seeds_withholds_the_row(tmp_path: Path) -> None:
    made = make_run(tmp_path, Design([A, B], LOWER.losses, (1, 2, 3), diverged={Member("a", 1): 1}))
    found = build_comparison(made.run)
    row = found.pairs[-1]
    assert (row.seed, code(row)) == (None, "withheld")
    assert row.seeds == 2  # whose mean its numbers are
    assert row.cells is not None
    of_seeds = [pair.cells.as_trained.mean for pair in found.pairs[1:3] if pair.cells]
    assert row.cells.as_trained.mean == pytest.approx(sum(of_seeds) / 2)
    assert "a, seed 1, diverged at step 1" in found.verdict.sentence
    first = found.members[0]
    assert (first.best, first.best_loss, len(first.validation)) == (None, None, 1)


LONG = ["training.steps=200", "evaluation.every=100"]


@pytest.mark.parametrize(("refused", "withheld"), [({"a": 2}, False), ({"a": 3}, True), ({"a": 3, "b": 2}, False)])
def test_updates_refused_unlike_often_withhold_a_verdict_beyond_a_hundredth(
    tmp_path: Path, refused: dict[str, int], withheld: bool
) -> None:
    design = Design([A, B], LOWER.losses, settings=LONG)
    design = replace(design, skipped={Member(variant, 1): count for variant, count in refused.items()})
    found = build_comparison(make_run(tmp_path, design).run)
    assert [member.skipped_steps for member in found.members] == [refused.get("a", 0), refused.get("b", 0)]
    (pair,) = found.pairs
    assert pair.verdict is not None
    assert pair.verdict.code == ("withheld" if withheld else "lower")
    assert f"{refused['a']} and {refused.get('b', 0)} of their updates were refused" in pair.verdict.sentence
    assert pair.like_for_like  # as far as hashes tell


def test_the_hundredth_is_of_the_fewer_steps(tmp_path: Path) -> None:
    variants = [{**A, "training": {"steps": 100}}, B]
    design = Design(variants, LOWER.losses, settings=LONG, skipped={Member("a", 1): 2})
    (pair,) = build_comparison(make_run(tmp_path, design).run).pairs
    assert code(pair) == "withheld"
