"""Conditional writes beyond what every storage has in common: processes, etags that come back, stores without them."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from job.errors import ExitCode, JobError
from job.storage import StorageSettings, Stored, open_storage
from job.storage.files import atomic_file, locked
from job.storage.probe import probe_conditions
from tests.rclone_server import RcloneServer

WRITERS = 8
CONTEND = """
import sys
from pathlib import Path

from job.errors import ExitCode, JobError
from job.storage import StorageSettings, open_storage

root, name, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
storage = open_storage(str(root), StorageSettings())
print("ready", flush=True)
for number in range(rounds):
    etag = sys.stdin.readline().strip() or None
    won = storage.write_if(str(root / "contended"), f"{name} of round {number}".encode(), etag)
    print(won or "", flush=True)
"""
DIE_WITH_THE_LOCK = """
import os
import signal
import sys
from pathlib import Path

from job.storage.files import locked

with locked(Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_processes_at_once_and_one_wins(tmp_path):
    rounds, etag = 30, ""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CONTEND, str(tmp_path), str(writer), str(rounds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        for writer in range(WRITERS)
    ]
    storage = open_storage(str(tmp_path), StorageSettings())
    try:
        assert [process.stdout.readline() for process in processes] == ["ready\n"] * WRITERS
        for number in range(rounds):
            for process in processes:
                process.stdin.write(f"{etag}\n")
            etags = [process.stdout.readline().strip() for process in processes]
            winners = [(writer, new) for writer, new in enumerate(etags) if new]
            assert len(winners) == 1
            writer, etag = winners[0]
            stored = storage.fetch(str(tmp_path / "contended"))
            assert stored == Stored(f"{writer} of round {number}".encode(), etag)
        assert [process.wait(timeout=30) for process in processes] == [0] * WRITERS
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert _names(tmp_path) == ["contended"]


def test_a_lock_ends_with_its_process(tmp_path):
    path = tmp_path / "object"
    assert subprocess.run([sys.executable, "-c", DIE_WITH_THE_LOCK, str(path)], check=False).returncode == -9
    assert len(_names(tmp_path)) == 1  # the lock
    storage = open_storage(str(tmp_path), StorageSettings())
    assert list(storage.list(str(tmp_path))) == []
    assert storage.write_if(str(path), b"x", None) is not None
    assert _names(tmp_path) == ["object"]


def test_one_at_a_time_is_in_a_lock(tmp_path):
    """Also while those who wait hold the file that the last one removed."""
    inside, most = [], []

    def enter(number: int) -> None:
        with locked(tmp_path / "object"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.001)
            inside.remove(number)

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(enter, range(30 * WRITERS)))
    assert most == [1] * 30 * WRITERS
    assert _names(tmp_path) == []


def test_etags_of_a_folder_never_come_back(tmp_path):
    """Inodes do, and before Linux 6.13 the clock of files stands still for milliseconds."""
    storage = open_storage(str(tmp_path), StorageSettings())
    path = tmp_path / "object"
    seen = []
    for _ in range(500):
        with atomic_file(path, durable=False) as writer:  # without the wait for the disk, which takes that long
            writer.write(b"same")
        seen.append(storage.head(str(path)).etag)
        storage.delete(str(path))
    assert len(set(seen)) == 500


def test_a_store_that_ignores_conditions_is_found_out(tmp_path: Path, use_keys):
    with RcloneServer(tmp_path) as server:
        use_keys(server.keys)
        uri = f"s3://{server.bucket}/runs"
        storage = open_storage(uri, StorageSettings(endpoint_url=server.endpoint_url))
        assert not probe_conditions(storage, uri)
        assert list(storage.list(uri)) == []


def test_a_refused_access_is_no_lost_race(s3_server, s3_folder, use_keys):
    use_keys(s3_server.read_only)
    storage = open_storage(s3_folder, StorageSettings(endpoint_url=s3_server.endpoint_url))
    with pytest.raises(JobError, match="PutObject") as caught:
        storage.write_if(f"{s3_folder}/object", b"x", None)
    assert caught.value.code == ExitCode.STORAGE_ACCESS


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
