"""Which rows carry a verdict with one, two, three seeds, and what the study's own sentence says of them."""

from pathlib import Path
from typing import Any

import pytest

from job.report.build import build_comparison
from job.report.schema import Comparison
from tests.job.report.cases import CASES, UNTOUCHED, A, B, C, Case
from tests.job.report.made_run import BASE, Design, Floats, Scored, around, make_run

LOWER, ALIKE = CASES["lower, however prompted"], CASES["told apart by less than matters"]


def report(folder: Path, *cases: Case) -> Comparison:
    """The report of a study of as many seeds, each with a case of its own."""

    def losses(scored: Scored) -> Floats:
        return cases[max(scored.seed - 1, 0)].losses(scored)

    return build_comparison(make_run(folder, Design([A, B], losses, range(1, len(cases) + 1))).run)


def rows(comparison: Comparison) -> list[tuple[int | None, int, str | None, str | None]]:
    """Seed, number of seeds, code and winner of each row of the report."""
    return [
        (row.seed, row.seeds, *((row.verdict.code, row.verdict.winner) if row.verdict else (None, None)))
        for row in comparison.pairs
    ]


def levels(comparison: Comparison) -> list[float]:
    """One less the confidence of each row."""
    return [1 - row.cells.as_trained.confidence for row in comparison.pairs if row.cells]


def test_one_seed_speaks_of_its_adapters(tmp_path: Path) -> None:
    found = report(tmp_path, LOWER)
    assert rows(found) == [(1, 1, "lower", "a")]
    assert levels(found) == pytest.approx([0.05])
    assert found.verdict.sentence == (found.pairs[0].verdict and found.pairs[0].verdict.sentence)
    assert found.verdict.sentence.startswith("Of these adapters (seed 1), a has a lower denoising loss than b")
    assert any("a verdict is that of these adapters, not of the caption strategies" in note for note in found.notes)


def test_with_two_seeds_each_has_its_verdict(tmp_path: Path) -> None:
    found = report(tmp_path, LOWER, LOWER)
    assert rows(found) == [(1, 1, "lower", "a"), (2, 1, "lower", "a")]
    assert levels(found) == pytest.approx([0.025, 0.025])
    assert "disagree" not in found.verdict.sentence
    assert "(seed 1), a has a lower" in found.verdict.sentence
    assert "(seed 2), a has a lower" in found.verdict.sentence
    assert any("not of the caption strategies" in note for note in found.notes)


def test_it_says_when_two_seeds_disagree(tmp_path: Path) -> None:
    found = report(tmp_path, LOWER, ALIKE)
    assert rows(found) == [(1, 1, "lower", "a"), (2, 1, "different_within_margin", None)]
    assert found.verdict.sentence.startswith("The seeds disagree. Of these adapters (seed 1), a has a lower")
    assert "Of these adapters (seed 2), a has a lower denoising loss than b, but" in found.verdict.sentence


def test_two_seeds_of_which_each_has_another_winner_disagree(tmp_path: Path) -> None:
    turned = Case(a=LOWER.b, b=LOWER.a, code="lower", says=())
    found = report(tmp_path, LOWER, turned)
    assert rows(found) == [(1, 1, "lower", "a"), (2, 1, "lower", "b")]
    assert found.verdict.sentence.startswith("The seeds disagree.")


def test_three_seeds_have_one_verdict_and_it_speaks_of_all(tmp_path: Path) -> None:
    found = report(tmp_path, LOWER, LOWER, LOWER)
    assert rows(found) == [(1, 1, None, None), (2, 1, None, None), (3, 1, None, None), (None, 3, "lower", "a")]
    assert levels(found) == pytest.approx([0.05 / 3, 0.05 / 3, 0.05 / 3, 0.05])
    assert found.verdict.sentence.startswith("Of these strategies (over 3 seeds), a has a lower denoising loss than b")
    assert "adapters" not in found.verdict.sentence
    assert not any("not of the caption strategies" in note for note in found.notes)


def test_seeds_that_contradict_each_other_tell_nothing_together(tmp_path: Path) -> None:
    turned = Case(a=LOWER.b, b=LOWER.a, code="lower", says=())
    found = report(tmp_path, LOWER, turned, LOWER)
    assert rows(found)[-1] == (None, 3, "cannot_tell", None)


