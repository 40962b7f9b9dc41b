"""What is said at the end of a run, on a terminal and in a log, of reports of any version."""

import io
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.process.progress import Progress
from job.report.adapters import publish_adapters
from job.report.closing import Closing, ClosingMember, closing_of
from job.report.publish import publish_report
from job.storage import StorageSettings
from tests.job.earlier_run.make import HERE
from tests.job.report.cases import CASES, A, B
from tests.job.report.made_run import Design, MadeRun, make_run
from tests.job.small_run import folder_of
from tests.job.test_escaping import NASTY, Terminal
from tests.s3_server import S3Server

LOWER = CASES["lower, however prompted"]
LOCAL = StorageSettings()


def reported(folder: Path, *seeds: int, **more: Any) -> MadeRun:
    """A run with its report and its adapters."""
    made = make_run(folder, Design([A, B], LOWER.losses, seeds or (1,), **more))
    publish_adapters(made.run, publish_report(made.run).members)
    return made


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Terminals are wide, where a test does not say otherwise."""
    monkeypatch.setenv("COLUMNS", "200")


def on_terminal(closing: Closing) -> list[str]:
    """The lines of the summary, without colours, below the bar of a stage."""
    stream = Terminal()
    progress = Progress(stream)
    with progress:
        with progress.stage("train", "Training", total=1, unit="steps") as stage:
            stage.advance(1, loss=0.5)
        progress.conclude(closing.shown(), closing.facts())
    for style in ("\x1b[1m", "\x1b[2m", "\x1b[0m"):
        stream = io.StringIO(stream.getvalue().replace(style, ""))
    return [line.rstrip() for line in stream.getvalue().rpartition("\x1b[?25h")[2].splitlines()]


def test_the_log_ends_with_the_facts(tmp_path: Path) -> None:
    made = reported(tmp_path)
    report = made.run.read_json(layout.COMPARISON) or {}
    stream = io.StringIO()
    closing = closing_of(made.run, LOCAL)
    Progress(stream).conclude(closing.shown(), closing.facts())
    [line] = stream.getvalue().splitlines()
    said = json.loads(line)
    assert (said["event"], said["level"]) == ("done", "info")
    assert said["verdict"] == report["verdict"]["sentence"]
    assert said["adapters"] == f"{made.folder}/adapters"
    assert (said["report"], said["page"]) == (
        f"{made.folder}/report/comparison.json",
        f"{made.folder}/report/report.html",
    )
    assert (said["collect"], said["make_adapters"]) == (None, None)
    assert said["elapsed_seconds"] == 0
    for told, member in zip(said["members"], report["members"], strict=True):
        assert (told["variant"], told["seed"]) == (member["variant"], member["seed"])
        assert (told["loss"], told["base_loss"]) == (member["final_loss"], member["base_loss"])
        assert told["gain"] == {end: member["gain"][end] for end in ("mean", "low", "high")}
        assert told["best_step"] == member["best"]["step"]


def test_a_terminal_shows_the_answer_and_what_to_open(tmp_path: Path) -> None:
    made = reported(tmp_path)
    lines = on_terminal(closing_of(made.run, LOCAL))
    verdict = (made.run.read_json(layout.COMPARISON) or {})["verdict"]
    assert next(line for line in lines if line) == verdict["headline"]
    assert verdict["sentence"] in "".join(lines)
    assert [line.split()[0] for line in lines if line.startswith(("a ", "b "))] == ["a", "b"]
    assert not any(" seed " in line for line in lines if line.startswith("variant"))
    assert f"adapters  {made.folder}/adapters" in lines
    assert f"look at   {made.folder}/report/report.html" in lines
    made.run.delete(layout.PAGE)
    assert f"look at   {made.folder}/report/comparison.json" in on_terminal(closing_of(made.run, LOCAL))
    made.run.write(layout.GRID, b"")
    assert f"look at   {made.folder}/report/samples.png" in on_terminal(closing_of(made.run, LOCAL))
    made.run.write(layout.PAGE, b"")
    assert f"look at   {made.folder}/report/report.html" in on_terminal(closing_of(made.run, LOCAL))


def test_seeds_and_adapters_that_diverged_are_shown(tmp_path: Path) -> None:
    made = reported(tmp_path, 1, 2, diverged={Member("b", 2): 1})
    rows = [line.split() for line in on_terminal(closing_of(made.run, LOCAL)) if line.startswith(("a ", "b "))]
    assert [row[:2] for row in rows] == [["a", "1"], ["a", "2"], ["b", "1"], ["b", "2"]]
    assert " ".join(rows[3][2:]).startswith("diverged at step 1")


def test_a_place_is_on_one_line_of_any_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    made = reported(tmp_path / ("long-" * 30))
    lines = on_terminal(closing_of(made.run, LOCAL))
    assert f"adapters  {made.folder}/adapters" in lines


def test_reports_of_earlier_versions_are_told_as_far_as_they_go() -> None:
    closing = closing_of(folder_of(str(HERE / "finished")), LOCAL)
    assert closing.verdict is None
    assert [(member.variant, member.gain, member.copies) for member in closing.members] == [
        ("constant", None, None),
        ("existing", None, None),
    ]
    assert all(member.loss is not None and member.best_step is not None for member in closing.members)
    assert closing.adapters is None
    assert closing.make_adapters == shlex.join(["lora-job", "report", str(HERE / "finished")])
    assert any(closing.make_adapters in line for line in on_terminal(closing))
    sampled = closing_of(folder_of(str(HERE / "sampled")), LOCAL)
    assert sampled.verdict is not None
    assert sampled.elapsed_seconds > 0


@pytest.mark.parametrize(
    ("values", "members"),
    [
        ({"verdict": "lower", "members": 3}, []),
        ({"verdict": {"sentence": 3}, "members": [3, {"variant": "a"}, {"variant": "b", "seed": 1}]}, ["b"]),
        ({"members": [{"variant": "a", "seed": 1, "gain": 2, "best": [], "memorised": {"bare": 1}}]}, ["a"]),
        ({}, []),
    ],
)
def test_what_another_version_wrote_in_another_way_is_left_out(
    tmp_path: Path, values: dict[str, Any], members: list[str]
) -> None:
    run = folder_of(str(tmp_path))
    run.write_json(layout.COMPARISON, values)
    closing = closing_of(run, LOCAL)
    assert (closing.verdict, [member.variant for member in closing.members]) == (None, members)
    nothing = dict.fromkeys(("loss", "base_loss", "gain", "best_step", "copies", "pictures", "diverged_at"))
    assert all(member == ClosingMember(variant=member.variant, seed=1, **nothing) for member in closing.members)
    assert on_terminal(closing)


def test_a_report_that_is_no_json_is_refused(tmp_path: Path) -> None:
    run = folder_of(str(tmp_path))
    run.write(layout.COMPARISON, b"[")
    with pytest.raises(JobError) as caught:
        closing_of(run, LOCAL)
    assert caught.value.code == ExitCode.CONFLICT


def test_copies_are_those_of_pictures_as_trained_or_else_bare(tmp_path: Path) -> None:
    run = folder_of(str(tmp_path))
    drawn = {"bare": {"pictures": 6, "copies": [{}]}, "as_trained": {"pictures": 6, "copies": [{}, {}]}}
    members = [
        {"variant": "a", "seed": 1, "memorised": drawn},
        {"variant": "b", "seed": 1, "memorised": drawn | {"as_trained": None}},
    ]
    run.write_json(layout.COMPARISON, {"members": members})
    closing = closing_of(run, LOCAL)
    assert [(member.copies, member.pictures) for member in closing.members] == [(2, 6), (1, 6)]
    assert [line.split()[-1] for line in on_terminal(closing) if line.startswith(("a ", "b "))] == ["2/6", "1/6"]


@pytest.mark.parametrize("text", NASTY)
def test_texts_of_a_report_that_someone_else_wrote_do_nothing(tmp_path: Path, text: str) -> None:
    run = folder_of(str(tmp_path))
    if "\udce9" not in text:
        run.write_json(layout.COMPARISON, {"verdict": {"sentence": text}, "members": [{"variant": text, "seed": 1}]})
    assert all(line.isprintable() for line in on_terminal(closing_of(run, LOCAL)))


def test_of_a_remote_run_there_is_the_command_that_fetches_it(
    s3_admin: S3Server, s3_bucket: str, tmp_path: Path
) -> None:
    made = reported(tmp_path)
    root = f"s3://{s3_bucket}/{tmp_path.name}/the run"
    run = folder_of(root, s3_admin.endpoint_url)
    for key in (layout.COMPARISON, *(key for key, _ in made.run.list(layout.ADAPTERS))):
        run.write(key, made.run.read(key) or b"")
    settings = StorageSettings(endpoint_url=s3_admin.endpoint_url, region="us-east-1", addressing_style="path")
    closing = closing_of(run, settings)
    assert closing.collect is not None
    assert shlex.split(closing.collect) == [
        f"AWS_ENDPOINT_URL_S3={s3_admin.endpoint_url}",
        "AWS_REGION=us-east-1",
        *("lora-job", "collect", root, "the run", "--adapters"),
    ]
    assert f"fetch     {closing.collect}" in on_terminal(closing)
    run.delete(layout.ADAPTER_INDEX)
    closing = closing_of(run, settings)
    assert closing.collect is None
    assert shlex.split(closing.make_adapters or "")[2:] == ["lora-job", "report", root]
