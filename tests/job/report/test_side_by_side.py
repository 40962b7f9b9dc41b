"""Several finished runs side by side: numbers of their own reports, withheld where they are not like for like."""

import base64
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from job import layout
from job.report.publish import publish_report
from job.report.schema import Comparison
from job.report.side_by_side.build import build_side_by_side
from job.report.side_by_side.page import render_markdown, render_page
from job.report.side_by_side.runs import read_run
from job.report.side_by_side.schema import SideBySide, side_by_side_schema
from job.report.side_by_side.tables import loss_tables, picture_table, settings_table
from job.report.table import Cell, Table, adapters, texts
from lora_engine.evaluation.pictures import MEASURES
from lora_engine.text import printable
from tests.job.report.cases import CASES, A, B
from tests.job.report.made_run import Design, MadeRun, make_run
from tests.job.report.test_texts import HOSTILE, at, tables
from tests.job.small_run import arguments, folder_of
from tests.lora_job import lora_job

Json = dict[str, Any]
LOWER = CASES["lower, however prompted"]
OF_CLIP = {"clip_score", "clip_retrieval", "diversity", "similarity", "kid", "cmmd"}
SAMPLES = "evaluation.samples={prompts: [a heart, a sun], steps: 1, clip: {source: 'miniature://clip'}}"
ELEMENTS = set(
    "html head meta title style body h1 h2 p ul li b div table thead tbody tr th td data span br figure figcaption "
    "img".split()
)


class Page(HTMLParser):
    """The elements of a page, with their attributes, and the text in each that names a place of the JSON."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[tuple[str, str | None, str]] = []  # path, value, text
        self.style = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append((tag, found))
        if path := found.get("data-path"):
            self.cells.append((path, found.get("value"), ""))

    def handle_data(self, data: str) -> None:
        last, attributes = self.elements[-1] if self.elements else ("", {})
        if last == "style" and not self.style:
            self.style = data
        if "data-path" in attributes and not self.cells[-1][2]:
            self.cells[-1] = (*self.cells[-1][:2], data)


def as_shown(cell: Cell) -> str:
    """The text of a cell on the page, where numbers have a true minus sign."""
    return cell.text if isinstance(cell.value, str | bool | None) else cell.text.replace("-", "\N{MINUS SIGN}")


@pytest.fixture(scope="module")
def finished(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs that differ in their steps: `runs/short` and `runs/long`."""
    folder = tmp_path_factory.mktemp("side-by-side")
    for name, steps in (("short", 2), ("long", 4)):
        lines = (SAMPLES, f"training.steps={steps}")
        done = lora_job("run", *arguments(miniature, folder, *lines, name=name), "--workdir", folder / "work")
        assert done.returncode == 0, done.stderr
    return folder / "runs"


