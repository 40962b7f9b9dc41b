"""One writer a unit: who gets the lease, who loses it, and that a loser writes nothing."""

import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from job import layout
from job.errors import ExitCode, JobError
from job.process.stop import StopFlag
from job.run.lease import LeaseRecord, LeaseTimes, ProcessRecord, held
from job.storage import Digest, StorageSettings, open_storage
from job.storage.files import digest_of
from job.storage.folder import RunFolder
from job.storage.local import LocalStorage
from tests.job.small_run import folder_of

ROOT = Path(__file__).resolve().parents[3]
UNIT = "pack-0"
HOLDER = """
import sys, time
from job.errors import JobError
from job.run.lease import LeaseTimes, held
from job.process.stop import StopFlag
from job.storage import StorageSettings, open_storage
from job.storage.folder import RunFolder

root, endpoint, seconds = sys.argv[1], sys.argv[2] or None, float(sys.argv[3])
storage = open_storage(root, StorageSettings(endpoint_url=endpoint, region="us-east-1", addressing_style="path"))
try:
    with held(RunFolder(storage, root), "pack-0", LeaseTimes(seconds, 60), StopFlag(), lambda _: None) as (run, epoch):
        {body}
except JobError as error:
    print(error, file=sys.stderr)
    sys.exit(error.code)
"""


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    if request.param == "local":
        return RunFolder(open_storage(str(tmp_path), StorageSettings()), str(tmp_path / "run"))
    server, bucket = request.getfixturevalue("s3_admin"), request.getfixturevalue("s3_bucket")
    root = f"s3://{bucket}/{tmp_path.name}"
    settings = StorageSettings(endpoint_url=server.endpoint_url, region="us-east-1", addressing_style="path")
    return RunFolder(open_storage(root, settings), root)


