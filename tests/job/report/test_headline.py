"""The answer in one plain sentence is that of the verdict, and the adapter to begin with is the winner's."""

from pathlib import Path
from typing import Any

import pytest

from job.layout import Member
from job.report.build import build_comparison
from job.report.schema import StudyVerdict
from tests.job.report.cases import CASES, SAME_CAPTIONS, UNTOUCHED, A, B, C, Case
from tests.job.report.made_run import BASE, Design, Losses, around, make_run

LOWER = CASES["lower, however prompted"]
SAID = {
    "lower": "a fits unseen images better than b, however they are prompted.",
    "lower_but_depends": "a fits unseen images better than b, each prompted as it was trained.",
    "lower_by_captions": "a fits unseen images better than b, but may owe that to its prompts alone.",
    "different_within_margin": (
        "a fits unseen images better than b, each prompted as it was trained, by too little to matter."
    ),
    "equivalent": "a and b fit unseen images equally well, however they are prompted.",
    "equivalent_as_trained": "a and b fit unseen images equally well, each prompted as it was trained.",
    "cannot_tell": "it cannot be told yet which of a and b fits unseen images better.",
    "nothing_measurable": "training changed nothing measurable in a or b.",
}


def verdict(folder: Path, losses: Losses, *variants: dict[str, Any], **design: Any) -> StudyVerdict:
    return build_comparison(make_run(folder, Design(list(variants or (A, B)), losses, **design)).run).verdict


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_headline_is_that_of_the_code(tmp_path: Path, case: Case) -> None:
    found = verdict(tmp_path, case.losses)
    assert found.headline == f"Of these adapters, {SAID[case.code]}"
    assert found.rests_on.startswith("12 independent held-out images, 1 training seed, 4 steps.")


def test_with_equal_captions_it_is_not_the_prompts(tmp_path: Path) -> None:
    losses = around({BASE: {"a": 1, "": 1}, "a": {"a": 0.70, "": 0.9}, "b": {"a": 0.80, "": 0.70}})
    found = verdict(tmp_path, losses, A, SAME_CAPTIONS, weights=lambda member, step: f"{member.variant} {step}")
    said = "a fits unseen images better than b, but is not found to do so without a prompt."
    assert found.headline == f"Of these adapters, {said}"


def test_seeds_that_disagree_and_seeds_that_do_not(tmp_path: Path) -> None:
    found = verdict(tmp_path / "three", LOWER.losses, seeds=(1, 2, 3))
    assert found.headline == f"Over 3 seeds, {SAID['lower']}"
    diverged = verdict(tmp_path / "diverged", LOWER.losses, seeds=(1, 2), diverged={Member("b", 2): 3})
    assert diverged.headline == "The seeds disagree about a and b."


@pytest.mark.parametrize(("own", "said"), [(0.7, "lowered"), (1.3, "raised"), (1.0, "did not measurably change")])
def test_one_variant_alone(tmp_path: Path, own: float, said: str) -> None:
    losses = around({BASE: UNTOUCHED, "a": {"a": own, "b": own, "": own}})
    found = verdict(tmp_path, losses, A, seeds=(1, 2))
    assert found.headline == f"Training {said} the loss of a on unseen images."
    assert found.sentence != found.headline


def test_the_adapter_to_begin_with_is_the_winner_of_the_study(tmp_path: Path) -> None:
    """All pairs have a winner, of which the first is not the best."""
    levels = {name: dict.fromkeys(("a", "b", "c", ""), level) for name, level in (("a", 0.8), ("b", 0.7), ("c", 0.6))}
    base = {BASE: dict.fromkeys(("a", "b", "c", ""), 1.0)}
    found = verdict(tmp_path, around(base | levels), A, B, C)
    assert found.headline == "Of these adapters, c fits unseen images better than a, however they are prompted."
    assert (found.recommended.variant, found.recommended.seed) == ("c", 1)


def test_without_a_winner_it_is_the_one_with_the_lowest_loss(tmp_path: Path) -> None:
    case = CASES["lower, but not told from the rival shown the same captions"]
    found = build_comparison(make_run(tmp_path, Design([A, B], case.losses, seeds=(1, 2))).run)
    lowest = min(found.members, key=lambda member: member.final_loss or 9)
    chosen = found.verdict.recommended
    assert (chosen.variant, chosen.seed) == (lowest.variant, lowest.seed)
