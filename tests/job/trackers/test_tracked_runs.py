"""Runs with trackers: what these show is what the run stored, and the run is the one that it is without them."""

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from job import layout
from job.run.samples import SampleIndex
from job.storage.folder import RunFolder
from tests.job.small_run import arguments, folder_of, outcome
from tests.job.trackers.fakes import HANGS, environment
from tests.job.trackers.reading import MEMBERS, loaded, read, stored
from tests.lora_job import lora_job, start, stop_at
from tests.s3_server import S3Server

KEY, TOKEN = "0123456789abcdef0123456789abcdef01234567", "a-token-that-nobody-may-see"
# Stored when both members have trained half of their steps, and told of them.
HALF = f"{layout.checkpoint(MEMBERS[1], 2)}/{layout.COMMIT_NAME}"
_BROKEN_MLFLOW = """\
import os
from pathlib import Path

Path(os.environ["FAKE_LOG"] + "-arguments").write_bytes(
    Path("/proc/self/cmdline").read_bytes() + Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
)
Path(os.environ["FAKE_LOG"] + "-standing").write_text(f"{os.nice(0)} {os.environ['CUDA_VISIBLE_DEVICES']!r}")
raise OSError(f"401 Unauthorized: {os.environ['MLFLOW_TRACKING_TOKEN']} of {os.environ['MLFLOW_TRACKING_URI']}")
"""


class Done(NamedTuple):
    """A run that has ended."""

    run: RunFolder
    shown: str
    folder: Path  # of all that it wrote

    @property
    def path(self) -> Path:
        return self.folder / "runs" / "small"

    @property
    def warnings(self) -> list[str]:
        lines = map(json.loads, self.shown.splitlines())
        return [line["event"] for line in lines if line["level"] == "warning" and "tracker" in line["event"].lower()]