def begin(run: RunFolder, seconds: float, body: str) -> "subprocess.Popen[str]":
    """Another process that does something while it holds the unit."""
    endpoint = "" if not run.root.startswith("s3:") else run.storage._endpoint  # type: ignore[attr-defined]
    command = [sys.executable, "-c", HOLDER.replace("{body}", body), run.root, endpoint, str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": "."}, stderr=subprocess.PIPE, text=True)


@contextmanager
def holder(run: RunFolder, seconds: float) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the unit and writes `metrics` again and again."""
    process = begin(run, seconds, "while True: run.write('metrics', str(time.monotonic()).encode()); time.sleep(0.01)")
    try:
        while run.read("metrics") is None:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.communicate()


def freeze_between_writes(process: "subprocess.Popen[str]", run: RunFolder) -> None:
    """In a folder a process that is frozen within a write keeps all others out of that file."""
    while True:
        process.send_signal(signal.SIGSTOP)
        while "T" not in Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]:
            time.sleep(0.01)
        if run.root.startswith("s3:") or not [*Path(run.root).rglob("*.part-*")]:
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(random.uniform(0, 0.05))


def claim(
    run: RunFolder, seconds: float, wait_seconds: float = 0, waiting: Callable[[str], None] = lambda _: None
) -> "tuple[RunFolder, int]":
    """Take the lease and let go of it at once."""
    with held(run, UNIT, LeaseTimes(seconds, wait_seconds), StopFlag(), waiting) as got:
        return got


def no_wait(holder: str) -> None:
    pytest.fail(f"waits for {holder}")


def test_a_released_lease_is_taken_at_once_with_the_next_epoch(run: RunFolder) -> None:
    assert [claim(run, 3600, waiting=no_wait)[1] for _ in range(3)] == [1, 2, 3]
    assert run.exists(layout.unit_lease(UNIT))


def test_a_second_live_writer_waits_and_is_refused(run: RunFolder) -> None:
    with holder(run, 10) as process:  # which a busy machine does not keep from renewing for so long
        began = time.monotonic()
        with pytest.raises(JobError, match=rf"process {process.pid} on .*, epoch 1") as caught:
            claim(run, 10, wait_seconds=3)
        assert caught.value.code == ExitCode.LEASE_HELD
        assert "limits.lease_wait" in caught.value.remedy
        assert time.monotonic() - began >= 3
        assert process.poll() is None


def test_a_dead_holder_is_succeeded_at_once(run: RunFolder) -> None:
    with holder(run, 3600) as process:
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet reaped
        assert claim(run, 3600, waiting=no_wait)[1] == 2


@pytest.mark.parametrize(("told", "lasts_seconds"), [(1.5, 1.5), (None, 0.5)])
def test_one_that_another_machine_holds_is_taken_only_once_it_was_silent_for_as_long_as_it_says(
    run: RunFolder, told: float | None, lasts_seconds: float
) -> None:
    """Whether a process of another machine is dead cannot be seen. What it does not say is as this one has it."""
    process = ProcessRecord(boot="another", namespace=1, pid=1, started=1)
    run.write_stored(layout.unit_lease(UNIT), LeaseRecord(epoch=6, holder="x", process=process, seconds=told))
    began, limited = time.monotonic(), StopFlag()
    limited.limit_attempt(20 / 3600)
    with held(run, UNIT, LeaseTimes(0.5, 0), limited, lambda _: None) as (_, epoch):
        assert time.monotonic() - began >= lasts_seconds
    assert epoch == 7


def test_a_frozen_holder_is_succeeded_and_writes_nothing_once_it_wakes(run: RunFolder) -> None:
    with holder(run, 1) as process:
        freeze_between_writes(process, run)
        with held(run, UNIT, LeaseTimes(1, 0), StopFlag(), lambda _: None) as (mine, epoch):
            assert epoch == 2
            mine.write("metrics", b"mine")
            process.send_signal(signal.SIGCONT)
            _, errors = process.communicate(timeout=60)
            assert process.returncode == ExitCode.LEASE_HELD, errors
            assert "epoch 2" in errors
            assert run.read("metrics") == b"mine"


def test_the_loser_of_a_lease_is_told_to_stop_and_may_not_write(run: RunFolder) -> None:
    stop = StopFlag()
    with held(run, UNIT, LeaseTimes(1, 0), stop, lambda _: None) as (mine, _):
        stored = run.storage.fetch(run.uri(layout.unit_lease(UNIT)))
        assert stored is not None
        stolen = stored.data.replace(b'"epoch": 1', b'"epoch": 2').replace(b'"holder": "', b'"holder": "x')
        while run.storage.write_if(run.uri(layout.unit_lease(UNIT)), stolen, stored.etag) is None:
            stored = run.storage.fetch(run.uri(layout.unit_lease(UNIT)))
            assert stored is not None
        time.sleep(0.6)
        for act in (lambda: mine.write("x", b"x"), lambda: mine.delete("x")):
            with pytest.raises(JobError) as caught:
                act()
            assert caught.value.code == ExitCode.LEASE_HELD
        assert stop()
        with pytest.raises(JobError, match="epoch 2"):
            stop.check()
    assert not run.exists("x")
    assert run.read(layout.unit_lease(UNIT)) == stolen


class Overtaken(LocalStorage):
    """Between its last look and its write of `object`, this process sleeps: another takes the unit over and writes."""

    def __init__(self, run: RunFolder) -> None:
        self._run, self._slept = run, False

    def _sleep(self, uri: str) -> None:
        if uri == self._run.uri("object") and not self._slept:
            self._slept = True
            lease = LeaseRecord(epoch=2, holder="another", seconds=60)
            self._run.write_stored(layout.unit_lease(UNIT), lease)
            self._run.write("object", b"of the other")

    def write(self, uri: str, data: bytes) -> Digest:
        self._sleep(uri)
        return super().write(uri, data)

    def write_if(self, uri: str, data: bytes, etag: str | None) -> str | None:
        self._sleep(uri)
        return super().write_if(uri, data, etag)


@pytest.mark.parametrize("before", [None, b"of an earlier attempt"])
def test_a_write_that_comes_after_the_next_holders_replaces_nothing(tmp_path: Path, before: bytes | None) -> None:
    plain = folder_of(str(tmp_path))
    if before is not None:
        plain.write("object", before)
    run = RunFolder(Overtaken(plain), plain.root)
    with held(run, UNIT, LeaseTimes(60, 0), StopFlag(), no_wait) as (mine, _):
        with pytest.raises(JobError) as caught:
            mine.write("object", b"mine")
        assert caught.value.code == ExitCode.LEASE_HELD
    assert plain.read("object") == b"of the other"


def test_a_checkpoints_file_is_not_held_in_memory_while_it_is_stored(run: RunFolder, tmp_path: Path) -> None:
    file, size = tmp_path / "file", 32 * 2**20
    file.write_bytes(bytes(size))
    with held(run, UNIT, LeaseTimes(60, 0), StopFlag(), no_wait) as (mine, _):
        mine.upload(file, "first")  # what is loaded once
        tracemalloc.start()
        try:
            digest = mine.upload(file, "object")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < size / 8
    info = run.storage.head(run.uri("object"))
    assert (digest, info and info.size) == (digest_of(file), size)


def test_of_many_claimants_one_holds_at_a_time(run: RunFolder) -> None:
    """Eight processes add to a counter that only a holder may change."""
    body = "value = int(run.read('count') or b'0'); time.sleep(0.01); run.write('count', str(value + 1).encode())"
    started = [begin(run, 30, body) for _ in range(8)]
    assert [process.communicate(timeout=120)[1] for process in started] == [""] * 8
    assert run.read("count") == b"8"
    record = run.read_json(layout.unit_lease(UNIT))
    assert record is not None
    assert (record["epoch"], record["released"]) == (8, True)