def test_one_variant_alone_is_compared_with_the_base(tmp_path: Path) -> None:
    losses = around({BASE: UNTOUCHED, "a": LOWER.a})
    found = build_comparison(make_run(tmp_path, Design([A], losses, (1, 2))).run)
    assert found.pairs == []
    assert found.fair == {"1": True, "2": True}
    first, second = (member.gain for member in found.members)
    assert first is not None
    assert second is not None
    assert first.low is not None
    assert first.high is not None
    assert first.low < 0.3 < first.high
    said = found.verdict.sentence.split(". ")
    assert said[0] == (
        f"Training lowered the loss of a (seed 1) as trained: {-first.mean:+.2g} "
        f"[{-first.high:+.2g}, {-first.low:+.2g}] from 1"
    )
    assert said[1].startswith("Training lowered the loss of a (seed 2) as trained: ")


@pytest.mark.parametrize(("own", "told"), [(1.3, "Training raised"), (1.0, "Training did not measurably change")])
def test_one_variant_alone_may_have_gained_nothing(tmp_path: Path, own: float, told: str) -> None:
    losses = around({BASE: UNTOUCHED, "a": {"a": own, "b": own, "": own}})
    found = build_comparison(make_run(tmp_path, Design([A], losses, (1,))).run)
    assert found.verdict.sentence.startswith(f"{told} the loss of a (seed 1) as trained: ")


def test_one_variant_alone_and_few_images(tmp_path: Path) -> None:
    losses = around({BASE: UNTOUCHED, "a": LOWER.a}, images=5)
    found = build_comparison(make_run(tmp_path, Design([A], losses, (1,), groups=range(5))).run)
    assert found.verdict.sentence.startswith("5 independent held-out images are too few to tell what training did")


THREE: dict[str, Any] = {
    "a": {"a": 0.80, "b": 0.82, "c": 0.80, "": 0.85},
    "b": {"a": 0.75, "b": 0.70, "c": 0.75, "": 0.75},
    "c": {"a": 0.90, "b": 0.90, "c": 0.90, "": 0.90},
    BASE: {"a": 1, "b": 1, "c": 1, "": 1},
}


@pytest.mark.parametrize(
    ("pairs", "compared", "says"),
    [
        ("all", [("a", "b"), ("a", "c"), ("b", "c")], "b has a lower denoising loss than a"),
        ("with_first", [("a", "b"), ("a", "c")], "b has a lower denoising loss than a"),
        ("[[c, a]]", [("c", "a")], "a has a lower denoising loss than c"),
        ("[[c, b], [c, a]]", [("c", "b"), ("c", "a")], "a has a lower denoising loss than c"),
        ("[[c, b]]", [("c", "b")], "b has a lower denoising loss than c"),
    ],
)
def test_the_pairs_that_the_manifest_asks_for(
    tmp_path: Path, pairs: str, compared: list[tuple[str, str]], says: str
) -> None:
    """The study's sentence is that of the first variant against the lowest of those that it is compared with."""
    made = make_run(tmp_path, Design([A, B, C], around(THREE), settings=[f"evaluation.pairs={pairs}"]))
    found = build_comparison(made.run)
    assert [(row.a, row.b) for row in found.pairs] == compared
    assert levels(found) == pytest.approx([0.05 / len(compared)] * len(compared))
    assert says in found.verdict.sentence
    assert {member.variant for member in found.members} == {"a", "b", "c"}


@pytest.mark.parametrize(("variants", "pairs"), [(8, 28), (9, 8)])
def test_beyond_eight_variants_each_is_compared_with_the_first(tmp_path: Path, variants: int, pairs: int) -> None:
    names = [f"v{number}" for number in range(variants)]
    study = [{"name": name, "captions": {"strategy": "constant", "text": name}} for name in names]

    def losses(scored: Scored) -> Floats:
        return around({scored.variant or BASE: dict.fromkeys([*names, ""], 0.7 if scored.variant else 1)})(scored)

    found = build_comparison(make_run(tmp_path, Design(study, losses)).run)
    assert len(found.pairs) == pairs
    if variants > 8:
        assert [(row.a, row.b) for row in found.pairs] == [("v0", name) for name in names[1:]]
        # an adapter that is compared with the first alone is scored under its captions, but not under the others'
        assert set(found.members[3].caption_sets) == {"v3", "v0", ""}
        assert set(found.members[0].caption_sets) == {*names, ""}
