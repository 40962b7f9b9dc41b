"""What a run says of its own files is believed only where it is so: missing or altered is 46, with the file's name."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from job import layout
from job.cli.verify import verify_command
from job.errors import ExitCode, JobError
from job.report.publish import publish_report
from job.report.side_by_side.publish import publish_side_by_side
from job.run.collect import collect
from job.run.hashes import metrics_hash
from job.run.success import read_success, write_success
from job.run.verify import Depth, is_source_of_report, require_whole, verify
from lora_engine.records import StepRecord
from tests.job.report.cases import CASES, A, B
from tests.job.report.made_run import Design, make_run
from tests.job.small_run import folder_of
from tests.lora_job import lora_job

MEMBER, OTHER = layout.Member("a", 1), layout.Member("b", 1)
LAST = layout.checkpoint(MEMBER, 4)
ADAPTER = f"{LAST}/a.safetensors"
COMMIT = f"{LAST}/{layout.COMMIT_NAME}"


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is trained, with hashes of its rows, and not reported yet."""
    made = make_run(tmp_path_factory.mktemp("made"), Design([A, B], CASES["lower, however prompted"].losses))
    run = made.run
    for member in (MEMBER, OTHER):
        rows = run.read_rows(layout.metrics(member), StepRecord) or []
        for step in (2, 4):
            path = made.folder / layout.checkpoint(member, step) / layout.COMMIT_NAME
            edit(path, metrics_sha256=metrics_hash(rows[:step]))
    return made.folder


