import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import psutil
import pytest
from PIL import Image

import job.process.stop
from job.errors import ExitCode, JobError
from job.process.stop import StopFlag
from tests.http_fault_proxy import Drop, HttpFaultProxy
from tests.job.small_run import arguments, folder_of
from tests.lora_job import COLD, ROOT, start
from tests.s3_server import S3Server

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture
def stop() -> Iterator[StopFlag]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    flag = StopFlag()
    flag.install()
    yield flag
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_waits_until_it_is_asked_for(stop: StopFlag, number: signal.Signals) -> None:
    assert stop.signalled_seconds < 0
    signal.raise_signal(number)
    assert stop()
    assert stop.signalled_seconds >= 0
    with pytest.raises(JobError, match=number.name) as caught:
        stop.at_once(lambda: pytest.fail("nothing more is begun"))
    assert caught.value.code == ExitCode.PREEMPTED


def test_what_nohup_has_ignored_stays_ignored(stop: StopFlag) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop.install()
    signal.raise_signal(signal.SIGHUP)
    assert not stop()


def test_where_nothing_is_held_a_signal_stops_at_once_and_no_library_can_hide_it(stop: StopFlag) -> None:
    def library() -> None:
        with suppress(Exception):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(JobError) as caught:
        stop.at_once(library)
    assert caught.value.code == ExitCode.PREEMPTED
    signal.raise_signal(signal.SIGTERM)  # a second one changes nothing


@pytest.mark.parametrize("line", range(15))
def test_a_signal_at_any_line_on_the_way_in_or_out_is_a_stop(stop: StopFlag, line: int) -> None:
    left = line

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        nonlocal left
        if frame.f_code.co_filename != job.process.stop.__file__ or frame.f_code.co_name not in ("at_once", "check"):
            return None
        if event == "line":
            left -= 1
            if left == -1:
                signal.raise_signal(signal.SIGTERM)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with suppress(JobError):
            assert stop.at_once(lambda: "done") == "done"
    finally:
        sys.settrace(before)
    assert stop() == (left < 0)


def test_the_time_to_end_by_itself_counts_from_the_signal(stop: StopFlag) -> None:
    at_once, later = stop.check_after(0), stop.check_after(3600)
    at_once()
    signal.raise_signal(signal.SIGTERM)
    later()
    with pytest.raises(JobError):
        at_once()


