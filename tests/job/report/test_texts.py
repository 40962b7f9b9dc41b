"""The report's texts in Markdown: the summary and the model card say what comparison.json holds, and nothing acts."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from markdown_it import MarkdownIt

from job import layout
from job.layout import Member
from job.report import table
from job.report.adapters import publish_adapters
from job.report.artefacts import stored
from job.report.build import build_comparison
from job.report.card import front_matter, render_card
from job.report.findings import Findings
from job.report.headline import study_verdict
from job.report.pictures import study_pictures
from job.report.publish import publish_report
from job.report.schema import Comparison, Pair
from job.report.summary import render_summary
from job.report.table import CANNOT_TELL, UNKNOWN, Cell, Table
from job.report.templating import environment, markdown
from job.run.adapters import AdapterIndex
from job.run.resolved import Resolved
from lora_engine.text import printable
from tests.job.report.cases import CASES, UNTOUCHED, A, B
from tests.job.report.made_run import BASE, Design, MadeRun, around, make_run

LOWER = CASES["lower, however prompted"]
CONSTANT = {"name": "a", "captions": {"strategy": "constant", "text": "a tattoo"}}
TRIGGERED = {
    "name": "b",
    "captions": {"strategy": "existing", "trigger": "xyz", "style_hints": "ink"},
    "prompt_template": "{prompt} by {trigger}",
}
HOSTILE = [
    "<script>alert(1)</script>",
    "a|b",
    "`code` ``` ~~~",
    "two\nlines\n\n# heading",
    "[x](javascript:alert(1))",
    "![x](http://evil/x.png)",
    "](javascript:alert(1)) [y]: http://evil",
    "right\u202eto left\u2066",
    "https://evil.example www.evil.example",
    "&lt;b&gt; &#106;",
    "<http://evil.example>",
    "\\| \\` \\[x](y)",
    "**bold** _slanted_ ~~struck~~ $x^2$ snake_case_name",
    "# heading",
    "- item",
    "1. item",
    "---",
    "日本語 🎨",
    "nul\0 \x1b[31m",
    "\udce9 half",
    '"quoted": {yaml: [x]} # comment',
    "---\nlicense: mit\n---",
    "a\u2028b\u0085c\u00a0d",
]

PARSER = MarkdownIt("gfm-like")
assert PARSER.linkify is not None
PARSER.linkify.set({"fuzzy_link": False, "fuzzy_email": False})  # which takes training.optimizer.name for a place


ELEMENTS = set("h1 h2 p strong table thead tbody tr th td a img ul li pre code".split())


class Texts(HTMLParser):
    """The texts and the elements of rendered Markdown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.text = ""
        self.feed(PARSER.render(text))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.elements.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a Markdown text as a reader sees them: rows of cells, the heading first."""
    found: list[list[list[str]]] = []
    for token in PARSER.parse(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and token.level >= 4 and found:
            assert token.children is not None
            assert {child.type for child in token.children} <= {"text"}, token.content
            found[-1][-1].append("".join(child.content for child in token.children))
    return found


def published(made: MadeRun) -> tuple[dict[str, Any], str, str]:
    """What a run's report says: comparison.json, the summary and the card."""
    publish_report(made.run)
    summary, card = ((made.folder / key).read_text() for key in (layout.SUMMARY, layout.MODEL_CARD))
    return json.loads((made.folder / layout.COMPARISON).read_text()), summary, card


def at(report: Any, path: str) -> Any:
    """The value at a path such as members[0].gain.mean."""
    for name, place in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        report = report[name] if name else report[int(place)]
    return report


def cells_of(found: Table) -> list[Cell]:
    return [part for row in found.rows for entry in row for part in entry if isinstance(part, Cell)]


@given(st.one_of(st.sampled_from(HOSTILE), st.text()))
def test_any_text_is_one_line_of_plain_text(text: str) -> None:
    shown = markdown(text)
    assert shown.isprintable()
    for wrapped in (shown, f"word {shown}", f"- {shown}"):
        found = Texts(wrapped)
        assert set(found.elements) <= {"p", "ul", "li"}, (text, shown)
    assert Texts(f"x{shown}x").text.strip("\n") == f"x{printable(text)}x"


@given(st.one_of(st.sampled_from(HOSTILE), st.text()), st.sampled_from(HOSTILE))
def test_any_text_stays_in_its_cell(text: str, other: str) -> None:
    made = environment().from_string('{% from "table.md.j2" import table %}{{ table(["one", "two"], rows) }}')
    ((head, row),) = tables(made.render(rows=[[text, other]]))
    assert head == ["one", "two"]
    assert row[0] == printable(text).strip()
    assert len(row) == 2


