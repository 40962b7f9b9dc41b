"""What the stage says and keeps of captions, and what it refuses before a captioner starts."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from job import layout
from job.run.context import Attempt
from job.run.dataset import Captions, Images, Prepared
from job.run.own_captions import OwnCaptionFacts
from job.stages.caption import caption
from lora_engine.errors import DataError
from lora_engine.models.files import LocalModel
from lora_engine.records import ImageRecord, SourceFile
from tests.job.small_run import attempt_of


def made(tmp_path: Path, texts: dict[str, str | bytes]) -> Images:
    """Four images, and files beside them."""
    records = tuple(ImageRecord(f"{at}", f"{at}.png", 1, group=f"{at}", split="train") for at in range(4))
    files = [SourceFile(record.source, str(tmp_path / record.source)) for record in records]
    for key, text in texts.items():
        (tmp_path / key).write_bytes(text if isinstance(text, bytes) else text.encode())
        files.append(SourceFile(key, str(tmp_path / key)))
    return Images(records, lambda: Prepared(tuple(files), records, {}))


def made_captions(attempt: Attempt, images: Images, captioner: LocalModel | None = None) -> Captions:
    def tokenizer(text: str) -> SimpleNamespace:
        return SimpleNamespace(input_ids=["<", *text.split(), ">"])

    return caption(attempt, images, captioner, tokenizer, torch.device("cpu"))


def said(shown: io.StringIO, level: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in shown.getvalue().splitlines()]
    return [line for line in lines if line["level"] == level]


def test_one_line_says_where_captions_are_from_and_the_report_can_read_it(tmp_path: Path) -> None:
    attempt, shown = attempt_of(tmp_path, "variants=[{name: own, captions: {strategy: existing, missing: a thing}}]")
    long = " ".join(map(str, range(90)))
    images = made(
        tmp_path, {"0.txt": "zero\nnought", "1.caption": long, "metadata.jsonl": '{"file_name": "x", "text": "y"}'}
    )
    found = made_captions(attempt, images)
    assert [record.texts[0] for record in found["own"]][::2] == ["zero", "a thing"]
    (line,) = [line for line in said(shown, "info") if line["event"] == "captions read"]
    assert line["text"] == (
        "Captions of own: 2 of 4 images have one of their own (.caption: 1, .txt: 1); 2 missing; 1 with several, "
        "1 further lines or rows; 1 of 1 rows name no file; 1 lines or rows left out in own; 1 cut at 77 tokens or "
        "2000 characters in own"
    )
    assert (line["missing"], line["stray_rows"], line["lines_dropped"], line["cut"]) == (2, 1, {"own": 1}, {"own": 1})
    assert [line["event"] for line in said(shown, "warning")] == [
        "Captions of the dataset: 1 of 1 rows name no file of the dataset, such as x in metadata.jsonl",
        "Captions of own: 1 of 4 captions were cut to 77 tokens or 2000 characters",
        "Captions of own: 1 of 4 images has more lines than are used, 1 in all (captions.lines)",
    ]
    facts = attempt.run.read_stored(layout.OWN_CAPTIONS, OwnCaptionFacts)
    assert facts is not None
    assert (facts.missing, facts.stray_rows, len(facts.warnings)) == (2, 1, 1)
    shown.truncate(0)
    assert made_captions(attempt, images) == found
    assert "captions read" not in shown.getvalue()


def test_without_captions_of_ones_own_a_line_is_short(tmp_path: Path) -> None:
    attempt, shown = attempt_of(tmp_path, "variants=[{name: one, captions: {strategy: constant, text: a drawing}}]")
    made_captions(attempt, made(tmp_path, {}))
    (line,) = [line for line in said(shown, "info") if line["event"] == "captions read"]
    assert line["text"] == "Captions of one: none is cut"
    assert not attempt.run.exists(layout.OWN_CAPTIONS)


@pytest.mark.parametrize(
    "random",
    [
        "{strategy: existing, lines: random}",
        "{strategy: mix, parts: [{captions: {strategy: existing, lines: random}}, {captions: {strategy: existing}}]}",
    ],
)
def test_captions_of_several_lines_are_read_again_as_they_were_written(tmp_path: Path, random: str) -> None:
    attempt, _ = attempt_of(tmp_path, f"variants=[{{name: own, captions: {random}}}]")
    images = made(tmp_path, {"0.txt": "a\nb\nc", "1.txt": "d", "2.txt": "e", "3.txt": "f\ng"})
    found = made_captions(attempt, images)
    (tmp_path / "0.txt").write_text("other")
    assert found["own"][0].texts[:3] == ("a", "b", "c")
    assert made_captions(attempt, images) == found


BOTH = "variants=[{name: own, captions: {strategy: existing}}, {name: blip, captions: {strategy: blip}}]"


@pytest.mark.parametrize(
    ("texts", "cause"),
    [
        (
            {"0.txt": b"caf\xe9", "1.txt": b"fine", "2.txt": b"\xe9", "3.txt": b"fine"},
            r"^2 caption files cannot be read: 0\.txt, 2\.txt \(not UTF-8\)\. Save",
        ),
        (
            {"0.txt": b"zero", "1.txt": b" \n", "3.caption": b"three"},
            r"^2 of 4 images have no caption of their own: 1\.png \(1\.txt is empty\), 2\.png\. Put",
        ),
        (
            {"0.txt": b"zero", "1.txt": b"one", "2.txt": b"", "3.caption": b"three"},
            r"^1 of 4 images has no caption of its own: 2\.png \(2\.txt is empty\)\. Put",
        ),
    ],
)
def test_what_is_wrong_with_captions_is_said_before_a_captioner_starts(
    tmp_path: Path, texts: dict[str, str | bytes], cause: str
) -> None:
    attempt, _ = attempt_of(tmp_path, BOTH, "captioner.source=nowhere")
    with pytest.raises(DataError, match=cause):
        made_captions(attempt, made(tmp_path, texts), LocalModel(tmp_path / "nowhere"))