def test_a_store_that_accepts_and_never_answers_holds_up_no_stop(miniature: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        lines = (
            "output.destination=s3://bucket/runs",
            f"storage={{endpoint_url: 'http://127.0.0.1:{silent.getsockname()[1]}', region: us-east-1}}",
        )
        started = start(
            *("run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "work"),
            env={"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"},
        )
        with silent.accept()[0]:
            started.send_signal(signal.SIGTERM)
            assert started.wait(timeout=30) == ExitCode.PREEMPTED, started.stderr


def test_a_store_that_falls_silent_holds_up_no_stop(miniature: Path, tmp_path: Path, s3_admin: S3Server) -> None:
    """At first while the checkpoint is stored, which is then lost; then after it, when the lease is to be given back.

    The store is asked for all of it again and again, and takes minutes to be given up.
    """
    bucket = s3_admin.make_bucket()
    silent = threading.Event()
    with HttpFaultProxy(s3_admin.port) as proxy:
        command = [
            "run",
            *arguments(
                miniature,
                tmp_path,
                f"output.destination=s3://{bucket}/runs",
                f"storage={{endpoint_url: '{proxy.url}', region: us-east-1, addressing_style: path}}",
                "training.steps=2000",
                "evaluation={every: 2000, timesteps: 2, final_timesteps: 4}",
                "limits.stop_seconds=3",
            ),
            "--workdir",
            tmp_path / "work",
        ]
        for falls_silent, code, said in (
            (lambda _: True, ExitCode.STORAGE_RETRIES, "The checkpoint of pack-0 at step "),
            (
                lambda request: "/units/" in request.path,
                ExitCode.PREEMPTED,
                "Stopped by SIGHUP; what was done is saved.",
            ),
        ):
            silent.clear()
            proxy.plan = lambda request, falls=falls_silent: (
                Drop("stall") if silent.is_set() and falls(request) else None
            )
            started = start(*command)
            assert started.wait_until_it_says('"loss": '), started.stderr
            silent.set()
            started.send_signal(signal.SIGHUP)
            assert started.wait(timeout=60) == code, started.stderr
            assert started.stderr.splitlines()[-1].startswith(f"lora-job: {said}")
            assert "limits.stop_seconds" in started.stderr.splitlines()[-1]
    commits = [key for key, _ in folder_of(f"s3://{bucket}/runs/small", s3_admin.endpoint_url).list("variants")]
    assert sum(key.endswith("COMMIT.json") for key in commits) == 2


@pytest.mark.parametrize(("command", "codes"), [("validate", {143}), ("run", {143, 51})])
def test_a_process_that_would_not_hear_a_signal_hears_it(command: str, codes: set[int]) -> None:
    """A container's first process ignores what it has no handler for; here one is told to ignore SIGTERM."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which a child inherits
    started = subprocess.Popen(
        [sys.executable, "-m", "job", command, "-"],
        cwd=ROOT,
        stdin=subprocess.PIPE,  # open: the manifest never comes
        stderr=subprocess.PIPE,
    )
    signal.signal(signal.SIGTERM, before)
    while started.poll() is None:
        started.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    started.communicate()
    assert started.returncode in codes


@pytest.mark.parametrize(("command", "codes"), [("validate", {130}), ("run", {130, 51})])
def test_ctrl_c_while_python_imports_leaves_no_traceback(command: str, codes: set[int]) -> None:
    started = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "job", command, "-"],
        cwd=ROOT,
        stdin=subprocess.PIPE,  # open: the manifest never comes
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stderr is not None
    while "typer" not in (line := started.stderr.readline()):
        assert line
    started.send_signal(signal.SIGINT)
    _, said = started.communicate()
    assert (started.returncode in codes, "Traceback" in said) == (True, False), (started.returncode, said)


def run_into_a_pipe(miniature: Path, tmp_path: Path, *lines: str) -> tuple["subprocess.Popen[str]", TextIO]:
    """A run as a shell starts it before `2>&1 | tee`, and the pipe's other end."""
    started = subprocess.Popen(
        [COLD, "run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "work"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert started.stdout is not None
    return started, started.stdout


@pytest.mark.slow
def test_ctrl_c_that_ends_the_reader_of_the_log_first_loses_no_work(miniature: Path, tmp_path: Path) -> None:
    started, log = run_into_a_pipe(
        miniature, tmp_path, "training.steps=2000", "evaluation.every=2000", "evaluation.samples=null"
    )
    while '"loss": ' not in (line := log.readline()):
        assert line
    log.close()
    time.sleep(3)  # a line of the log is due
    assert started.poll() is None
    started.send_signal(signal.SIGINT)
    assert started.wait() == ExitCode.PREEMPTED
    assert len([*tmp_path.glob("runs/small/variants/*/seed-1337/checkpoints/*/COMMIT.json")]) == 2


@pytest.mark.slow
def test_a_run_whose_log_nobody_reads_ends_well(miniature: Path, tmp_path: Path) -> None:
    started, log = run_into_a_pipe(miniature, tmp_path, "training.steps=1", "evaluation.samples=null")
    log.close()
    assert started.wait() == ExitCode.DONE
    assert (tmp_path / "runs/small/_SUCCESS").exists()


def has_worker(process: psutil.Process) -> bool:
    try:
        return any("multiprocessing.spawn" in part for child in process.children() for part in child.cmdline())
    except psutil.NoSuchProcess:  # a child that ended meanwhile
        return False


def large_pictures(folder: Path) -> Path:
    """Enough noise to keep the workers at it for seconds."""
    folder.mkdir()
    picture = Image.effect_noise((3000, 3000), 90)
    for number in range(18):
        picture.putpixel((0, 0), number)
        picture.save(folder / f"{number}.jpg")
    return folder


@pytest.mark.parametrize(
    ("number", "at_work"),
    [
        (signal.SIGHUP, True),
        (signal.SIGINT, False),
        pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, True, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_the_whole_group_is_no_fault_of_an_image(
    miniature: Path, tmp_path: Path, number: signal.Signals, at_work: bool
) -> None:
    """A terminal sends it to the workers that decode images, too, and so do service managers and batch queues.

    They get it as soon as they are there, or at work.
    """
    lines = [f"dataset.source={large_pictures(tmp_path / 'pictures')}"] if at_work else []
    started = subprocess.Popen(
        [COLD, "run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "work"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    process = psutil.Process(started.pid)
    while not (any(tmp_path.glob("work/**/*.ppm")) if at_work else has_worker(process)):
        assert started.poll() is None
        time.sleep(0.001)
    os.killpg(started.pid, number)
    _, said = started.communicate()
    assert (started.returncode, "Start the same manifest again" in said) == (ExitCode.PREEMPTED, True), said


def test_a_stop_whose_checkpoint_cannot_be_stored_does_not_say_that_it_is_saved(
    miniature: Path, tmp_path: Path
) -> None:
    lines = ("training.steps=2000", "evaluation.every=2000", "evaluation.samples=null")
    checkpoints = tmp_path / "runs/small/variants/vanilla/seed-1337/checkpoints"
    started = start("run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "work")
    assert started.wait_until_it_says('"loss": '), started.stderr
    checkpoints.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.touch()
    started.send_signal(signal.SIGTERM)
    assert started.wait() == ExitCode.STORAGE_ACCESS, started.stderr
    assert "checkpoints" in started.stderr.splitlines()[-1]