@pytest.fixture(scope="module")
def finished(unfinished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, finished."""
    folder = Path(shutil.copytree(unfinished, tmp_path_factory.mktemp("finished") / "run"))
    publish_report(folder_of(str(folder)))
    write_success(folder_of(str(folder)))
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def as_of_an_earlier_version(folder: Path) -> None:
    """Take from a finished run what earlier versions did not write."""
    (folder / layout.SUCCESS).write_bytes(b"")
    for path in (folder / layout.RESOLVED, folder / layout.ADAPTER_INDEX, *folder.rglob(layout.COMMIT_NAME)):
        edit(path, run_id=None)


def problems(folder: Path, depth: Depth = Depth.ALL) -> dict[str, str]:
    return {problem.key: problem.text for problem in verify(folder_of(str(folder)), depth).problems}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_finished_run_is_whole_and_all_of_it_is_named(folder: Path) -> None:
    found = verify(folder_of(str(folder)), Depth.ALL)
    assert (found.problems, found.finished, found.lists_records) == ((), True, True)
    keys = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    unnamed = {key for key in keys if key.startswith(("units/", "data/thumbnails/"))} | {layout.SUCCESS}
    assert (found.files, found.hashed) == (len(keys - unnamed), len(keys - unnamed))
    success = read_success(folder_of(str(folder)))
    assert success is not None
    listed = {file.path for file in success.files}
    assert {COMMIT, layout.RESOLVED, layout.COMPARISON, layout.captions("a"), layout.metrics(MEMBER)} <= listed
    assert ADAPTER not in listed  # The commit lists it.


@pytest.mark.parametrize("harm", [Path.unlink, cut, flip])
@pytest.mark.parametrize(
    "key",
    [
        ADAPTER,
        COMMIT,
        f"{layout.checkpoint(MEMBER, 2)}/{layout.COMMIT_NAME}",
        layout.final(MEMBER),
        layout.best(MEMBER),
        layout.metrics(MEMBER),
        layout.validation(MEMBER),
        layout.validation_losses(MEMBER, 2),
        layout.captions("a"),
        layout.IMAGES,
        layout.RESOLVED,
        layout.COMPARISON,
        layout.PAGE,
        layout.ADAPTER_INDEX,
        layout.adapter("a"),
        layout.diffusers_adapter("b"),
    ],
)
def test_what_is_missing_or_altered_is_named(folder: Path, key: str, harm: Callable[[Path], None]) -> None:
    harm(folder / key)
    found = problems(folder)
    assert str(folder / key) in found[key]
    depth = Depth.SIZES  # of what harms a file's size
    if harm is flip:
        depth = Depth.ALL if key.endswith(".safetensors") and key.startswith("adapters/") else Depth.RECORDS
    with pytest.raises(JobError) as caught:
        require_whole(folder_of(str(folder)), depth)
    assert caught.value.code == ExitCode.CONFLICT
    assert "--set name=" in caught.value.remedy
    if key.startswith(("report/", "adapters/")):
        assert not verify(folder_of(str(folder)), Depth.ALL, only=is_source_of_report).problems
        assert "`lora-job report RUN`" in caught.value.remedy


@pytest.mark.parametrize("is_earlier", [False, True])
def test_a_finished_run_without_a_checkpoint_is_not_done(folder: Path, *, is_earlier: bool) -> None:
    """An earlier version listed nothing; its pointers and its report name the checkpoints all the same."""
    if is_earlier:
        as_of_an_earlier_version(folder)
    shutil.rmtree(folder / layout.all_checkpoints(MEMBER))
    assert {COMMIT, f"{layout.checkpoint(MEMBER, 2)}/a.safetensors"} <= problems(folder, Depth.SIZES).keys()
    done = lora_job("status", folder)
    assert done.returncode == 46, done.stderr
    assert "pack-0" in done.stdout
    assert str(folder / layout.all_checkpoints(MEMBER)) in done.stderr
    (folder / layout.final(OTHER)).unlink()
    assert "is missing, though the run is finished" in problems(folder, Depth.SIZES)[layout.final(OTHER)]


def test_a_copy_that_was_cut_off_before_its_end_is_not_called_whole(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    shutil.copy(folder / layout.RESOLVED, tmp_path / "half")
    assert "or not copied as a whole" in verify_command(folder_of(str(tmp_path / "half")))


def shortened(folder: Path) -> None:
    edit(folder / layout.SUCCESS, files=json.loads((folder / layout.SUCCESS).read_text())["files"][:1])


def another_commit(folder: Path) -> None:
    shutil.copytree(folder / LAST, folder / layout.checkpoint(MEMBER, 6))
    edit(folder / layout.checkpoint(MEMBER, 6) / layout.COMMIT_NAME, step=6)


@pytest.mark.parametrize(
    ("lie", "key"),
    [
        (lambda folder: (folder / layout.SUCCESS).write_bytes(b""), layout.SUCCESS),
        (lambda folder: (folder / layout.SUCCESS).write_bytes(b"{}"), layout.SUCCESS),
        (shortened, layout.COMPARISON),
        (another_commit, f"{layout.checkpoint(MEMBER, 6)}/{layout.COMMIT_NAME}"),
    ],
    ids=["emptied", "braces", "shortened", "another commit"],
)
def test_what_a_finished_run_does_not_list_is_not_believed(
    folder: Path, lie: Callable[[Path], object], key: str
) -> None:
    """An emptied list would otherwise be taken for that of an earlier version, and nothing be compared any more."""
    (folder / "report" / ".notes").write_text("Somebody else's file.")
    assert problems(folder) == {}
    lie(folder)
    assert "_SUCCESS" in problems(folder, Depth.SIZES)[key]
    with pytest.raises(JobError, match="_SUCCESS"):
        publish_report(folder_of(str(folder)))


@pytest.mark.parametrize("text", [None, '{"sha256": {}}'])
def test_captions_without_a_hash_are_named(unfinished: Path, tmp_path: Path, text: str | None) -> None:
    folder = Path(shutil.copytree(unfinished, tmp_path / "run"))
    (folder / layout.CAPTION_HASHES).unlink()
    if text is not None:
        (folder / layout.CAPTION_HASHES).write_text(text)
    assert "has no hash of data/captions/a.jsonl" in problems(folder)[layout.CAPTION_HASHES]


def test_a_lost_index_of_adapters_is_no_sign_of_an_earlier_version(folder: Path, tmp_path: Path) -> None:
    (folder / layout.ADAPTER_INDEX).unlink()
    with pytest.raises(JobError, match=r"index\.json is missing") as caught:
        collect(folder_of(str(folder)), tmp_path / "there", adapters_alone=True)
    assert caught.value.code == ExitCode.CONFLICT


def test_an_altered_run_is_not_put_beside_others(folder: Path, finished: Path, tmp_path: Path) -> None:
    def rename(path: Path) -> None:
        edit(path, name="another")  # and it is a report as before

    for key, alter in ((layout.captions("a"), flip), (layout.COMPARISON, rename)):
        whole = (folder / key).read_bytes()
        alter(folder / key)
        with pytest.raises(JobError, match=f"{key} was altered") as caught:
            publish_side_by_side([folder_of(str(folder)), folder_of(str(finished))], str(tmp_path / "there"))
        assert caught.value.code == ExitCode.CONFLICT
        (folder / key).write_bytes(whole)
    assert not (tmp_path / "there").exists()


def test_no_samples_leave_an_adapter_out_without_a_word(folder: Path) -> None:
    edit(folder / layout.best(MEMBER), step=3)
    done = lora_job("sample", folder, "--prompt", "a heart", "--best")
    assert (done.returncode, "step-000003" in done.stderr) == (46, True), done.stderr


def test_the_commands_name_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    whole = lora_job("verify", folder)
    assert whole.returncode == 0, whole.stderr
    assert "files are there, " in whole.stdout
    flip(folder / ADAPTER)
    flip(folder / layout.metrics(OTHER))
    for command in (("verify", folder), ("report", folder), ("collect", folder, tmp_path / "there")):
        done = lora_job(*command)
        assert done.returncode == 46, (command, done.stderr)
        assert "Traceback" not in done.stderr
    wrong = lora_job("verify", folder)
    for key in (ADAPTER, layout.metrics(OTHER)):
        assert f"{folder / key} was altered: " in wrong.stderr
    last = wrong.stderr.splitlines()[-1]
    assert "Another file is missing or altered, too, as said above." in last
    assert "`lora-job collect`" in last  # It may be a copy that was cut off.
    nothing = lora_job("verify", tmp_path / "nothing")
    assert nothing.returncode == 42, nothing.stderr


def test_a_report_that_is_made_anew_is_listed_anew(folder: Path) -> None:
    (folder / layout.PAGE).write_text("another")
    (folder / layout.adapter("a")).unlink()
    assert problems(folder).keys() == {layout.PAGE, layout.adapter("a")}
    publish_report(folder_of(str(folder)))
    assert problems(folder) == {}


def test_an_altered_run_gets_no_new_report_that_bears_it_out(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / layout.metrics(MEMBER)).read_text().splitlines()]
    rows[0]["loss"] = 0.5
    (folder / layout.metrics(MEMBER)).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(JobError, match=r"seed-1/metrics\.jsonl was altered: _SUCCESS says ") as caught:
        publish_report(folder_of(str(folder)))
    assert caught.value.code == ExitCode.CONFLICT


def change_metrics(folder: Path) -> str:
    path = folder / layout.metrics(MEMBER)
    path.write_text(path.read_text().replace('"skipped": false', '"skipped": true', 1))
    return r"metrics\.jsonl was altered: the commit of step 4 says "


def change_captions(folder: Path) -> str:
    path = folder / layout.captions("b")
    path.write_text(path.read_text().replace("drawing", "painting", 1))
    return r"captions/b\.jsonl was altered: data/captions\.json says "


def double_rows(folder: Path) -> str:
    path = folder / layout.validation(MEMBER)
    path.write_text(path.read_text() * 2)
    return r"validation\.jsonl has a step twice"


def list_a_file_twice(folder: Path) -> str:
    edit(folder / COMMIT, files=2 * json.loads((folder / COMMIT).read_text())["files"])
    return r"step-000004/COMMIT\.json does not hold .*a file is listed twice"


def copy_another_members(folder: Path) -> str:
    shutil.copytree(folder / layout.checkpoint(OTHER, 4), folder / LAST, dirs_exist_ok=True)
    return r"a/.*/step-000004/COMMIT\.json is the commit of b-seed-1 at step 4"


def copy_another_steps(folder: Path) -> str:
    shutil.copytree(folder / layout.checkpoint(MEMBER, 2), folder / LAST, dirs_exist_ok=True)
    return r"step-000004/COMMIT\.json is the commit of a-seed-1 at step 2"


def copy_another_runs(folder: Path) -> str:
    edit(folder / COMMIT, run_id="another")
    return r"step-000004/COMMIT\.json is the commit of another run \(another, not "


def point_elsewhere(folder: Path) -> str:
    shutil.copy(folder / layout.final(OTHER), folder / layout.final(MEMBER))
    return r"a/seed-1/(final\.json names a file|checkpoints/step-000004/a\.safetensors was altered)"


@pytest.mark.parametrize(
    "lie",
    [
        change_metrics,
        change_captions,
        double_rows,
        list_a_file_twice,
        copy_another_members,
        copy_another_steps,
        copy_another_runs,
        point_elsewhere,
    ],
)
def test_a_lie_before_the_report_is_refused_by_it(unfinished: Path, tmp_path: Path, lie: Callable[[Path], str]) -> None:
    folder = Path(shutil.copytree(unfinished, tmp_path / "run"))
    assert problems(folder) == {}
    sentence = lie(folder)
    with pytest.raises(JobError, match=sentence) as caught:
        publish_report(folder_of(str(folder)))
    assert caught.value.code == ExitCode.CONFLICT
    assert not (folder / layout.COMPARISON).exists()


def test_a_folder_that_holds_another_run_is_not_collected_into(folder: Path, unfinished: Path, tmp_path: Path) -> None:
    run = folder_of(str(folder))
    collect(run, tmp_path / "whole")
    collect(run, tmp_path / "part", adapters_alone=True)
    edit(folder / layout.ADAPTER_INDEX, run_id="another")
    edit(folder / layout.RESOLVED, run_id="another", started_at=1.0)
    (folder / layout.SUCCESS).write_bytes(b"")
    for there, alone in (("whole", False), ("whole", True), ("part", True), ("part", False)):
        before = {path: path.read_bytes() for path in (tmp_path / there).rglob("*") if path.is_file()}
        with pytest.raises(JobError, match=f"{there} holds another run: .* has run_id .*another") as caught:
            collect(run, tmp_path / there, adapters_alone=alone)
        assert caught.value.code == ExitCode.CONFLICT
        assert {path: path.read_bytes() for path in (tmp_path / there).rglob("*") if path.is_file()} == before
    collect(folder_of(str(unfinished)), tmp_path / "whole")


def test_of_runs_of_earlier_versions_it_is_told_when_they_began_and_how_they_are_called(
    folder: Path, tmp_path: Path
) -> None:
    resolved = json.loads((folder / layout.RESOLVED).read_text())
    as_of_an_earlier_version(folder)
    assert problems(folder) == {}
    run = folder_of(str(folder))
    collect(run, tmp_path / "whole")
    collect(run, tmp_path / "part", adapters_alone=True)
    collect(run, tmp_path / "part", adapters_alone=True)
    edit(folder / layout.RESOLVED, started_at=resolved["started_at"] + 1)
    edit(folder / layout.COMPARISON, name="other")
    with pytest.raises(JobError, match=r"whole holds another run: resolved\.json has started_at"):
        collect(run, tmp_path / "whole")
    with pytest.raises(JobError, match=r"part holds another run: report/comparison\.json has name .*, and name other"):
        collect(run, tmp_path / "part", adapters_alone=True)


def test_a_run_that_is_at_work_is_collected_as_it_comes(unfinished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(unfinished, tmp_path / "run")
    status, done = run / layout.unit_status("prepare"), threading.Event()
    status.parent.mkdir(parents=True, exist_ok=True)
    status.write_text("{}")

    def write() -> None:
        at = 0
        while not done.is_set():
            at += 1
            part = status.with_name("new")
            part.write_text(json.dumps({"at": at}))
            part.replace(status)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = collect(folder_of(str(run)), tmp_path / "there")
    finally:
        done.set()
        writer.join()
    assert "the run is not finished yet" in found.describe()
