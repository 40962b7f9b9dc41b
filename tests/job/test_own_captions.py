"""A run on pictures whose captions have several lines, contradict each other, and belong to copies."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from job.layout import RESOLVED
from job.layout import captions as captions_of
from job.report.schema import Comparison
from job.run.dataset import Images
from job.stages.preprocess import images_of
from lora_engine.errors import DataError
from lora_engine.images.sources import list_files
from lora_engine.records import CaptionRecord
from tests.job.small_run import arguments, attempt_of, drawings, folder_of
from tests.lora_job import lora_job

COPIES = 3


def placed(folder: Path) -> Path:
    """Twelve drawings; of three of them a copy with a caption of its own; two lines in every text but that of one."""
    pictures = sorted(drawings(folder).glob("*.png"))
    for at, path in enumerate(pictures):
        text = path.with_suffix(".txt")
        if at < COPIES:
            shutil.copy(path, folder / f"z{at}.png")
            (folder / f"z{at}.txt").write_text(f":d, another {at},")
        if at:
            text.write_text(f"{text.read_text().strip()}\nline art, {at}\n")
    pictures[0].with_suffix(".caption").write_text("something else")
    return folder


LINES = (
    "preprocess.deduplicate=none",
    "evaluation.samples=null",
    "training.steps=2",
    "variants=[{name: first, captions: {strategy: existing}}, {name: random, captions: "
    "{strategy: existing, lines: random, style_hints: ink}}]",
)


@pytest.fixture(scope="module")
def finished(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    tmp_path = tmp_path_factory.mktemp("own")
    placed(tmp_path / "drawings")
    done = lora_job("run", *arguments(miniature, tmp_path, *LINES), "--workdir", tmp_path / "work")
    assert done.returncode == 0, done.stderr
    assert '"event": "captions read", "images": 15, "missing": 0, "sources": {".txt": 15}' in done.stderr
    return tmp_path / "runs" / "small"


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_copy_is_trained_on_its_own_caption(finished: Path) -> None:
    sources = {row["id"]: row["source"] for row in rows(finished / "data" / "images.jsonl")}
    assert len(sources) == 15
    captions = {sources[row["id"]]: row["texts"] for row in rows(finished / "data" / "captions" / "first.jsonl")}
    for at in range(COPIES):
        assert captions[f"z{at}.png"] == [f":d, another {at},"]
    firsts = sorted(text for source, (text,) in captions.items() if not source.startswith("z"))
    assert len(firsts) == 12
    assert not any("line art" in text or "another" in text for text in firsts)
    assert {path.stem for path in (finished / "data" / "thumbnails").iterdir()} == sources.keys()
    random = folder_of(str(finished)).read_rows(captions_of("random"), CaptionRecord)
    assert random is not None
    texts = {sources[record.id]: record.texts for record in random}
    assert sorted(len(each) for each in texts.values()) == [1] * 4 + [2] * 11
    assert texts["z0.png"] == (":d, another 0, ink",)


def test_the_report_has_what_the_log_said(finished: Path) -> None:
    comparison = Comparison.model_validate_json((finished / "report" / "comparison.json").read_text())
    facts = comparison.own_captions
    assert facts is not None
    assert (facts.images, facts.several, facts.further, facts.contradicted) == (15, 11, 11, 1)
    (warning,) = facts.warnings
    assert ".txt counts, not " in warning
    assert [comparison.captions[name]["lines_dropped"] for name in ("first", "random")] == [11, 0]
    page = (finished / "report" / "report.html").read_text()
    assert 'data-path="own_captions.further">11<' in page
    assert warning in page


def test_a_run_whose_copies_an_earlier_version_named_alike_goes_on_with_those_names(
    finished: Path, tmp_path: Path
) -> None:
    files = list(list_files(placed(tmp_path / "drawings")))

    def prepared(attempt_folder: Path, resolved: dict[str, Any]) -> Images:
        attempt, _ = attempt_of(attempt_folder, "preprocess.deduplicate=none", "dataset.validation_min=3")
        folder_of(attempt.run.root).write_json(RESOLVED, resolved)
        return images_of(attempt, "f", lambda: files)

    resolved = json.loads((finished / RESOLVED).read_text())
    del resolved["identity"]["own_captions"]
    names = [image.id for image in prepared(tmp_path / "today", resolved).used]
    assert len(set(names)) == len(names) == 15
    contents = [hashlib.sha256(Path(f.path).read_bytes()).hexdigest() for f in files if f.key.endswith(".png")]
    resolved["data_sha256"] = hashlib.sha256("\n".join(sorted(contents)).encode()).hexdigest()
    earlier = prepared(tmp_path / "earlier", resolved)
    assert sorted(image.id for image in earlier.used) == sorted(contents)
    assert earlier.prepared.paths.keys() == set(contents)


@pytest.mark.slow
def test_a_caption_that_its_user_changed_is_noticed(miniature: Path, finished: Path, tmp_path: Path) -> None:
    """Of a finished run, too, whose files and status stay as they were."""
    for name in ("drawings", "runs"):
        shutil.copytree(finished.parents[1] / name, tmp_path / name)
    run, command = tmp_path / "runs" / "small", ("run", *arguments(miniature, tmp_path, *LINES))
    moved = lora_job(*command, "--workdir", tmp_path / "work")
    assert moved.returncode == 0, moved.stderr
    assert "the captions" not in moved.stderr
    text = tmp_path / "drawings" / "z0.txt"
    then = text.read_text()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lease.json"}
    text.write_text("a blue whale")
    for _ in range(2):
        refused = lora_job(*command, "--workdir", tmp_path / "work")
        assert refused.returncode == 46, refused.stderr
        last = refused.stderr.splitlines()[-1]
        assert "other captions than dataset.source has now: z0.png (':d, another 0,' -> 'a blue whale')." in last
        assert "Restore what it was" in last
        assert "--set name=" in last
        after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "lease.json"}
        assert after == before
    text.write_text(then)
    restored = lora_job(*command, "--workdir", tmp_path / "work")
    assert restored.returncode == 0, restored.stderr
    assert json.loads((run / "resolved.json").read_text())["identity"]["own_captions"] is not None


def test_a_row_of_a_table_is_a_caption_like_any_other(tmp_path: Path) -> None:
    """And their order, a row of no image that is used, or a line that no strategy takes change nothing."""
    folder = drawings(tmp_path / "drawings")
    pictures = sorted(folder.glob("*.png"))
    texts = {picture.name: picture.with_suffix(".txt").read_text().strip() for picture in pictures}
    for path in folder.glob("*.txt"):
        path.unlink()
    table = folder / "metadata.jsonl"
    shown = "dataset.validation_min=3"

    def of(texts: dict[str, str]) -> str | None:
        rows = ({"file_name": name, "text": text} for name, text in texts.items())
        table.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        attempt, _ = attempt_of(tmp_path / str(len(list(tmp_path.iterdir()))), shown)
        return images_of(attempt, "f", lambda: list(list_files(folder))).own_captions

    first = of(texts)
    assert first is not None
    assert of(dict(reversed(texts.items())) | {"nothing.png": "nothing"}) == first
    assert of(texts | {pictures[0].name: f"{texts[pictures[0].name]}\na second line"}) == first
    assert of(texts | {pictures[0].name: "a blue whale"}) != first
    constant, _ = attempt_of(tmp_path / "constant", shown, "variants.one.captions={strategy: constant, text: a}")
    assert images_of(constant, "f", lambda: list(list_files(folder))).own_captions is None


def test_captions_that_are_missing_may_be_added_before_the_run_begins(tmp_path: Path) -> None:
    """And strategies may change: what an attempt noted that had no run yet is not believed for others."""
    folder = drawings(tmp_path / "drawings")
    text = min(folder.glob("*.txt"))
    kept = text.read_text()
    text.unlink()

    def found(*sets: str) -> Images:
        attempt, _ = attempt_of(tmp_path, "dataset.validation_min=3", *sets)
        return images_of(attempt, "f", lambda: list(list_files(folder)))

    constant = "variants.one.captions={strategy: constant, text: a}"
    assert found(constant).own_captions is None
    with pytest.raises(DataError, match=r"1 of 12 images has no caption of its own"):
        found()
    text.write_text(kept)
    whole = found().own_captions
    assert whole is not None
    assert found("variants.one.captions={strategy: existing, style_hints: ink}").own_captions == whole
    assert found(constant).own_captions is None
    assert found().own_captions == whole