def test_what_a_template_is_not_given_is_an_error_and_html_escapes_by_itself() -> None:
    with pytest.raises(UndefinedError):
        environment().from_string("{{ nothing }}").render()
    assert callable(environment().autoescape)
    assert environment().autoescape("page.html.j2")
    assert not environment().autoescape("summary.md.j2")


def test_the_summary_says_what_comparison_json_holds(tmp_path: Path) -> None:
    report, summary, _ = published(make_run(tmp_path, Design([A, B], LOWER.losses, seeds=(1, 2, 3))))
    assert report["verdict"]["sentence"] in Texts(summary).text
    for note in report["notes"]:
        assert note in Texts(summary).text
    assert report["verdict"]["headline"] in Texts(summary).text
    margin = report["pairs"][-1]["margin"]
    assert report["verdict"]["rests_on"] in Texts(summary).text
    assert report["verdict"]["rests_on"].startswith("12 independent held-out images, 3 training seeds, 4 steps.")
    assert f"A difference below {margin:.2g}, 10% of what training gained, does not matter." in summary
    assert "](curves.png)" in summary
    assert "](samples.png)" not in summary
    ((head, *rows),) = tables(summary)
    assert head[:5] == ["variant", "seed", "loss as trained", "gain", "listens"]
    assert [(row[0], row[1]) for row in rows] == [(m["variant"], str(m["seed"])) for m in report["members"]]
    for row, member in zip(rows, report["members"], strict=True):
        gain = member["gain"]
        final = member["final_loss_interval"]
        assert row[2] == f"{member['final_loss']:#.3g} [{final['low']:#.3g}, {final['high']:#.3g}]"
        assert row[3] == f"{gain['mean']:+#.2g} [{gain['low']:+#.2g}, {gain['high']:+#.2g}]"
        assert row[5:9] == [UNKNOWN] * 4
        assert row[9] == f"{member['best']['step']} of 4"


def test_every_cell_names_the_place_of_its_value(tmp_path: Path) -> None:
    design = Design([A, B], LOWER.losses, seeds=(1, 2), diverged={Member("b", 2): 3})
    comparison = build_comparison(make_run(tmp_path, design).run)
    report = comparison.model_dump(mode="json")
    found = table.adapters(comparison)
    assert len(cells_of(found)) > 20
    for cell in cells_of(found):
        assert at(report, cell.path) == cell.value
    assert [table.text_of(row[2]) for row in found.rows][-1] == "diverged at step 3"


@pytest.mark.parametrize("images", [1, 2])
def test_what_the_data_cannot_tell_is_said(tmp_path: Path, images: int) -> None:
    losses = around({BASE: UNTOUCHED, "a": LOWER.a, "b": LOWER.b}, images=images)
    comparison = build_comparison(make_run(tmp_path, Design([A, B], losses, groups=range(images))).run)
    shown = [table.text_of(row[2]) for row in table.adapters(comparison).rows]
    assert all((CANNOT_TELL in text) == (images == 1) for text in shown), shown
    assert comparison.verdict.rests_on.startswith(f"{images} independent held-out image{'' if images == 1 else 's'}, ")
    assert comparison.verdict.pictures is None


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.5, 2.0, "The pictures agree: those of a fit their prompts better (clip_score)."),
        (-2.0, -0.5, "The pictures disagree: those of b fit their prompts better (clip_score)."),
        (-1.0, 1.0, "By CLIP, their pictures cannot be told apart."),
        (None, None, "By CLIP, their pictures cannot be told apart."),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_it_is_said_whether_pictures_agree(
    tmp_path: Path, low: float | None, high: float | None, says: str, turned: bool
) -> None:
    """The winner a is lower than b, whichever of the two comes first."""
    variants = [B, A] if turned else [A, B]
    comparison = build_comparison(make_run(tmp_path, Design(variants, LOWER.losses)).run)
    if turned and low is not None and high is not None:
        low, high = -high, -low
    score = {
        "mean": 0.0,
        "low": low,
        "high": high,
        "confidence": 0.95,
        "simultaneous_low": low,
        "simultaneous_high": high,
    }
    values = comparison.pairs[0].model_dump(mode="json") | {
        "pictures": {"bare": {}, "as_trained": {"clip_score": score}}
    }
    assert values["verdict"]["winner"] == "a"
    assert study_verdict([Pair(**values)], comparison.members, 12, 0.1).pictures == says
    values["verdict"]["winner"] = None
    neutral = re.sub("The pictures (dis)?agree", "Their pictures differ", says)
    assert study_verdict([Pair(**values)], comparison.members, 12, 0.1).pictures == neutral


