"""Every verdict that a pair can get, from runs made so that it must."""

from dataclasses import replace
from itertools import count
from math import sqrt
from pathlib import Path

import pytest
from scipy import stats

from job.report.build import build_comparison
from job.report.schema import Pair, Verdict
from tests.job.report.by_hand import detectable
from tests.job.report.cases import CASES, SAME_CAPTIONS, UNTOUCHED, A, B, Case, Levels
from tests.job.report.made_run import BASE, Design, Floats, Scored, around, make_run


def compared(folder: Path, design: Design) -> Pair:
    """The only pair of a run that is made so."""
    (pair,) = build_comparison(make_run(folder, design).run).pairs
    return pair


def verdict_of(pair: Pair) -> Verdict:
    assert pair.verdict is not None
    return pair.verdict


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_verdict(tmp_path: Path, case: Case) -> None:
    pair = compared(tmp_path, Design([A, B], case.losses))
    verdict = verdict_of(pair)
    print(pair.cells, pair.beats, pair.margin, verdict)
    assert (verdict.code, verdict.winner) == (case.code, case.winner)
    assert verdict.sentence.startswith("Of these adapters (seed 1), ")
    assert [words for words in case.says if words not in verdict.sentence] == []
    assert (verdict.more_images is not None) == case.asks_for_images
    assert verdict.more_seeds is None
    assert pair.factor == ["captions"]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.winner])