@pytest.fixture
def pair(finished: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of both runs."""
    return shutil.copytree(finished / "short", tmp_path / "short"), shutil.copytree(
        finished / "long", tmp_path / "long"
    )


def made(folder: Path, name: str, *settings: str, **more: Any) -> MadeRun:
    """A run without samples that has its report."""
    run = make_run(folder / name, Design([A, B], LOWER.losses, settings=(f"name={name}", *settings), **more))
    publish_report(run.run)
    return run


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    """A run of that kind, which nothing changes, called `one`."""
    return made(tmp_path_factory.mktemp("plain"), "one")


def beside(*roots: Path) -> SideBySide:
    """Runs side by side, once it is known to hold to its schema, and to be shown whole."""
    runs = [read_run(folder_of(str(root))) for root in roots]
    found = build_side_by_side(runs)
    jsonschema.validate(found.model_dump(mode="json"), side_by_side_schema())
    shown = tables(render_markdown(found).decode())
    every = [settings_table(found), *loss_tables(found), picture_table(found)]
    as_text = [[list(table.columns), *map(list, texts(table))] for table in every if table.rows]
    assert [[[printable(text) for text in row] for row in table] for table in as_text] == shown
    page = Page(render_page(found, runs).decode())
    assert {tag for tag, _ in page.elements} <= ELEMENTS
    return found


def cells_of(*found: Table) -> list[Cell]:
    return [part for table in found for row in table.rows for entry in row for part in entry if isinstance(part, Cell)]


def files(*roots: Path) -> dict[Path, tuple[bytes, int]]:
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for root in roots
        for path in root.rglob("*")
        if path.is_file()
    }


def edit(path: Path, change: Callable[[Json], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_the_texts_of_each_run_show_its_pictures(finished: Path) -> None:
    """The summary and the card, which are of one run."""
    root = finished / "long"
    report = json.loads((root / layout.COMPARISON).read_text())
    ((_, *rows),) = tables((root / layout.SUMMARY).read_text())
    for row, member in zip(rows, report["members"], strict=True):
        measures = member["samples"][-1]["as_trained"]["measures"]
        assert row[5] == f"{measures['clip_score']['mean']:#.3g}".rstrip(".")
        assert row[6] == f"{measures['clip_retrieval']['mean']:.0%}"
        assert row[7] == f"{measures['line_art_distance']['mean']:#.2g}".rstrip(".")
    for cell in cells_of(adapters(Comparison(**report))):
        assert at(report, cell.path) == cell.value
    assert "](samples.png)" in (root / layout.SUMMARY).read_text()
    card = ModelCard.load(root / layout.MODEL_CARD)
    assert [each["text"] for each in card.data.widget] == ["a drawing, a heart", "a drawing, a sun", "a heart", "a sun"]
    assert all((root / each["output"]["url"]).is_file() for each in card.data.widget)
    assert card.data.instance_prompt == "a drawing"


def test_the_command_writes_beside_the_runs_and_nothing_into_them(pair: tuple[Path, Path], tmp_path: Path) -> None:
    before = files(*pair)
    done = lora_job("report", *pair, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert files(*pair) == before
    assert done.stdout == "side-by-side-short-long/side-by-side.html\n"
    folder = tmp_path / "side-by-side-short-long"
    assert {path.name for path in folder.iterdir()} == {f"side-by-side.{kind}" for kind in ("json", "md", "html")}
    report = json.loads((folder / "side-by-side.json").read_text())
    assert done.stderr.strip() == report["sentence"]
    assert report["sentence"] == "short and long differ in training.steps; their losses are like for like."
    assert report["settings"] == [{"key": "training.steps", "values": ["2", "4"]}]
    again = lora_job("report", *reversed(pair), "--output", tmp_path / "other")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "other" / "side-by-side.html").exists()


def test_every_number_is_that_of_the_runs_own_report(pair: tuple[Path, Path]) -> None:
    found = beside(*pair)
    reports = [json.loads((root / layout.COMPARISON).read_text()) for root in pair]
    assert [run.sentence for run in found.runs] == [report["verdict"]["sentence"] for report in reports]
    assert [losses.variant for losses in found.losses] == ["vanilla", "blip"]
    for losses in found.losses:
        assert losses.alike.groups == [[0, 1]]
        for of in losses.runs:
            (member,) = (each for each in reports[of.run]["members"] if each["variant"] == losses.variant)
            (mine,) = of.members
            assert (mine.base_loss, mine.final_loss) == (member["base_loss"], member["final_loss"])
            assert mine.gain is not None
            assert mine.gain.model_dump() == member["gain"]
            assert mine.best_step == member["best"]["step"]
        assert losses.runs[0].members[0].base_loss == losses.runs[1].members[0].base_loss
    for pictures in found.pictures:
        assert [of.run for of in pictures.runs] == [0, 1]
        for of in pictures.runs:
            (variant,) = (each for each in reports[of.run]["variants"] if each["variant"] == pictures.variant)
            assert of.bare.model_dump() == variant["bare"]
            assert of.as_trained is not None
            assert of.as_trained.model_dump() == variant["as_trained"]
    assert found.measures.keys() == {*MEASURES, "copies"}
    assert all(alike.groups == [[0, 1]] for alike in found.measures.values())


def test_the_page_shows_what_the_json_holds_and_needs_nothing_else(pair: tuple[Path, Path]) -> None:
    runs = [read_run(folder_of(str(root))) for root in pair]
    found = build_side_by_side(runs)
    report, text = found.model_dump(mode="json"), render_page(found, runs).decode()
    page = Page(text)
    expected = cells_of(settings_table(found), *loss_tables(found), picture_table(found))
    assert [(path, shown) for path, _, shown in page.cells] == [(cell.path, as_shown(cell)) for cell in expected]
    for (path, value, _), cell in zip(page.cells, expected, strict=True):
        assert at(report, path) == cell.value
        assert value is None or json.loads(value) == cell.value
    (policy,) = (each["content"] for tag, each in page.elements if tag == "meta" and "http-equiv" in each)
    sha256 = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{sha256}'; img-src data:;")
    assert "color-scheme: light dark" in page.style
    assert not [each for _, each in page.elements if each.keys() & {"href", "style", "onclick", "onload"}]
    images = [each for tag, each in page.elements if tag == "img"]
    # Of two runs each vanilla and blip, for each of two prompts: as trained, and vanilla's bare beside blip's.
    assert len(images) == 2 * 2 * (2 + 2)
    for image in images:
        kind, _, data = str(image["src"]).partition(",")
        assert kind == "data:image/webp;base64"
        with Image.open(io.BytesIO(base64.b64decode(data)), formats=("WEBP",)) as opened:
            assert opened.size == (int(str(image["width"])), int(str(image["height"])))
        assert re.search(r"a (heart|sun) · seed 0$", str(image["alt"]))
    assert "2 of the 2 prompts that all runs share are shown." in text


@pytest.mark.parametrize(
    ("settings", "more", "reason"),
    [
        (["preprocess.resolution=96"], {}, "losses at 384 and 96 pixels are of other latents"),
        (["preprocess.background=black"], {}, "their images are prepared otherwise (background)"),
        (["evaluation.final_timesteps=8"], {}, "they are scored at other timesteps (2/4 and 2/8 an image)"),
        (["evaluation.timesteps=1"], {}, "they are scored at other timesteps (2/4 and 1/4 an image)"),
        ([], {"groups": (*range(10), 10, 10)}, "their held-out images are not the same"),
        ([], {"texts": "picture {}".format}, "the captions of their held-out images are not the same"),
        ([], {"earlier": True}, "other versions scored them"),
    ],
)
def test_losses_that_are_not_like_for_like_are_withheld(
    tmp_path: Path, plain_run: MadeRun, settings: list[str], more: Json, reason: str
) -> None:
    found = beside(plain_run.folder, made(tmp_path, "other", *settings, **more).folder)
    assert {losses.variant for losses in found.losses} == {"a", "b"}
    for losses in found.losses:
        assert losses.runs == []
        assert losses.alike.groups == [[0], [1]]
        (unlike,) = losses.alike.unlike
        assert (unlike.runs, unlike.reasons) == ([0, 1], [reason])
    assert found.sentence.endswith(f"their losses are withheld: {reason}.")
    assert list(loss_tables(found)) == []
    assert f"a, b: the losses of one and other are withheld, since {reason}." in plain(render_markdown(found))


def plain(markdown: bytes) -> str:
    return re.sub(r"\\(.)", r"\1", markdown.decode())


def test_other_base_models_and_weights_of_captions_are_told(tmp_path: Path, plain_run: MadeRun) -> None:
    one, other = plain_run, made(tmp_path, "other")

    def change(resolved: Json) -> None:
        resolved["identity"]["base_model"] = "f" * 64
        resolved["identity"]["variants"]["b"]["captions"]["caption_dropout"] = 0.5

    edit(other.folder / layout.RESOLVED, change)
    found = beside(one.folder, other.folder)
    assert [losses.alike.unlike[0].reasons for losses in found.losses] == [
        ["they are of other base models"],
        ["they are of other base models", "their captions are weighted otherwise"],
    ]
    assert {setting.key: setting.values for setting in found.settings} == {
        "base_model.sha256": [json.dumps(one.resolved.identity.base_model), json.dumps("f" * 64)],
        "captions.caption_dropout": ["0.0", None],
        "variants.a.captions.caption_dropout": [None, "0.0"],
        "variants.b.captions.caption_dropout": [None, "0.5"],
    }


def test_what_does_not_change_a_loss_withholds_none(tmp_path: Path, plain_run: MadeRun) -> None:
    settings = ["training.steps=6", "lora.rank=2", "preprocess.near_duplicate_distance=4", "evaluation.every=3"]
    found = beside(plain_run.folder, made(tmp_path, "other", *settings).folder)
    assert [losses.alike.groups for losses in found.losses] == [[[0, 1]], [[0, 1]]]
    assert {setting.key: setting.values for setting in found.settings} == {
        "training.steps": ["4", "6"],
        "lora.rank": ["8", "2"],
        "preprocess.near_duplicate_distance": ["6", "4"],
        "evaluation.every": ["2", "3"],
    }
    assert found.sentence.startswith("one and other differ in ")
    assert " and 1 more settings; their losses are like for like." in found.sentence


@pytest.mark.slow
def test_of_three_runs_those_that_are_alike_stand_together(tmp_path: Path) -> None:
    large = "preprocess.resolution=96"
    runs = [made(tmp_path, "one", large), made(tmp_path, "two"), made(tmp_path, "three", large, "training.steps=6")]
    found = beside(*(run.folder for run in runs))
    assert [losses.alike.groups for losses in found.losses] == [[[0, 2], [1]]] * 2
    assert [[of.run for of in losses.runs] for losses in found.losses] == [[0, 2], [0, 2]]
    (table,) = loss_tables(found)
    assert [row[1] for row in texts(table)] == ["one", "three", "one", "three"]
    assert "some of their losses are withheld: losses at 96 and 384 pixels" in found.sentence


def test_a_variant_of_one_run_stands_as_a_whole_among_what_differs(tmp_path: Path, plain_run: MadeRun) -> None:
    one = plain_run
    other = make_run(tmp_path / "other", Design([A], LOWER.losses, settings=("name=other",)))
    publish_report(other.run)
    found = beside(one.folder, other.folder)
    (setting,) = (each for each in found.settings if each.key == "variants.b")
    assert setting.values[1] is None
    assert json.loads(str(setting.values[0]))["style_hints"] == "ink"
    assert [losses.variant for losses in found.losses] == ["a"]
    assert "one, other: no pictures of the last step." in plain(render_markdown(found))


@pytest.mark.parametrize(
    ("key", "value", "reason", "measures"),
    [
        ("prompts", ["a heart", "a moon"], "other prompts", {*MEASURES, "copies"}),
        ("width", 96, "other sizes", {*MEASURES, "copies"}),
        ("guidance", 1.5, "other sampler settings", {*MEASURES, "copies"}),
        ("sampler", "ddim", "other sampler settings", {*MEASURES, "copies"}),
        ("seed", 5, "other seeds", {*MEASURES, "copies"}),
        ("clip_sha256", "f" * 64, "another CLIP model, or none", OF_CLIP),
    ],
)
def test_measures_of_pictures_that_cannot_be_compared_are_named(
    pair: tuple[Path, Path], key: str, value: Any, reason: str, measures: set[str]
) -> None:
    def change(index: Json) -> None:
        settings = index["settings"]
        if key == "seed":
            for row in index["images"]:
                row["seed"] = value
        elif key in ("width", "guidance"):
            settings["settings"] = [each | {key: value} for each in settings["settings"]]
        else:
            settings[key] = value

    runs = [read_run(folder_of(str(root))) for root in pair]
    for path in pair[1].glob("variants/*/seed-1337/samples/step-000004/samples.json"):
        edit(path, change)
    runs[1] = read_run(folder_of(str(pair[1])))
    found = build_side_by_side(runs)
    unlike = {name: alike.unlike for name, alike in found.measures.items() if alike.unlike}
    assert unlike.keys() == measures
    assert {tuple(each.reasons) for pairs in unlike.values() for each in pairs} == {(reason,)}
    assert all(found.measures[name].groups == [[0, 1]] for name in found.measures.keys() - measures)
    assert f": {reason}." in plain(render_markdown(found))


def test_pictures_of_other_images_are_compared_in_what_needs_none(pair: tuple[Path, Path]) -> None:
    edit(pair[1] / layout.RESOLVED, lambda resolved: resolved["identity"].update(data="f" * 64))
    found = beside(*pair)
    of_images = {
        "line_art_distance",
        "line_art_training_distance",
        "line_art_gap",
        "similarity",
        "kid",
        "cmmd",
        "copies",
    }
    assert {name for name, alike in found.measures.items() if alike.unlike} == of_images


def test_names_and_prompts_from_a_changed_run_are_shown_and_do_nothing(pair: tuple[Path, Path], tmp_path: Path) -> None:
    half = "\udce9 half"  # which no JSON of a run can hold
    texts_ = [text for text in HOSTILE if text != half]
    names = "".join(texts_)

    def rename(report: Json) -> None:
        report["name"] = names
        report["verdict"]["sentence"] = names

    def prompt(index: Json) -> None:
        count, row = len(texts_), index["images"][0]
        index["settings"] |= {
            "prompts": texts_,
            "as_trained": texts_,
            "settings": index["settings"]["settings"][:1] * count,
        }
        index["images"] = [row | {"prompt": place, "prompting": "both", "clip_cosines": None} for place in range(count)]

    for root in pair:
        (root / layout.SUCCESS).unlink()  # What it lists would be compared before.
        edit(root / layout.COMPARISON, rename)
        edit(
            root / layout.RESOLVED,
            lambda resolved: resolved["manifest"]["evaluation"]["samples"].update(negative_prompt=names),
        )
        for path in root.glob("variants/*/seed-1337/samples/*/samples.json"):
            edit(path, prompt)
    edit(
        pair[1] / layout.RESOLVED, lambda r: r["manifest"]["evaluation"]["samples"].update(negative_prompt=names[::-1])
    )
    found = beside(*pair)
    assert [run.label for run in found.runs] == [f"{names} ({root})" for root in pair]
    done = lora_job("report", *pair, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().isprintable()
    (folder,) = tmp_path.glob("side-by-side-*")
    text = (folder / "side-by-side.html").read_text()
    assert all(line.isprintable() for line in text.split("\n"))
    assert "<script" not in text
    assert all(line.isprintable() for line in (folder / "side-by-side.md").read_text().split("\n"))


def test_a_page_stays_below_five_megabytes(pair: tuple[Path, Path]) -> None:
    """Forty prompts, whose pictures are of noise, which hardly compresses."""
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(noise, "PNG")
    sha256 = hashlib.sha256(noise.getvalue()).hexdigest()

    def prompt(index: Json) -> None:
        row = index["images"][0]
        index["settings"] |= {"prompts": [f"prompt {at}" for at in range(40)], "as_trained": [], "settings": []}
        index["images"] = [
            row | {"prompt": place, "prompting": "both", "clip_cosines": None, "file": "noise.png", "sha256": sha256}
            for place in range(40)
        ]

    for root in pair:
        (root / layout.SUCCESS).unlink()  # What it lists would be compared before.
        for path in root.glob("variants/*/seed-1337/samples/*/samples.json"):
            edit(path, prompt)
            path.with_name("noise.png").write_bytes(noise.getvalue())
    runs = [read_run(folder_of(str(root))) for root in pair]
    page = render_page(build_side_by_side(runs), runs).decode()
    assert 3_000_000 < len(page.encode()) < 5_000_000
    shown = re.search(r"(\d+) of the 40 prompts that all runs share are shown", page)
    assert shown is not None
    assert page.count("<img ") == 4 * int(shown[1]) > 0


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    roots = [made(tmp_path / place, "same").folder for place in ("here", "there")]
    found = beside(*roots)
    assert [run.label for run in found.runs] == [f"same ({root})" for root in roots]
    assert found.settings == []
    assert "have the same settings; their losses are like for like." in found.sentence


def test_one_run_is_reported_as_ever(pair: tuple[Path, Path], tmp_path: Path) -> None:
    done = lora_job("report", pair[0], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = (layout.COMPARISON, layout.ADAPTER_INDEX, layout.PAGE)
    assert done.stdout.splitlines() == [f"{pair[0]}/{key}" for key in shown]
    assert {path.name for path in tmp_path.iterdir()} == {"short", "long"}
    refused = lora_job("report", pair[0], "--output", tmp_path / "out")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--output" in refused.stderr


def test_a_run_that_is_named_twice_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(pair[0])
    for again in ("short", "./short/", "link", f"file://{pair[0]}"):
        done = lora_job("report", pair[0], pair[1], again, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "is named twice" in done.stderr
    assert not list(tmp_path.glob("side-by-side*"))


def test_a_folder_that_is_not_of_this_machine_is_refused(pair: tuple[Path, Path]) -> None:
    done = lora_job("report", *pair, "--output", "s3://bucket/there")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "s3://bucket/there is not a folder of this machine." in done.stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_text("{}"), "is not a report that this version writes"),
        (lambda path: path.write_text("[" * 100_000), "is not a report that this version writes"),
        (lambda path: path.write_text('{"name": NaN}'), "is not a report that this version writes"),
        (lambda path: edit(path, lambda report: report["members"].pop()), "has other adapters than the run"),
    ],
)
def test_a_run_without_its_report_is_sent_to_make_one(
    pair: tuple[Path, Path], tmp_path: Path, change: Callable[[Path], object], says: str
) -> None:
    change(pair[1] / layout.COMPARISON)
    done = lora_job("report", *pair, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (46, 1), done.stderr
    assert says in done.stderr
    assert f"Write it with `lora-job report {pair[1]}`." in done.stderr
    assert not list(tmp_path.glob("side-by-side*"))


def test_values_that_no_json_holds_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    resolved = pair[1] / layout.RESOLVED
    resolved.write_text(resolved.read_text().replace('"near_duplicate_distance": 6', '"near_duplicate_distance": NaN'))
    done = lora_job("report", *pair, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (46, 1), done.stderr
