"""Local files that are written atomically, hashed on the way, and checked."""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from job.errors import ExitCode, JobError
from job.storage.base import Digest

CHUNK_BYTES = 256 * 1024
_LOCK_SECONDS = 30.0  # a write takes milliseconds
_LOCK_SUFFIX = f".part-{'0' * 16}"
_PART_NAME = re.compile(r"\.part-[0-9a-f]{16}$")
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}


class DamagedObjectError(JobError):
    """What arrived is not what was stored."""

    def __init__(self, cause: str) -> None:
        super().__init__(
            ExitCode.STORAGE_RETRIES,
            cause,
            "Start the job again; if it happens again the object is damaged: store it anew.",
        )


class MissingObjectError(JobError):
    """There is no such object."""

    def __init__(self, uri: str) -> None:
        super().__init__(ExitCode.STORAGE_ACCESS, f"There is no object {uri}.", "Correct the name or store the object.")


class HashingWriter:
    """Passes bytes on to a file and keeps their size and SHA-256."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0  # bytes so far
        self.etag = ""  # of the finished file

    def write(self, chunk: bytes) -> None:
        """Append to the file."""
        self._file.write(chunk)
        self._hash.update(chunk)
        self.size += len(chunk)

    def digest(self) -> Digest:
        """Of everything that was written."""
        return Digest(self.size, self._hash.hexdigest())


@contextmanager
def atomic_file(path: Path, *, durable: bool) -> Iterator[HashingWriter]:
    """A file that appears at `path` whole, when the block ends without an error, or not at all.

    It is written beside `path` under a name for which `is_part` holds. `durable` waits until it would survive
    a power failure. Raises `JobError` as `local_error` does. Afterwards the writer's `etag` is the file's.
    """
    with local_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _new_part(path) as part:
            try:
                with part.open("wb") as file:
                    writer = HashingWriter(file)
                    yield writer
                    file.flush()
                    # Before Linux 6.13 a file's clock ticks every few milliseconds, so that a file in the place of one
                    # that was removed could have its inode, size and time.
                    now = time.time_ns()
                    os.utime(file.fileno(), ns=(now, now))
                    writer.etag = etag_of(os.fstat(file.fileno()))
                    if durable:
                        os.fsync(file.fileno())
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        if durable:
            _sync_folder(path.parent)


@contextmanager
def _new_part(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, locked while the block runs: the lock goes with the process, however that ends."""
    while True:
        part = path.with_name(f"{path.name}.part-{secrets.token_hex(8)}")
        with part.open("xb") as lock:
            with suppress(OSError):  # a file system without locks, where nothing is swept either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(lock, part):  # not swept between its making and its lock
                yield part
                return


def sweep_parts(folder: Path) -> None:
    """Remove what processes that have died left unfinished below `folder`; what a living one writes stays."""
    for at, _, names in os.walk(folder):
        for part in (Path(at, name) for name in names if is_part(name)):
            with suppress(OSError), part.open("rb+") as file:  # removed by now, locked, or another user's
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(file, part):
                    part.unlink()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other thread or process is in this block for `path`; a process that dies leaves it.

    The lock is a file beside `path` for whose name `is_part` holds. 50 when a process stays in the block: it must be
    frozen, and its lock cannot be broken, since it would write as soon as it wakes.
    """
    lock = path.with_name(path.name + _LOCK_SUFFIX)
    with local_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with lock.open("wb") as file:
                _take(file, lock)
                if not _is_at(file, lock):  # the one that had it has removed it
                    continue
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return


def _take(file: BinaryIO, lock: Path) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise JobError(
                    ExitCode.STORAGE_RETRIES,
                    f"Another process has held {lock} for {_LOCK_SECONDS:g} s.",
                    "It is frozen in the middle of a write: end it (`fuser` names it), then start the job again.",
                ) from error
        time.sleep(0.005)


def etag_of(status: os.stat_result) -> str:
    """What no two contents of a path share, as long as `atomic_file` writes them."""
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


def is_part(name: str) -> bool:
    """Whether a file is one that `atomic_file` had not finished, or a lock."""
    return _PART_NAME.search(name) is not None


def copy_into(path: Path, writer: HashingWriter) -> Digest:
    """Append a file's bytes."""
    with local_errors(path):
        file = path.open("rb")
    with file:
        while chunk := file.read(CHUNK_BYTES):
            writer.write(chunk)
    return writer.digest()


def digest_of(path: Path) -> Digest:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Digest(file.tell(), sha256)


def require_digest(uri: str, actual: Digest, expect: Digest | None) -> Digest:
    """`actual`, or DamagedObjectError when it is not what was expected."""
    if expect is not None and actual != expect:
        raise DamagedObjectError(
            f"{uri} should be {expect.size} bytes with SHA-256 {expect.sha256} "
            f"but is {actual.size} bytes with SHA-256 {actual.sha256}."
        )
    return actual


@contextmanager
def local_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system says about `path` into a JobError."""
    try:
        yield
    except OSError as error:
        raise local_error(error, path) from error


def local_error(error: OSError, path: Path) -> JobError:
    """44 where the disk is full, 50 where a network file system fails in passing, 42 for everything else."""
    cause = f"{path} cannot be used: {error.strerror or type(error).__name__}."
    if error.errno in NO_SPACE:
        return JobError(ExitCode.RESOURCES, cause, "Free disk space, or put the folder on a larger disk.")
    if error.errno in _PASSING:
        return JobError(ExitCode.STORAGE_RETRIES, cause, "Check the disk or its network and start the job again.")
    return JobError(ExitCode.STORAGE_ACCESS, cause, "Correct the path, or let this user read and write there.")


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
