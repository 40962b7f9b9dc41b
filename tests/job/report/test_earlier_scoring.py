"""A run that the version before scored: all adapters under all caption sets, each image under one text of a mix."""

import json
from pathlib import Path
from typing import Any

import pytest

from job import layout
from job.report.build import build_comparison
from tests.job.report.by_hand import ByHand, assert_holds, mean
from tests.job.report.cases import CASES, DROPPED, MIXED, WHOLE, A, B, uneven
from tests.job.report.made_run import Design, make_run

OWN = {"a": {"a": 1.0}, "mixed": {"mixed": 0.75, "": 0.25}, "b": {"b": 1.0}}
SETTINGS = [*WHOLE, "training.steps=8", "evaluation.every=2"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], ByHand]:
    design = Design([A, MIXED, B], uneven, groups=range(14), settings=SETTINGS, earlier=True)
    made = make_run(tmp_path_factory.mktemp("run"), design)
    assert "scoring" not in json.loads((made.folder / layout.RESOLVED).read_text())
    return build_comparison(made.run).model_dump(mode="json"), ByHand(made.folder, OWN)


def test_the_curve_is_the_mean_over_all_caption_sets_and_the_loss_as_trained_is_not(
    report: tuple[dict[str, Any], ByHand],
) -> None:
    found, by_hand = report
    all_sets = {"a": 1 / 3, "mixed": 1 / 3, "b": 1 / 3}
    for member in found["members"]:
        variant = member["variant"]
        for point in member["validation"]:
            for key, curve in (("loss", False), ("curve_loss", True)):
                expected = mean(by_hand.loss(variant, 1, point["step"], all_sets, curve=curve))
                assert point[key] == pytest.approx(expected, rel=1e-6)
            change = by_hand.change(variant, 1, point["step"], all_sets) if point["step"] else None
            assert_holds(point["change"], change)
            assert set(point["caption_sets"]) - {""} == {"a", "mixed", "b"}
        for key, step in (("base_loss", 0), ("final_loss", 8)):
            assert member[key] == pytest.approx(
                mean(by_hand.loss(variant, 1, step, OWN[variant], curve=False)), rel=1e-6
            )
        assert member["caption_sets"].keys() == {"a", "mixed", "b", ""}


def test_its_best_is_the_lowest_on_that_curve(report: tuple[dict[str, Any], ByHand]) -> None:
    found, _ = report
    for member in found["members"]:
        points = {point["step"]: point["curve_loss"] for point in member["validation"] if point["step"]}
        assert member["best"]["step"] == min(points, key=lambda step: points[step])
        assert member["best"]["rule"].startswith("lowest curve loss; of losses within 0.0001")


def test_what_was_not_measured_is_null_and_a_note_says_so(report: tuple[dict[str, Any], ByHand]) -> None:
    found, _ = report
    for member in found["members"]:
        assert (member["listening"], member["min_snr_base_loss"], member["min_snr_final_loss"]) == (None, None, None)
    (note,) = (note for note in found["notes"] if note.startswith("An earlier version began this run."))
    assert "mean over all caption sets" in note
    assert "whether adapters listen to their prompts was not measured" in note


def test_its_pairs_are_compared_as_those_of_any_other(report: tuple[dict[str, Any], ByHand]) -> None:
    found, by_hand = report
    assert [(pair["a"], pair["b"]) for pair in found["pairs"]] == [("a", "mixed"), ("a", "b"), ("mixed", "b")]
    pair = found["pairs"][1]
    expected = by_hand.pair("a", "b", [1], 3)
    assert pair["verdict"]["code"] == expected.pop("code")
    del expected["winner"]
    assert_holds(pair, expected | {"best_as_trained": None})


def test_dropout_has_no_curve_as_trained_where_the_empty_prompt_was_not_scored_on_it(
    report: tuple[dict[str, Any], ByHand],
) -> None:
    found, _ = report
    members = {member["variant"]: member for member in found["members"]}
    assert (members["mixed"]["curve_base_loss"], members["mixed"]["best_loss"]) == (None, None)
    assert members["a"]["best_loss"] is not None
    assert [pair["best_as_trained"] for pair in found["pairs"]] == [None] * 3  # its best are chosen by another rule
    assert all(pair["cells"] is not None for pair in found["pairs"])


def test_each_image_has_one_text_of_a_mix(tmp_path: Path) -> None:
    design = Design([MIXED, DROPPED], uneven, groups=range(14), settings=SETTINGS, earlier=True)
    made = make_run(tmp_path, design)
    assert made.held_out.components.texts.keys() == {"mixed", "dropped", ""}
    assert made.held_out.components.own["mixed"] == {"mixed": 0.75, "": 0.25}
    texts = made.held_out.components.texts["mixed"]
    assert len(texts) == 14
    assert 0 < texts.count("a drawing") < 14
    assert {text for number, text in enumerate(texts) if text != f"drawing {number}"} == {"a drawing"}


@pytest.mark.parametrize("name", ["lower, however prompted", "equal as trained", "too noisy"])
def test_it_gets_the_verdict_that_the_same_losses_get_today(tmp_path: Path, name: str) -> None:
    found = []
    for earlier in (True, False):
        design = Design([A, B], CASES[name].losses, earlier=earlier)
        comparison = build_comparison(make_run(tmp_path / str(earlier), design).run)
        found.append([(pair.cells, pair.beats, pair.margin, pair.verdict) for pair in comparison.pairs])
        assert any(note.startswith("An earlier version") for note in comparison.notes) == earlier
    assert found[0] == found[1]
