"""A disk that fills up: 44, what was there before stays, nothing half-written is left."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from job.errors import ExitCode, JobError
from job.storage import StorageSettings, join, open_storage

LIMIT_BYTES = 2**20
UNDER_A_QUOTA = f"""
import resource
import signal
import sys
from pathlib import Path

from tests.job.storage.test_disk_full import try_all

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT_BYTES}, {LIMIT_BYTES}))
try_all(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.fixture
def too_large(tmp_path):
    path = tmp_path / "too-large"
    path.write_bytes(bytes(2 * LIMIT_BYTES))
    return path


@pytest.fixture
def small_disk(tmp_path):
    """A file system of a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={LIMIT_BYTES}", "tmpfs", str(disk)]
    mount = subprocess.run(command, capture_output=True, text=True, check=False)
    if mount.returncode:
        pytest.skip(f"the quota's test stands in for it where a disk cannot be mounted: {mount.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _refused(write: Callable[[], object], folder: Path) -> None:
    """44, and nothing has changed."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(JobError) as caught:
        write()
    assert caught.value.code == ExitCode.RESOURCES
    is_quota = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
    assert ("RLIMIT_FSIZE" in caught.value.cause) == is_quota
    assert ("disk space" in caught.value.remedy) != is_quota
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def try_all(folder: Path, too_large: Path) -> None:
    """Every way to write a local file that does not fit."""
    storage = open_storage(str(folder), StorageSettings())
    target = folder / "object"
    uri, data = str(target), too_large.read_bytes()
    etag = storage.write_if(uri, b"before", None)
    _refused(lambda: storage.write(uri, data), folder)
    _refused(lambda: storage.write_if(uri, data, etag), folder)
    _refused(lambda: storage.write_if(join(str(folder), "new"), data, None), folder)
    _refused(lambda: storage.upload(too_large, uri), folder)
    _refused(lambda: storage.download(str(too_large), target), folder)
    assert storage.write_if(uri, b"after", etag) is not None


def test_a_full_disk(small_disk, too_large):
    try_all(small_disk, too_large)


def test_an_exhausted_quota(tmp_path, too_large):
    """As any user may have it: a process whose files may not grow so large."""
    (tmp_path / "folder").mkdir()
    subprocess.run(
        [sys.executable, "-c", UNDER_A_QUOTA, str(tmp_path / "folder"), str(too_large)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        check=True,
    )


def test_a_disk_without_a_free_byte(small_disk, tmp_path):
    storage = open_storage(str(small_disk), StorageSettings())
    storage.write(str(small_disk / "object"), b"before")
    with (small_disk / "ballast").open("wb", buffering=0) as ballast:
        while os.statvfs(small_disk).f_bfree:
            ballast.write(bytes(4096))
    (tmp_path / "small").write_bytes(b"x" * 100)
    _refused(lambda: storage.write(str(small_disk / "object"), b"after"), small_disk)
    _refused(lambda: storage.upload(tmp_path / "small", str(small_disk / "other")), small_disk)
    storage.delete(str(small_disk / "ballast"))
    storage.write(str(small_disk / "object"), b"after")
    assert storage.read(str(small_disk / "object")) == b"after"


def test_a_download_from_a_bucket_that_does_not_fit(small_disk, too_large, direct):
    uri = join(direct.root, "object")
    direct.storage.upload(too_large, uri)
    (small_disk / "file").write_bytes(b"before")
    _refused(lambda: direct.storage.download(uri, small_disk / "file"), small_disk)
