"""Names, captions and prompts from anywhere are shown and do nothing: on a terminal, in a log, in a picture."""

import io
import json
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console, Group

from job import layout
from job.cli.status import as_text, show_status
from job.errors import ExitCode, JobError
from job.process.progress import Progress
from job.report.curves import plot_curves
from job.report.pictures import Pictures
from job.report.samples import plot_grid
from job.report.schema import Comparison, EvaluationPoint, MemberReport, TrainPoint
from job.run.collect import collect
from job.run.status import Status
from job.storage import StorageSettings, open_storage
from job.storage.base import ObjectInfo
from job.storage.folder import RunFolder
from lora_engine.errors import DataError
from lora_engine.evaluation.line_art import measure
from lora_engine.text import printable, shortened

NASTY = [
    "\x1b[31mred\x1b[0m",
    "two\nlines: exit 0",
    "carriage\rreturn",
    "\x1b]8;;http://evil\x07link\x1b]8;;\x07",
    "right\u202eto left",
    "isolate\u2066d",
    "line\u2028separator",
    "[red]markup[/red]",
    "[link=http://evil]x[/link]",
    "<script>alert(1)</script>",
    "$math_{$ and $x^$",
    "_under_score",
    "日本語 🎨",
    "nul\0",
    "\udce9 half",
]


def run_folder(path: Path) -> RunFolder:
    return RunFolder(open_storage(str(path), StorageSettings()), str(path))


@given(st.text())
def test_printable_text_is_one_line_and_itself_where_it_prints(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text
    elif text.isascii() and "\\" not in text:
        assert shown.encode().decode("unicode_escape") == text


@given(st.text(), st.integers(10, 50))
def test_shortened_text_keeps_its_ends(text: str, length: int) -> None:
    short = shortened(text, length)
    assert len(short) <= length
    assert short == text or (len(text) > length and short[0] == text[0] and short[-1] == text[-1])


@pytest.mark.parametrize("text", NASTY)
def test_an_error_is_one_line(text: str) -> None:
    for error in (
        DataError(f"{text} is bad.", f"Mend {text}."),
        JobError(ExitCode.DATA, f"{text} is bad.", f"Mend {text}."),
    ):
        assert str(error) == f"{error.cause} {error.remedy}"
        assert str(error).isprintable()


def test_details_of_an_error_are_a_line_each() -> None:
    error = JobError(ExitCode.MANIFEST, "Wrong:", "Mend it.", NASTY)
    lines = str(error).split("\n")
    assert (len(lines), lines[0], lines[-1]) == (len(NASTY) + 2, "Wrong:", "Mend it.")
    assert all(line.isprintable() for line in lines)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("text", NASTY)
def test_progress_shows_text_and_obeys_none(text: str) -> None:
    log, terminal = io.StringIO(), Terminal()
    for stream in (log, terminal):
        progress = Progress(stream)
        progress.warn(f"caption {text}")
        progress.say("done", run=text)
    rows = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [rows[0]["event"], rows[1]["run"]] == [f"caption {text}", text]
    assert log.getvalue().isascii()
    shown = terminal.getvalue().replace("\x1b[33m", "").replace("\x1b[0m", "")
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "".join(shown.split()).startswith("".join(f"caption {printable(text)}".split()))


@pytest.mark.parametrize("text", NASTY)
def test_a_table_of_status_shows_text_and_obeys_none(text: str) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    status = Status(unit=text, state=text, stage=text, cause=text, step=1, steps=2, started=moment, updated=moment)
    stream = io.StringIO()
    Console(file=stream, width=400).print(Group(*as_text([status], text)))
    lines = stream.getvalue().split("\n")
    assert all(line.isprintable() for line in lines)
    assert len(lines) == 9
    assert lines[3].count(printable(text)) == 3
    assert printable(text) in lines[6]
    assert lines[7].count(printable(text)) == 2


def test_the_status_of_a_run_that_someone_else_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "unit": NASTY[0],
        "state": "failed",
        "cause": NASTY[1],
        "updated": "2026-01-01T00:00:00+00:00",
        "started": "2026-01-01T00:00:00+00:00",
    }
    run_folder(tmp_path).write_json(layout.unit_status("prepare"), row)
    for as_json in (True, False):
        show_status(run_folder(tmp_path), follow=False, as_json=as_json)
        assert "\x1b" not in capsys.readouterr().out