def test_a_winner_wins_whichever_is_named_first_and_is_told_of_from_its_own_side(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    pair = compared(tmp_path, Design([B, A], case.losses))
    verdict = verdict_of(pair)
    assert (pair.a, pair.b) == ("b", "a")
    assert (verdict.code, verdict.winner) == (case.code, case.winner)
    assert [words for words in case.says if words not in verdict.sentence] == []
    assert pair.cells is not None
    shown = pair.cells.as_trained
    assert shown.low is not None
    assert shown.high is not None
    assert shown.mean > 0
    assert f": {-shown.mean:+.2g} [{-shown.high:+.2g}, {-shown.low:+.2g}], " in verdict.sentence


def test_it_asks_for_the_fewest_images_with_which_it_could_tell(tmp_path: Path) -> None:
    case = CASES["too noisy"]
    pair = compared(tmp_path, Design([A, B], case.losses))
    assert pair.cells is not None
    assert pair.cells.as_trained.low is not None
    assert pair.margin is not None
    reach = pair.cells.as_trained.mean - pair.cells.as_trained.low
    deviation = reach / stats.t.ppf(0.975, 11) * sqrt(12)
    margin = pair.margin
    images = next(n for n in count(12) if detectable(n - 1, 0.95) * deviation / sqrt(n) <= margin)
    assert verdict_of(pair).more_images == images - 12
    assert f"about {images - 12} more independent held-out images" in verdict_of(pair).sentence


def test_with_equal_captions_it_is_the_rival_without_a_prompt_that_does_as_well(tmp_path: Path) -> None:
    levels: dict[str, Levels] = {BASE: {"a": 1, "": 1}, "a": {"a": 0.70, "": 0.9}, "b": {"a": 0.80, "": 0.70}}
    design = Design([A, SAME_CAPTIONS], around(levels), weights=lambda member, step: f"{member.variant} {step}")
    pair = compared(tmp_path, design)
    verdict = verdict_of(pair)
    assert pair.factor == []
    assert verdict.code == "lower_by_captions"
    assert "), but b is not found to be worse without a prompt." in verdict.sentence


@pytest.mark.parametrize(
    ("groups", "missing", "says"),
    [
        ([0] * 12, 5, "1 independent held-out image are"),
        ([*range(5), *[4] * 7], 1, "5 independent held-out images are"),
    ],
)
def test_fewer_than_six_groups_of_images_tell_nothing(
    tmp_path: Path, groups: list[int], missing: int, says: str
) -> None:
    pair = compared(tmp_path, Design([A, B], CASES["lower, however prompted"].losses, groups=groups))
    verdict = verdict_of(pair)
    assert (verdict.code, verdict.winner) == ("cannot_tell", None)
    assert (verdict.more_images, verdict.more_seeds) == (missing, None)
    assert says.rstrip(" are") in verdict.sentence
    assert "too few to tell a from b: 6 are needed" in verdict.sentence
    assert pair.groups == 6 - missing
    assert pair.images == 12
    assert pair.cells is not None
    assert pair.cells.as_trained.mean == pytest.approx(-0.1, abs=0.001)
    assert (pair.cells.as_trained.low is None) == (pair.groups == 1)


def test_six_groups_are_enough(tmp_path: Path) -> None:
    groups = [*range(6), *[5] * 6]
    pair = compared(tmp_path, Design([A, B], CASES["lower, however prompted"].losses, groups=groups))
    assert (pair.groups, verdict_of(pair).code) == (6, "lower")


def test_weights_that_never_moved_changed_nothing_whatever_the_losses(tmp_path: Path) -> None:
    case = CASES["lower, however prompted"]
    verdict = verdict_of(compared(tmp_path, Design([A, B], case.losses, weights=lambda *_: None)))
    assert (verdict.code, verdict.winner) == ("nothing_measurable", None)
    assert "Neither" not in verdict.sentence  # which it would be idle to add


def test_one_adapter_that_never_moved_is_compared_with_one_that_did(tmp_path: Path) -> None:
    case = CASES["lower, however prompted"]
    design = Design([A, B], case.losses, weights=lambda member, _: None if member.variant == "b" else "trained")
    assert verdict_of(compared(tmp_path, design)).code == "lower"


def test_equal_weights_are_one_adapter_whatever_the_losses(tmp_path: Path) -> None:
    case = CASES["lower, however prompted"]
    pair = compared(tmp_path, Design([A, B], case.losses, weights=lambda _, step: str(step)))
    verdict = verdict_of(pair)
    assert (verdict.code, verdict.winner) == ("identical", None)
    assert "a and b are the same adapter: their weights are equal" in verdict.sentence


@pytest.mark.parametrize(("equal_at", "code"), [(2, "lower"), (4, "identical")])
def test_it_is_the_last_weights_that_are_equal_or_not(tmp_path: Path, equal_at: int, code: str) -> None:
    case = CASES["lower, however prompted"]
    design = Design([A, B], case.losses, weights=lambda member, step: member.variant * (step != equal_at) or "equal")
    assert verdict_of(compared(tmp_path, design)).code == code


def test_weights_that_are_equal_with_one_of_two_seeds_are_not_one_adapter_with_the_other(tmp_path: Path) -> None:
    case = CASES["lower, however prompted"]
    design = Design(
        [A, B], case.losses, (1, 2), weights=lambda member, step: f"{step} {member if member.seed > 1 else 0}"
    )
    codes = [verdict_of(pair).code for pair in build_comparison(make_run(tmp_path, design).run).pairs]
    assert codes == ["identical", "lower"]
    design = replace(design, seeds=(1, 2, 3))
    rows = build_comparison(make_run(tmp_path / "three", design).run).pairs
    assert [row.verdict.code for row in rows if row.verdict] == ["lower"]


def test_seeds_are_asked_for_where_no_number_of_images_would_tell(tmp_path: Path) -> None:
    """Every seed gives another difference, each of them the same on all images."""
    even, moved = {"a": 0.7, "b": 0.7, "": 0.7}, {1: -0.05, 2: 0.0, 3: 0.05}

    def losses(scored: Scored) -> Floats:
        found = around({BASE: UNTOUCHED, "a": even, "b": even})(scored)
        return found + (moved[scored.seed] if scored.variant == "a" else 0)

    rows = build_comparison(make_run(tmp_path, Design([A, B], losses, (1, 2, 3))).run).pairs
    verdict = verdict_of(rows[-1])
    assert verdict.code == "cannot_tell"
    assert verdict.more_images is None
    assert verdict.more_seeds is not None
    margin = rows[-1].margin
    assert margin is not None
    # Nearly all of the variance is that of the seeds.
    seeds = next(n for n in count(4) if detectable(n - 1, 0.95) * 0.05 / sqrt(n) <= margin)
    assert verdict.more_seeds == pytest.approx(seeds - 3, abs=1)
    assert f"about {verdict.more_seeds} more seeds would tell a difference of 10% of the gain" in verdict.sentence