def broken(folder: Path) -> dict[str, str]:
    """The environment in which W&B hangs, MLflow cannot be imported, and there are keys to hold."""
    variables = environment(folder, "init", f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {HANGS}")
    (folder / "mlflow").mkdir()
    (folder / "mlflow" / "__init__.py").write_text(_BROKEN_MLFLOW)
    address = f"http://me:{KEY}@127.0.0.1:9"
    return variables | {"WANDB_API_KEY": KEY, "MLFLOW_TRACKING_TOKEN": TOKEN, "MLFLOW_TRACKING_URI": address}


def finish(miniature: Path, folder: Path, *lines: str, env: dict[str, str] | None = None) -> Done:
    done = lora_job("run", *arguments(miniature, folder, *lines), "--workdir", folder / "work", env=env)
    assert done.returncode == 0, done.stderr
    return Done(folder_of(str(folder / "runs" / "small")), done.stderr, folder)


@pytest.fixture(scope="module")
def plain(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return finish(miniature, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def hanging(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run with a tracker that hangs."""
    folder = tmp_path_factory.mktemp("hanging")
    lines = ("trackers=[{name: wandb, project: tattoos}]", "limits.tracker_seconds=1")
    return finish(miniature, folder, *lines, env=broken(folder / "packages"))


@pytest.fixture(scope="module")
def tracked(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run with TensorBoard and a tracker that raises, which was killed as it trained, and went on."""
    folder = tmp_path_factory.mktemp("tracked")
    lines, env = ("trackers=[tensorboard, mlflow]", "limits.tracker_seconds=600"), broken(folder / "packages")
    started = start("run", *arguments(miniature, folder, *lines), "--workdir", folder / "work", env=env)
    assert stop_at(folder / "runs" / "small" / HALF, started, signal.SIGKILL) == -signal.SIGKILL
    return finish(miniature, folder, *lines, env=env)


def report_of(run: RunFolder) -> dict[str, Any]:
    """What a report says, but for times and what follows from them."""
    report = run.read_json(layout.COMPARISON) or {}
    kept = ("verdict", "pairs", "fair", "captions", "variants", "notes", "likeness", "data", "models", "packs")
    members = [{key: member[key] for key in ("base_loss", "best_loss", "final_loss")} for member in report["members"]]
    return {key: report[key] for key in kept} | {"members": members}


def assert_as_stored(run: RunFolder, folder: Path) -> None:
    """The event files below a folder have what the run has stored, each once."""
    for member in MEMBERS:
        found, there = read(folder / layout.tensorboard(member)), stored(run, member)
        assert found.scalars == there
        assert len(there) > 20
        folder_of_pictures = layout.all_samples(member)
        for key, _ in run.list(folder_of_pictures):
            if key.endswith(layout.SAMPLE_INDEX_NAME):
                index, step = run.read_stored(key, SampleIndex), layout.step_of(key.split("/")[-2])
                assert index is not None
                for row in index.images:
                    name, prompts = str(row.file).removesuffix(".png"), index.settings.prompts
                    prompts = index.settings.as_trained if row.prompting == "as_trained" else prompts
                    data = run.read(f"{key.rpartition('/')[0]}/{row.file}")
                    assert found.images.pop((f"samples/{name}", step)) == (prompts[row.prompt], data)
        assert not found.images
        sentence = (run.read_json(layout.COMPARISON) or {})["verdict"]["sentence"]
        assert found.texts == {("verdict", 4): sentence}
        assert found.times == {(run.read_json(layout.RESOLVED) or {})["started_at"]}


def test_event_files_of_a_run_that_was_killed_have_what_it_stored_once(tracked: Done) -> None:
    assert_as_stored(tracked.run, tracked.path)
    folder = tracked.path / layout.tensorboard(MEMBERS[0])
    assert {name.parent for name in (tracked.path / "tensorboard").rglob("*tfevents*")} == {
        tracked.path / layout.tensorboard(member) for member in MEMBERS
    }
    assert set(loaded(folder).values()) == {1}
    assert loaded(folder).keys() >= stored(tracked.run, MEMBERS[0]).keys() | {("verdict", 4)}


def test_broken_trackers_change_nothing_and_are_said_once(plain: Done, hanging: Done, tracked: Done) -> None:
    for done in (hanging, tracked):
        assert outcome(done.run) == outcome(plain.run)
        assert report_of(done.run) == report_of(plain.run)
        assert json.loads(done.shown.splitlines()[-1])["event"] == "done"
    (said,) = hanging.warnings
    assert "wandb shows nothing more: it was waited for for limits.tracker_seconds (1)" in said
    (said,) = tracked.warnings
    assert "mlflow shows nothing more: OSError: 401 Unauthorized: ... of http://...@127.0.0.1:9" in said


def test_no_process_of_a_tracker_is_left(hanging: Done, tracked: Done) -> None:
    logs = {str(done.folder / "packages" / "log") for done in (hanging, tracked)}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            assert process.environ().get("FAKE_LOG") not in logs, process


def test_a_tracker_has_less_priority_and_no_gpu(tracked: Done) -> None:
    niceness, gpus = (tracked.folder / "packages" / "log-standing").read_text().split()
    assert int(niceness) >= min(19, os.nice(0) + 10)
    assert gpus == "''"


def test_no_file_log_or_argument_holds_a_key(hanging: Done, tracked: Done) -> None:
    secrets = (KEY.encode(), TOKEN.encode())
    assert b"job.trackers.child" in (tracked.folder / "packages" / "log-arguments").read_bytes()
    for done in (hanging, tracked):
        files = [path for path in done.folder.rglob("*") if path.is_file()]
        assert len(files) > 50
        for path in files:
            assert not any(secret in path.read_bytes() for secret in secrets), path
        assert KEY not in done.shown
        assert TOKEN not in done.shown


def test_event_files_are_collected_and_nothing_vouches_for_them(tracked: Done, tmp_path: Path) -> None:
    """Another viewer may write beside them, and a run that was verified may be followed with other trackers later."""
    copy = tmp_path / "copy"
    shutil.copytree(tracked.path, copy)
    files = sorted((copy / "tensorboard").rglob("*tfevents*"))
    files[0].write_bytes(b"something else")
    files[1].unlink()
    (copy / "tensorboard" / "of-another-program").write_text("")
    verified = lora_job("verify", copy)
    assert verified.returncode == 0, verified.stderr
    collected = lora_job("collect", tracked.path, tmp_path / "got")
    assert collected.returncode == 0, collected.stderr
    for member in MEMBERS:
        here, there = (root / layout.tensorboard(member) for root in (tracked.path, tmp_path / "got"))
        assert read(here) == read(there)


@pytest.mark.slow
def test_trackers_may_be_added_at_a_later_attempt_and_in_s3(
    plain: Done, s3_admin: S3Server, miniature: Path, tmp_path: Path
) -> None:
    bucket = s3_admin.make_bucket()
    lines = (
        f"output.destination=s3://{bucket}/runs",
        f"storage={{endpoint_url: '{s3_admin.endpoint_url}', region: us-east-1, addressing_style: path}}",
    )
    started = start("run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "work")
    assert started.wait_until_it_says('"event": "scored"'), started.stderr
    started.send_signal(signal.SIGTERM)
    assert started.wait() == 51
    again = arguments(miniature, tmp_path, *lines, "trackers=[tensorboard]")
    done = lora_job("run", *again, "--workdir", tmp_path / "work")
    assert done.returncode == 0, done.stderr
    run = folder_of(f"s3://{bucket}/runs/small", s3_admin.endpoint_url)
    environ = os.environ | {"AWS_ENDPOINT_URL_S3": s3_admin.endpoint_url, "AWS_REGION": "us-east-1"}
    assert lora_job("collect", f"s3://{bucket}/runs/small", tmp_path / "got", env=environ).returncode == 0
    assert outcome(run) == outcome(plain.run)
    assert_as_stored(run, tmp_path / "got")
