"""The charts of a report: what they show is what the comparison says, and nothing in them acts in a page."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.layout import Member
from job.report.build import build_comparison
from job.report.charts import curves, forest, svg, timestep_losses
from job.report.charts.training import smoothed
from job.report.curves import plot_curves
from job.report.schema import Comparison
from lora_engine.text import printable
from tests.job.report.cases import MIXED, WHOLE, A, B, uneven
from tests.job.report.made_run import Design, make_run

SVG = "{http://www.w3.org/2000/svg}"
CHARTS: dict[str, Callable[[Comparison], Any]] = {
    "curves": curves,
    "forest": forest,
    "timesteps": timestep_losses,
}
ELEMENTS = {"svg", "title", "desc", "defs", "g", "path", "use", "text", "clipPath", "rect"}
HOSTILE = [
    "<script>alert(1)</script>",
    "\"quoted' & onload=x",
    "$x^$ {{ 7 }} {% raw %}",
    "_below",
    "שלום",
    "right\u202eto left\n\x1b[31m\0\udce9",
]


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Of three variants and two seeds; each pair has a verdict for each seed, and one adapter diverged."""
    settings = [*WHOLE, "training.steps=8", "evaluation.every=2"]
    design = Design(
        [A, MIXED, B], uneven, seeds=(1, 2), groups=range(14), settings=settings, diverged={Member("b", 2): 5}
    )
    return build_comparison(make_run(tmp_path_factory.mktemp("run"), design).run)


def edited(comparison: Comparison, edit: Callable[[dict[str, Any]], None]) -> Comparison:
    value = comparison.model_dump(mode="json")
    edit(value)
    return Comparison.model_validate(value)


def renamed(comparison: Comparison, names: list[str]) -> Comparison:
    """With these names in place of `a`, `mixed` and `b`."""
    new = dict(zip(("a", "mixed", "b"), names, strict=True))

    copied = comparison.model_copy(deep=True)
    for member in copied.members:
        member.variant = new[member.variant]
    for pair in copied.pairs:
        pair.a, pair.b = new[pair.a], new[pair.b]
    copied.name = names[0]
    return copied


def drawn(name: str, comparison: Comparison) -> str:
    figure = CHARTS[name](comparison)
    assert figure is not None
    return svg(figure, f"Chart of {comparison.name}", "What <it> shows", "members")


def shown(text: str) -> Iterator[tuple[str, Element]]:
    """What shows a value of the comparison: its path, and the element."""
    for element in ET.fromstring(text).iter(f"{SVG}g"):
        if "data-path" in element.attrib:
            yield element.attrib["data-path"], element


def at(comparison: Comparison, path: str) -> Any:
    value = comparison.model_dump(mode="json")
    for key in re.findall(r"\w+", path):
        value = value[int(key) if key.isdigit() else key]
    return value


def line(element: Element) -> list[tuple[float, float]] | None:
    """The points of a line; None of a band."""
    path = element.find(f"{SVG}path")
    return None if path is None else points(path)


def band(element: Element) -> list[tuple[float, float]]:
    """The outline of a band, in the figure's coordinates."""
    path, use = element.find(f".//{SVG}path"), element.find(f".//{SVG}use")
    assert path is not None
    assert use is not None
    dx, dy = float(use.attrib["x"]), float(use.attrib["y"])
    return [(x + dx, y + dy) for x, y in points(path)]


def points(path: Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path.attrib["d"])]


def assert_on_a_scale(values: list[float], places: list[float]) -> float:
    """Check that the places of values are on a linear scale, and return how far apart 0 and 1 are on it."""
    slope, offset = np.polyfit(values, places, 1)
    assert np.polyval([slope, offset], values) == pytest.approx(places, abs=0.02)
    return float(slope)


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_an_element_that_does_nothing_and_refers_to_itself(comparison: Comparison, name: str) -> None:
    text = drawn(name, comparison)
    assert text == drawn(name, edited(comparison, lambda _: None))
    root = ET.fromstring(text)
    assert text.startswith("<svg ")
    assert root.tag == f"{SVG}svg"
    assert not {"width", "height"} & root.attrib.keys()
    assert re.fullmatch(r"0 0 \d+(\.\d+)? \d+(\.\d+)?", root.attrib["viewBox"])
    assert root.attrib["role"] == "img"
    labels = {element.attrib["id"]: element.text for element in root[:2]}
    assert [element.tag.removeprefix(SVG) for element in root[:2]] == ["title", "desc"]
    assert [labels[key] for key in root.attrib["aria-labelledby"].split()] == ["Chart of small", "What <it> shows"]
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= ELEMENTS
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    assert len(set(ids)) == len(ids)
    assert all(key.startswith(f"{name}-") for key in ids)
    for element in root.iter():
        assert not {key for key in element.attrib if key == "style" or key.startswith(("on", "{"))}
        for key in ("href", "clip-path"):
            if key in element.attrib:
                assert re.sub(r"^url\((.*)\)$", r"\1", element.attrib[key]).removeprefix("#") in ids
    assert "currentColor" in text
    assert not re.search(r"#000|#fff|black|white|url\((?!#)|http(?!://www.w3.org/2000/svg\")", text, re.IGNORECASE)