BLANK = asdict(measure(Image.new("RGB", (8, 8))))


def comparison(names: list[str]) -> Comparison:
    point = EvaluationPoint(step=0, loss=1.0, curve_loss=1.0, change=None, timesteps=1, caption_sets={})
    members = [
        MemberReport.model_construct(variant=name, seed=0, validation=[point], train=[TrainPoint(step=1, loss=1.0)])
        for name in names
    ]
    return Comparison.model_construct(name=names[0], members=members, scoring=2, curve_timesteps=1)


def test_pictures_of_the_report_show_any_text(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    names = ["one", "two"]
    prompts = [text for text in NASTY if "\udce9" not in text]
    for start in range(0, len(prompts), 4):
        shown = prompts[start : start + 4]
        images = [
            {"prompt": at, "file": f"{at}.png", "line_art": BLANK, "prompting": prompting}
            for at in range(len(shown))
            for prompting in ("bare", "as_trained")
        ]
        settings = {"prompts": shown, "as_trained": [f"ink, {text}" for text in shown]}
        for name in names:
            run.write_json(layout.sample_index(layout.Member(name, 0), 1), {"settings": settings, "images": images})
            for at in range(len(shown)):
                run.write(f"{layout.samples(layout.Member(name, 0), 1)}/{at}.png", data.getvalue())
        members = [layout.Member(name, 0) for name in names]
        assert plot_grid(run, Pictures(run, [], members)) is not None
    assert plot_curves(comparison(["$math_{$ and $x^$", "a_b"]))


def test_a_sample_of_another_format_is_not_opened(tmp_path: Path) -> None:
    run, data = run_folder(tmp_path), io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "TIFF")
    run.write_json(
        layout.sample_index(layout.Member("one", 0), 1),
        {"settings": {"prompts": ["a"]}, "images": [{"prompt": 0, "file": "0.png", "line_art": BLANK}]},
    )
    run.write(f"{layout.samples(layout.Member('one', 0), 1)}/0.png", data.getvalue())
    with pytest.raises(JobError, match="is not the PNG") as caught:
        plot_grid(run, Pictures(run, [], [layout.Member("one", 0)]))
    assert caught.value.code == ExitCode.CONFLICT


class Bucket:
    """A store whose objects' keys lead elsewhere, as those of S3 may."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys

    def list(self, _: str) -> list[ObjectInfo]:
        return [ObjectInfo(f"s3://b/run/{key}", 1, "x") for key in self.keys]  # type: ignore[call-arg]


@pytest.mark.parametrize("key", ["../../x", "a/../../x", "/etc/x", "a//x", "./x"])
def test_nothing_is_collected_outside_the_destination(tmp_path: Path, key: str) -> None:
    with pytest.raises(JobError) as caught:
        collect(RunFolder(Bucket([key]), "s3://b/run"), tmp_path / "out")  # type: ignore[arg-type]
    assert caught.value.code == ExitCode.UNSAFE


@pytest.mark.parametrize("name", ["\x1b[31m.yaml", "a\nlora-job: all is well.yaml", "\u202e.yaml"])
def test_the_last_line_of_a_command_cannot_be_forged(name: str) -> None:
    for command in (["validate", "--offline", name], ["status", name], ["plan", name], ["nonsense\n\x1b[31m"]):
        done = subprocess.run(
            [sys.executable, "-m", "job", *command],
            capture_output=True,
            text=True,
            check=False,
        )
        lines = done.stderr.rstrip("\n").split("\n")
        assert done.returncode in (2, 40, 42)
        assert len(lines) == 1
        assert lines[0].startswith("lora-job: ")
        assert lines[0].isprintable()
