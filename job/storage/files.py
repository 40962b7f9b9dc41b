"""Local files that are written atomically, hashed on the way, and checked."""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from job.errors import ExitCode, JobError
from job.storage.base import Digest
from lora_engine.system.limits import errno_of, limit_hit

CHUNK_BYTES = 256 * 1024  # read from a file at once
_LOCK_SECONDS = 30.0  # to wait for a lock that is held for the milliseconds of a write
# What is added to the name of a file: a random number to one that is being written, zeros to a lock.
_LOCK_SUFFIX = f".part-{'0' * 16}"
_PART_NAME = re.compile(r"\.part-[0-9a-f]{16}$")
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # how a full disk refuses a write
_PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}  # how a network file system fails that may soon work again


class DamagedObjectError(JobError):
    """The bytes that arrived are not those that were stored."""

    def __init__(self, cause: str) -> None:
        super().__init__(
            ExitCode.STORAGE_RETRIES,
            cause,
            "Start the job again; if it happens again the object is damaged: store it anew.",
        )


class ChangedObjectError(JobError):
    """An object is no longer the one that was listed."""

    def __init__(self, uri: str) -> None:
        super().__init__(
            ExitCode.STORAGE_RETRIES,
            f"{uri} was changed after it was listed.",
            "Let whatever writes there finish, then start the job again.",
        )


class MissingObjectError(JobError):
    """An object that was to be downloaded does not exist."""

    def __init__(self, uri: str) -> None:
        super().__init__(ExitCode.STORAGE_ACCESS, f"There is no object {uri}.", "Correct the name or store the object.")


class HashingWriter:
    """Passes bytes on to a file and keeps their size and SHA-256."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0  # bytes so far
        self.etag = ""  # the file's, once it is finished

    def write(self, chunk: bytes) -> None:
        """Append bytes to the file."""
        self._file.write(chunk)
        self._hash.update(chunk)
        self.size += len(chunk)

    def digest(self) -> Digest:
        """Size and hash of everything that was written so far."""
        return Digest(self.size, self._hash.hexdigest())


@contextmanager
def atomic_file(path: Path, *, durable: bool) -> Iterator[HashingWriter]:
    """A file that appears at `path` whole, when the block ends without an error, or not at all.

    It is written beside `path` under a name for which `is_part` holds. Afterwards the writer's `etag` is the file's.

    Args:
        durable: wait until the file would survive a power failure.

    Raises:
        JobError: it cannot be written, as `local_error` says.
    """
    with local_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _new_part(path) as part:
            try:
                with part.open("wb") as file:
                    writer = HashingWriter(file)
                    yield writer
                    file.flush()
                    # Before Linux 6.13 the clock of file times ticks every few milliseconds. A file in the place of a
                    # removed one could otherwise get its inode, size and time, and so the same etag.
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
            with suppress(OSError):  # the file system may have no locks; then `sweep_parts` removes nothing either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(lock, part):  # else another process swept it away before it was locked
                yield part
                return


def sweep_parts(folder: Path, older_seconds: float = 0.0) -> None:
    """Remove the unfinished files of this user below `folder` whose processes have died.

    Living processes hold locks on theirs.

    Args:
        older_seconds: how long nothing may have been written to them. Another machine's lock is not seen on every
            network file system.
    """
    for at, _, names in os.walk(folder):
        for part in (Path(at, name) for name in names if is_part(name)):
            with suppress(OSError):  # It may be removed by now, or locked.
                if _is_left(part.lstat(), older_seconds):
                    with part.open("rb+") as file:
                        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        if _is_at(file, part):
                            part.unlink()


def _is_left(status: os.stat_result, older_seconds: float) -> bool:
    """Whether it is a file of this user that is so old. What others own is not this run's, whatever its name is."""
    is_own = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
    return is_own and time.time() - status.st_mtime >= older_seconds


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one thread or process at a time into the block for `path`; the system frees the lock of one that dies.

    The lock is a file beside `path` for whose name `is_part` holds.

    Raises:
        JobError: 50, another process stays in its block. It must be frozen, and its lock cannot be broken, since it
            would write as soon as it wakes.
    """
    lock = path.with_name(path.name + _LOCK_SUFFIX)
    with local_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            with lock.open("wb") as file:
                _take(file, lock)
                if not _is_at(file, lock):  # its last holder has removed it, and the next may lock a new file there
                    continue
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return


def _take(file: BinaryIO, lock: Path) -> None:
    """Lock the open file, waiting up to `_LOCK_SECONDS`. 50 when another process holds it all that time."""
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
    """An etag of a file: no two contents of a path have the same one, as long as `atomic_file` writes them."""
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


def is_part(name: str) -> bool:
    """Whether the name is that of a file which `atomic_file` has not finished, or of a lock."""
    return _PART_NAME.search(name) is not None


def copy_into(file: BinaryIO, writer: HashingWriter) -> Digest:
    """Append what is left to read of the file; the digest of all that was written."""
    while chunk := file.read(CHUNK_BYTES):
        writer.write(chunk)
    return writer.digest()


def digest_of(path: Path) -> Digest:
    """Size and SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Digest(file.tell(), sha256)


def require_digest(uri: str, actual: Digest, expect: Digest | None) -> Digest:
    """Give back `actual`; DamagedObjectError when something else was expected."""
    if expect is not None and actual != expect:
        raise DamagedObjectError(
            f"{uri} should be {expect.size} bytes with SHA-256 {expect.sha256} "
            f"but is {actual.size} bytes with SHA-256 {actual.sha256}."
        )
    return actual


@contextmanager
def local_errors(path: Path) -> Iterator[None]:
    """Turn an OSError about `path`, or that of one which safetensors tells, into a JobError."""
    try:
        yield
    except OSError as error:
        raise local_error(error, path) from error
    except SafetensorError as error:
        number = errno_of(error)
        if number is None:
            raise
        raise local_error(OSError(number, os.strerror(number)), path) from error


def local_error(error: OSError, path: Path) -> JobError:
    """The error for a person: 44 for a full disk or a limit, 50 for a network file system that may recover, else 42."""
    if (limit := limit_hit(error)) is not None:
        return JobError(ExitCode.RESOURCES, *limit)
    cause = f"{path} cannot be used: {error.strerror or type(error).__name__}."
    if error.errno in NO_SPACE:
        return JobError(ExitCode.RESOURCES, cause, "Free disk space, or put the folder on a larger disk.")
    if error.errno in _PASSING:
        return JobError(ExitCode.STORAGE_RETRIES, cause, "Check the disk or its network and start the job again.")
    return JobError(ExitCode.STORAGE_ACCESS, cause, "Correct the path, or let this user read and write there.")


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether the open file is still the one at `path`, and not one that was removed or replaced."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder would survive a power failure; syncing a file does not save its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