def test_the_curves_are_the_losses_of_the_comparison(comparison: Comparison) -> None:
    found = list(shown(drawn("curves", comparison)))
    members = range(len(comparison.members))
    assert {path for path, _ in found} == {f"members[{n}].{what}" for n in members for what in ("validation", "train")}
    slopes = []
    for path, element in found:
        value, drawn_points = at(comparison, path), line(element)
        if path.endswith("train"):
            there = [(point["step"], point["loss"]) for point in value if point["loss"] is not None]
            assert drawn_points is not None
            assert len(drawn_points) == len(there)
            assert_on_a_scale([step for step, _ in there], [x for x, _ in drawn_points])
            continue
        steps, losses = [point["step"] for point in value], [point["curve_loss"] for point in value]
        if drawn_points is not None:
            assert len(drawn_points) == len(value)
            assert_on_a_scale(steps, [x for x, _ in drawn_points])
            slopes.append(assert_on_a_scale(losses, [y for _, y in drawn_points]))
            continue
        ends = [losses[0], losses[0]]
        ends += [losses[0] + point["change"][end] for point in value[1:] for end in ("low", "high")]
        heights = [y for _, y in band(element)]
        slopes.append(assert_on_a_scale([min(ends), max(ends)], [max(heights), min(heights)]))
    assert len(slopes) == 2 * len(members)
    assert slopes == pytest.approx([slopes[0]] * len(slopes), rel=1e-2)


@pytest.mark.parametrize("wide", [False, True])
def test_held_out_and_training_losses_have_one_scale(comparison: Comparison, wide: bool) -> None:
    held_out, training = curves(comparison, wide=wide).axes
    assert held_out.get_ylim() == training.get_ylim()
    low, high = held_out.get_ylim()
    for member in comparison.members:
        assert all(low < point.curve_loss < high for point in member.validation)
        assert all(low < loss < high for loss in smoothed([point.loss for point in member.train]))


def test_the_differences_are_those_of_every_pair_with_a_verdict(comparison: Comparison) -> None:
    found = list(shown(drawn("forest", comparison)))
    with_numbers = [n for n, pair in enumerate(comparison.pairs) if pair.verdict is not None and pair.cells is not None]
    assert 0 < len(with_numbers) < len(comparison.pairs)  # the others are those of the adapter that diverged
    cells = [
        f"pairs[{n}].cells.{cell}" for n in with_numbers for cell in ("as_trained", "under_a", "under_b", "no_prompt")
    ]
    assert [path for path, _ in found if not path.endswith("margin")] == cells
    values, places = [], []
    for path, element in found:
        value = at(comparison, path)
        if path.endswith("margin"):
            across = [x for x, _ in band(element)]
            values += [-value, value]
            places += [min(across), max(across)]
            continue
        drawn_points = line(element)
        assert drawn_points is not None
        values += [value["low"], value["mean"], value["high"]]
        places += [x for x, _ in drawn_points]
    assert assert_on_a_scale(values, places) > 0


def test_the_one_on_the_left_has_the_lower_loss_left_of_zero(comparison: Comparison) -> None:
    root = ET.fromstring(drawn("forest", comparison))
    texts = {element.text: float(element.attrib.get("x", 0)) for element in root.iter(f"{SVG}text")}
    first = comparison.pairs[0]
    left, right = f"\N{LEFTWARDS ARROW} {first.a} lower", f"{first.b} lower \N{RIGHTWARDS ARROW}"
    assert texts[left] < texts[f"seed {first.seed}"] < texts[right]


def test_the_timesteps_are_those_of_the_comparison(comparison: Comparison) -> None:
    found = list(shown(drawn("timesteps", comparison)))
    trained = [n for n, member in enumerate(comparison.members) if member.timesteps]
    assert len(trained) == len(comparison.members) - 1
    assert [path for path, _ in found] == [f"members[{n}].timesteps" for n in trained]
    changes, heights = [], []
    for path, element in found:
        drawn_points, value = line(element), at(comparison, path)
        assert drawn_points is not None
        assert len(drawn_points) == len(value)
        changes += [each["final"] - each["base"] for each in value]
        heights += [y for _, y in drawn_points]
    assert assert_on_a_scale(changes, heights) < 0


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("first", range(0, len(HOSTILE), 3))
def test_names_are_shown_and_do_nothing(comparison: Comparison, name: str, first: int) -> None:
    names = HOSTILE[first : first + 3]
    text = drawn(name, renamed(comparison, names))
    root = ET.fromstring(text)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= ELEMENTS
    assert "<script" not in text
    assert text.isprintable()
    shown_texts = [element.text or "" for element in root.iter(f"{SVG}text")]
    for each in map(printable, names):
        start = each[:5]
        assert any(start in shown_text for shown_text in shown_texts)
    assert root[0].text == f"Chart of {printable(names[0])}"


def one_evaluation(value: dict[str, Any]) -> None:
    for member in value["members"]:
        member["validation"], member["train"] = member["validation"][:1], member["train"][:1]