def test_names_from_a_changed_run_are_shown_and_do_nothing(tmp_path: Path) -> None:
    """Names that no manifest may have: somebody else wrote them into the run."""
    made = make_run(tmp_path, Design([A, B], LOWER.losses))
    comparison = build_comparison(made.run)
    adapters = publish_adapters(made.run, comparison.members)
    resolved = stored(made.run, layout.RESOLVED, Resolved)
    for text in HOSTILE:
        said = dict.fromkeys(("headline", "sentence", "rests_on", "pictures"), text)
        said |= {"recommended": {"variant": text, "seed": 1}, "others": []}
        values = comparison.model_dump(mode="json") | {"name": text, "notes": [text], "verdict": said}
        values["members"][0]["variant"] = text
        first = adapters.adapters[0].model_copy(update={"variant": text, "name": text, "prompt": text})
        index = AdapterIndex(adapters=(first, *adapters.adapters[1:]))
        found = Findings(made.run, resolved, Comparison(**values), study_pictures(made.run), index)
        for render, links in ((render_summary, 1), (render_card, 0)):
            shown = render(found).decode().rpartition("\n---\n")[2]
            assert tables(shown)[-1][1][0] == printable(text).strip()
            assert Texts(shown).elements.count("a") == links
            assert Texts(shown).elements.count("img") == links
            assert set(Texts(shown).elements) <= ELEMENTS


@pytest.mark.parametrize(
    ("given", "identifier", "name"), [("CC-BY-4.0", "cc-by-4.0", None), ("My terms", "other", "My terms")]
)
def test_the_card_has_the_licence_that_the_manifest_gives(
    tmp_path: Path, given: str, identifier: str, name: str | None
) -> None:
    _, _, text = published(make_run(tmp_path, Design([A, B], LOWER.losses, settings=[f"output.license={given}"])))
    card = ModelCard.load(next(tmp_path.rglob("report/README.md")))
    assert (card.data.license, card.data.license_name) == (identifier, name)
    assert "# license: " not in text


def test_the_card_reads_back_and_says_how_to_use_the_adapters(tmp_path: Path) -> None:
    losses = around({BASE: UNTOUCHED, "a": {"a": 0.7, "b": 0.8, "": 0.8}, "b": {"a": 0.8, "b": 0.75, "": 0.8}})
    report, _, text = published(make_run(tmp_path, Design([CONSTANT, TRIGGERED], losses)))
    card = ModelCard.load(next(tmp_path.rglob("report/README.md")))
    assert card.data.tags == ["text-to-image", "stable-diffusion", "lora", "diffusers"]
    assert card.data.library_name == "diffusers"
    assert card.data.instance_prompt == "a tattoo"
    assert card.data.license is None
    assert card.data.base_model is None
    assert "# license: " in text
    use, training, figures = tables(card.text)
    assert use[1:] == [
        ["a", "adapters/a.safetensors", "a tattoo, {prompt}"],
        ["b", "adapters/b.safetensors", "{prompt} by xyz"],
    ]
    assert ["training.steps", "4"] in training
    assert ["training.batch_size", "4"] in training
    assert [row[0] for row in figures[1:]] == [member["variant"] for member in report["members"]]
    assert report["verdict"]["sentence"] in Texts(card.text).text


def test_the_card_names_a_base_model_of_the_hub_and_no_other_place(tmp_path: Path) -> None:
    made = make_run(tmp_path, Design([A, {**B, "training": {"steps": 6}}], LOWER.losses, seeds=(1, 2)))
    models = made.run.read_json(layout.RESOLVED) or {}
    private = models["models"]["base"]["source"]
    _, _, text = published(made)
    assert private not in text
    made.edit(layout.RESOLVED, models={"base": {"source": "hf://owner/name", "sha256": "0" * 64}})
    _, _, text = published(made)
    assert ModelCard(text).data.base_model == "owner/name"
    use, training, _ = tables(ModelCard(text).text)
    assert [row[1] for row in use[1:]] == [f"adapters/{v}-seed-{s}.safetensors" for v in "ab" for s in (1, 2)]
    assert ["training.steps", "a: 4, b: 6"] in training
    assert ["seeds", "1, 2"] in training


@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.text()), min_size=1, max_size=3))
def test_any_text_survives_the_front_matter(texts: list[str]) -> None:
    widget = [{"text": text, "output": {"url": f"folder/{text}"}} for text in texts]
    matter = front_matter({"instance_prompt": texts[0], "widget": widget})
    assert all(line.isprintable() for line in matter.split("\n"))
    data = ModelCard(f"---\n{matter}# license: x\n---\n\n# body\n").data
    assert data.instance_prompt == texts[0]
    assert data.widget == widget
