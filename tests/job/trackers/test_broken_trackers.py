"""Whatever a tracker does, the job is told, says it once, waits no longer than it is to, and leaves no process."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from job.layout import Member
from job.manifest.trackers import MlflowConfig, WandbConfig
from job.trackers.installed import is_usable, lacking
from job.trackers.process import without_secrets
from job.trackers.trackers import tracked
from lora_engine.records import StepRecord
from tests.job.small_run import attempt_of
from tests.job.trackers.fakes import FORKS_TWICE, HANGS, WRONGS, environment, pids
from tests.lora_job import ROOT, lora_job

ONE = Member("one", 1337)
PLACES = ("import", "init", "log", "finish")
# Those that are tried every time: each kind of end, and each place, at least once.
SOME = {("raises", "import"), ("ends at once", "init"), ("hangs with the GIL", "log"), ("forks", "finish")}


def row(step: int) -> StepRecord:
    return StepRecord(step, 0.5, 1e-4, None, 3.0, False, "a", "b", "c")


def lives(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def until(reached: str, log: Path) -> None:
    while not log.exists() or reached not in log.read_text():
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        pytest.param(wrong, place, marks=() if (wrong, place) in SOME else pytest.mark.slow)
        for wrong in WRONGS
        for place in PLACES
    ],
)
def test_a_broken_tracker_is_said_once_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, place: str
) -> None:
    does, said = WRONGS[wrong]
    for name, value in environment(tmp_path / "fake", place, does).items():
        monkeypatch.setenv(name, value)
    hangs = said is not None and "tracker_seconds" in said
    attempt, shown = attempt_of(tmp_path, "trackers=[wandb]", f"limits.tracker_seconds={1 if hangs else 600}")
    with tracked(attempt) as watched:
        for last in (2, 4):
            watched.tracking.metrics(watched.run, ONE, [row(step) for step in range(1, last)])
            if not hangs:
                watched.tracking.settle()
        until("log" if place == "finish" else place, tmp_path / "fake" / "log")
    lines = shown.getvalue().splitlines()
    if said is None:
        assert lines == []
    else:
        assert len(lines) == 1, lines
        assert said in lines[0]
        assert "The tracker wandb shows nothing more" in lines[0]
    assert pids(tmp_path / "fake")
    assert not any(map(lives, pids(tmp_path / "fake")))


def test_after_a_signal_half_of_the_time_to_end_in_is_left_to_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(tmp_path / "fake", "import", HANGS).items():
        monkeypatch.setenv(name, value)
    attempt, shown = attempt_of(tmp_path, "trackers=[wandb]", "limits={tracker_seconds: 600, stop_seconds: 2}")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        attempt.stop.install()
        with tracked(attempt) as watched:
            watched.tracking.metrics(watched.run, ONE, [row(1)])
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    (said,) = shown.getvalue().splitlines()
    assert "half of limits.stop_seconds (2) is over after the signal" in said


@pytest.fixture
def job_with_a_hanging_tracker(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has told such a tracker something, and then sleeps."""
    program = (
        "import time; from pathlib import Path\n"
        "from tests.job.trackers.test_broken_trackers import ONE, row, tracked, attempt_of\n"
        f"attempt, _ = attempt_of(Path({str(tmp_path)!r}), 'trackers=[wandb]')\n"
        "with tracked(attempt) as watched:\n"
        "    watched.tracking.metrics(watched.run, ONE, [row(1)]); time.sleep(10000)\n"
    )
    env = os.environ | environment(tmp_path / "fake", "init", FORKS_TWICE)
    process = subprocess.Popen([sys.executable, "-c", program], env=env, cwd=ROOT)
    yield process
    process.kill()
    process.wait()


def test_a_tracker_that_hangs_ends_with_a_job_that_is_killed(
    job_with_a_hanging_tracker: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    until("init", tmp_path / "fake" / "log")
    until("hangs", tmp_path / "fake" / "log")
    processes = pids(tmp_path / "fake")
    assert len(processes) == 2
    assert all(map(lives, processes))
    job_with_a_hanging_tracker.send_signal(signal.SIGKILL)
    while any(map(lives, processes)):
        time.sleep(0.01)


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there = {"MLFLOW_TRACKING_URI": "http://server"}
    assert lacking([WandbConfig(), MlflowConfig()], there) == []
    monkeypatch.setitem(sys.modules, "wandb", None)
    (said,) = lacking([WandbConfig(), MlflowConfig()], there)
    assert "wandb is not installed" in said
    assert "pip install 'lora-job[wandb]'" in said
    attempt, shown = attempt_of(tmp_path, "trackers=[wandb]")
    with tracked(attempt) as watched:
        watched.tracking.metrics(watched.run, ONE, [row(1)])
    assert len(shown.getvalue().splitlines()) == 1
    assert "pip install 'lora-job[wandb]'" in shown.getvalue()


def test_a_folder_that_a_tracker_writes_to_is_no_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert not is_usable(WandbConfig(), {})


def test_mlflow_without_a_server_is_said_before_a_run_and_by_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    said = "mlflow has no server, so it will show nothing; set MLFLOW_TRACKING_URI"
    attempt, shown = attempt_of(tmp_path, "trackers=[mlflow]")
    with tracked(attempt) as watched:
        watched.tracking.metrics(watched.run, ONE, [row(1)])
    assert said in shown.getvalue()
    planned = lora_job("plan", ROOT / "manifests" / "quickstart.yaml", "--set", "trackers=[mlflow]")
    assert said in planned.stdout


def test_no_secret_is_said() -> None:
    environ = {"WANDB_API_KEY": "0123456789", "MLFLOW_TRACKING_PASSWORD": "abc def", "A_KEY": "", "HOME": "/home/me"}
    text = "401 for 0123456789 and abc def at https://me:word@host/path in /home/me"
    assert without_secrets(text, environ) == "401 for ... and ... at https://...@host/path in /home/me"