def no_training_loss(value: dict[str, Any]) -> None:
    for point in value["members"][0]["train"]:
        point["loss"] = None
    value["members"][1]["train"][3]["loss"] = None


def one_variant(value: dict[str, Any]) -> None:
    value["members"], value["pairs"] = value["members"][:1], []


def far_above(value: dict[str, Any]) -> None:
    member = value["members"][0]
    member["validation"][1]["curve_loss"] = 1e30
    member["validation"][1]["change"] |= {"mean": 1e30, "low": -1e30, "high": 3e30}
    member["train"][2]["loss"] = 1e35


def all_zero(value: dict[str, Any]) -> None:
    for member in value["members"]:
        member["train"] = [{"step": point["step"], "loss": 0.0} for point in member["train"]]
        for point in member["validation"]:
            point |= {"curve_loss": 0.0, "change": None}


def no_intervals(value: dict[str, Any]) -> None:
    for member in value["members"]:
        for point in member["validation"][1:]:
            point["change"] |= {"low": None, "high": None}
    for pair in value["pairs"]:
        pair["margin"] = None
        for cell in (pair["cells"] or {}).values():
            cell |= {"low": None, "high": None}


def no_timesteps(value: dict[str, Any]) -> None:
    for member in value["members"]:
        member["timesteps"] = []
    for pair in value["pairs"]:
        pair["cells"] = None


def long_names(value: dict[str, Any]) -> None:
    for member in value["members"]:
        member["variant"] = (member["variant"] * 63)[:63]
    for pair in value["pairs"]:
        pair["a"], pair["b"] = (pair["a"] * 63)[:63], (pair["b"] * 63)[:63]


ODD = [one_evaluation, no_training_loss, one_variant, far_above, all_zero, no_intervals, no_timesteps, long_names]


@pytest.mark.parametrize("edit", ODD, ids=lambda edit: edit.__name__)
def test_what_is_odd_is_drawn_as_far_as_it_goes(comparison: Comparison, edit: Callable[[dict[str, Any]], None]) -> None:
    odd = edited(comparison, edit)
    for name, draw in CHARTS.items():
        figure = draw(odd)
        none = (edit is no_timesteps and name != "curves") or (edit is one_variant and name == "forest")
        assert (figure is None) == none
        if figure is not None:
            numbers = re.findall(r"(?<![\w#-])-?\d+(?:\.\d+)?(?!\w)", svg(figure, name, name, "members"))
            assert max(abs(float(number)) for number in numbers) < 1e7  # which any browser can draw
    assert plot_curves(odd).startswith(b"\x89PNG")


def test_a_loss_far_above_the_base_models_does_not_flatten_the_others(comparison: Comparison) -> None:
    held_out, _ = curves(edited(comparison, far_above)).axes
    assert held_out.get_ylim()[1] < 4 * max(member.validation[0].curve_loss for member in comparison.members)


def test_many_adapters_are_told_apart_without_a_line_of_the_legend_for_each(comparison: Comparison) -> None:
    variants, seeds = [f"strategy-{n}" for n in range(12)], list(range(1, 6))

    def multiply(value: dict[str, Any]) -> None:
        member = value["members"][0]
        value["members"] = [member | {"variant": variant, "seed": seed} for variant in variants for seed in seeds]
        value["pairs"] = []

    many = edited(comparison, multiply)
    figure = curves(many)
    held_out, _ = figure.axes
    looks = {
        (line.get_color(), line.get_fillstyle(), line.get_marker(), line.get_linestyle()) for line in held_out.lines
    }
    assert len(held_out.lines) == len(variants) * len(seeds)
    assert len({look[:3] for look in looks}) == len(variants) * len(seeds)
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {*variants, *(f"seed {seed}" for seed in seeds)}
    assert figure.get_figheight() > curves(comparison).get_figheight()  # by what the legend takes


def test_equal_comparisons_give_equal_pictures(comparison: Comparison) -> None:
    picture = plot_curves(comparison)
    assert picture == plot_curves(Comparison.model_validate_json(json.dumps(comparison.model_dump(mode="json"))))
    assert b"Software" not in picture


@given(st.lists(st.none() | st.floats(-1e3, 1e3), max_size=120))
def test_smoothed_losses_are_means_of_those_that_are_there(losses: list[float | None]) -> None:
    there = [loss for loss in losses if loss is not None]
    found = smoothed(losses)
    assert found.shape == (len(there),)
    assert all(min(there) - 1e-9 <= each <= max(there) + 1e-9 for each in found)
    assert smoothed([None if loss is None else 0.25 for loss in losses]) == pytest.approx(0.25)


def test_smoothing_takes_noise_away_and_leaves_a_trend() -> None:
    noise = np.random.default_rng(1).standard_normal(100)
    trend = np.linspace(10, 0, 100)
    found = smoothed(list(trend + noise))
    assert np.abs(found - trend)[10:-10].max() < 1
    assert np.abs(found - trend).max() < 3  # at the ends, there are losses on one side only
    assert (found - trend).std() < noise.std() / 2
