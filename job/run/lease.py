"""Keeps a unit of a run to one writer: a lease in storage that its holder renews, and a fence before what it writes.

No two machines need clocks that agree: a lease is over when a reader, by its own clock, has seen it unchanged for as
long as the lease itself says. A holder that was frozen for that long finds out when it looks at its lease before its
next write. Where it is frozen between the look and the write, the write's own precondition fails. The lease's file is
never deleted, so its epoch only grows.
"""

import hashlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from job import layout
from job.errors import ExitCode, JobError
from job.process.stop import StopFlag
from job.storage import Digest, ObjectInfo, Storage, Stored
from job.storage.folder import RunFolder
from job.storage.patience import changed, impatient
from job.storage.stored import StoredJson

Written = TypeVar("Written")

_RENEWALS = 4  # in the time for which a lease lasts, so that one that fails does not cost it
_POLL_SECONDS = 1.0  # at most, between two looks of a process that waits for a lease


class ProcessRecord(StoredJson):
    """The process that holds a lease, as others of the same kernel and namespace of processes can find it."""

    boot: str  # the id that the kernel gives to the time since the machine's start
    namespace: int  # of process ids
    pid: int
    started: int | None  # when the process began, in ticks since the machine's start; tells it from one of the same id


class LeaseRecord(StoredJson):
    """`lease.json`: the process that may write a unit's files. The defaults stand for a file that cannot be read."""

    epoch: int = Field(default=0, ge=0, lt=2**63)  # grows with every process that takes the lease
    holder: str | None = None  # a random name that the process gave itself
    host: str = "?"
    process: ProcessRecord | None = None
    released: bool = False  # whether the holder has ended, so that anybody may take the lease
    seconds: float | None = Field(default=None, gt=0)  # for which the lease lasts if it is not renewed
    write: str | None = None  # a random text, so that no two writes have equal bytes, and so equal etags
    updated: str | None = None  # for people to read; no process trusts it


class HeldError(JobError):
    """Another live process holds the unit, and has not released it within the time to wait."""


@dataclass(frozen=True)
class LeaseTimes:
    """The times of a lease."""

    seconds: float  # for which the lease lasts if it is not renewed
    wait_seconds: float  # to wait for a lease that another process holds


class _Looks:
    """The etags that a process that waits for a lease has seen of it."""

    def __init__(self) -> None:
        self._etag: str | None = None
        self._since = 0.0  # when this etag was first seen
        self.changes = -1  # of the etag since the first look; a holder that renews its lease is alive

    def add(self, etag: str) -> None:
        """Note the etag that a look has shown."""
        if etag != self._etag:
            self._etag, self._since, self.changes = etag, _now(), self.changes + 1

    def unchanged_seconds(self, etag: str) -> float:
        """The seconds for which all looks have shown this etag."""
        return _now() - self._since if etag == self._etag else 0.0


class Lease:
    """The right to write one unit, held by this process from `acquire` to `release`."""

    def __init__(self, run: RunFolder, unit: str, times: LeaseTimes, lost: Callable[[JobError], None]) -> None:
        self._storage, self._unit, self._times = run.storage, unit, times
        self._uri = run.uri(layout.unit_lease(unit))
        self._lost = lost  # called with the error when another process is found to hold the lease
        self._holder = secrets.token_hex(16)
        self._etag: str | None = None
        self._renewed = -float("inf")  # when the last write of the lease that succeeded began
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.epoch = 0

    def acquire(self, stop: StopFlag, waiting: Callable[[str], None]) -> None:
        """Take the lease once it is free or released, or its holder is dead or silent, and keep it renewed in a thread.

        Args:
            waiting: called again and again with a description of the holder.

        Raises:
            HeldError: 52 when its holder still lives after `wait_seconds`.
            JobError: the error of `stop`.
        """
        began, looks = _now(), _Looks()
        while not self._take(stored := self._storage.fetch(self._uri), looks):
            if stored is None:
                continue  # Another process was first to create the lease.
            waiting(_described(stored))
            looks.add(stored.etag)
            if looks.changes > 0 and _now() - began >= self._times.wait_seconds:
                raise HeldError(*self._held_by(stored))
            stop.check()
            self._ended.wait(min(_POLL_SECONDS, self._times.seconds / 10))
        # From now on who writes waits for a store that is down, and asks for the lease at every try.
        self._storage = impatient(self._storage)
        threading.Thread(target=self._keep, name="lease", daemon=True).start()

    def _take(self, stored: Stored | None, looks: "_Looks") -> bool:
        """Take the lease, which was found like that, if it may be taken; whether this process holds it now."""
        if stored is None:
            return self._write(epoch=1, etag=None)
        record = _parsed(stored)
        lasts_seconds = self._times.seconds if record.seconds is None else record.seconds
        silent = looks.unchanged_seconds(stored.etag) >= lasts_seconds
        if record.released or silent or _is_dead(record.process):
            return self._write(epoch=record.epoch + 1, etag=stored.etag)
        return False

    def _write(self, epoch: int, etag: str | None, *, released: bool = False) -> bool:
        """Write the lease if its etag is still this one, None where there is no lease yet; whether it was."""
        began = _now()
        record = LeaseRecord(
            epoch=epoch,
            holder=self._holder,
            host=socket.gethostname(),
            process=_this_process(),
            released=released,
            seconds=self._times.seconds,
            write=secrets.token_hex(8),
            updated=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        written = self._storage.write_if(self._uri, record.model_dump_json(indent=2).encode(), etag)
        if written is None:
            return False
        self._etag, self._renewed, self.epoch = written, began, epoch
        return True

    def require(self) -> None:
        """Raise an error unless this process holds the lease. The storage is asked if the last renewal is long ago.

        Raises:
            JobError: 52 when another process holds it; 50 or 42 when that cannot be found out.
        """
        if _now() - self._renewed > self._times.seconds / 2:
            self.confirm()

    def confirm(self) -> None:
        """Renew the lease now, and raise an error as `require` does if it is lost."""
        with self._lock:
            if self._ended.is_set() or self._write(self.epoch, self._etag):
                return
            stored = self._storage.fetch(self._uri)
            if stored is not None and _parsed(stored).holder == self._holder:
                self._etag = stored.etag  # An earlier renewal succeeded, but its answer was lost on the way.
                if self._write(self.epoch, self._etag):
                    return
            error = JobError(*self._held_by(stored))
        self._lost(error)
        raise error

    def _held_by(self, stored: Stored | None) -> tuple[ExitCode, str, str]:
        """The arguments of the error that another process holds the unit."""
        return (
            ExitCode.LEASE_HELD,
            f"Another process works on {self._unit} of this run: {_described(stored)}.",
            "Let it finish, or stop it and start this again; limits.lease_wait says how long to wait for it.",
        )

    def _keep(self) -> None:
        """Renew the lease again and again until it is released or lost."""
        while not self._ended.wait(self._times.seconds / _RENEWALS):
            try:
                self.confirm()
            except JobError as error:
                if error.code == ExitCode.LEASE_HELD:
                    return
                # The store could not be reached just now. `require` will find out before the next write.

    def release(self) -> None:
        """Say in the lease that any process may take it at once. A lost lease stays as it is."""
        self._ended.set()
        with self._lock:
            self._write(self.epoch, self._etag, released=True)


@contextmanager
def held(
    run: RunFolder, unit: str, times: LeaseTimes, stop: StopFlag, waiting: Callable[[str], None]
) -> Iterator[tuple[RunFolder, int]]:
    """Hold a unit's lease while the block runs.

    Yields:
        The run's folder, which can be written only while the lease is held, and the lease's epoch.

    Raises:
        HeldError: 52 when another live process holds the unit for longer than `times.wait_seconds`.
    """
    lease = Lease(run, unit, times, stop.abort)
    lease.acquire(stop, waiting)
    try:
        yield RunFolder(changed(run.storage, lambda storage: FencedStorage(storage, lease)), run.root), lease.epoch
    finally:
        # A lease that is not released expires by itself, and an error that ended the block says more than one here.
        with suppress(JobError):
            lease.release()


class FencedStorage:
    """A storage that can be written only while this process holds a lease. Reading is as in `Storage`."""

    def __init__(self, storage: Storage, lease: Lease) -> None:
        self._storage, self._lease = storage, lease

    def read(self, uri: str) -> bytes | None:
        """Read as `Storage.read` does."""
        return self._storage.read(uri)

    def fetch(self, uri: str) -> Stored | None:
        """Fetch as `Storage.fetch` does."""
        return self._storage.fetch(uri)

    def head(self, uri: str) -> ObjectInfo | None:
        """Look as `Storage.head` does."""
        return self._storage.head(uri)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List as `Storage.list` does."""
        return self._storage.list(prefix)

    def download(self, uri: str, path: Path, expect: Digest | None = None, etag: str | None = None) -> Digest:
        """Download as `Storage.download` does."""
        return self._storage.download(uri, path, expect, etag)

    def write(self, uri: str, data: bytes) -> Digest:
        """Write as `Storage.write` does, if the lease is held.

        The object is looked at first, then the lease, and the write succeeds only if the object is still the same. If
        another process takes the lease in between and writes the object, this write fails, and the lease is asked for.

        Raises:
            JobError: 52 when another process holds the lease, or as `Storage.write` does.
        """
        self._fence(uri, lambda etag: self._storage.write_if(uri, data, etag))
        return Digest(len(data), hashlib.sha256(data).hexdigest())

    def _fence(self, uri: str, write: Callable[[str | None], Written | None]) -> Written:
        """Write by the function, which is given an etag as the condition and gives None where that does not hold."""
        while True:
            before = self._storage.head(uri)
            self._lease.require()
            if (written := write(before.etag if before else None)) is not None:
                return written
            self._lease.confirm()

    def write_if(self, uri: str, data: bytes, etag: str | None) -> str | None:
        """Write as `Storage.write_if` does. The lease is not asked for: the caller's condition is the fence."""
        return self._storage.write_if(uri, data, etag)

    def upload(self, path: Path, uri: str) -> Digest:
        """Upload as `Storage.upload` does, fenced as `write` is."""
        return self._fence(uri, lambda etag: self._storage.upload_if(path, uri, etag))

    def upload_if(self, path: Path, uri: str, etag: str | None) -> Digest | None:
        """Upload as `Storage.upload_if` does. The lease is not asked for, as in `write_if`."""
        return self._storage.upload_if(path, uri, etag)

    def delete(self, uri: str) -> None:
        """Delete as `Storage.delete` does, if the lease, which is renewed before, is held.

        Raises:
            JobError: 52 when another process holds the lease, or as `Storage.delete` does.
        """
        self._lease.confirm()
        self._storage.delete(uri)


def _parsed(stored: Stored) -> LeaseRecord:
    try:
        return LeaseRecord.model_validate_json(stored.data)
    except ValidationError:
        return LeaseRecord()


def _described(stored: Stored | None) -> str:
    record = _parsed(stored) if stored else LeaseRecord()
    return f"process {record.process.pid if record.process else '?'} on {record.host}, epoch {record.epoch or '?'}"


def _now() -> float:
    """The seconds of a clock that goes on while the machine sleeps, as other machines' clocks do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _this_process() -> ProcessRecord | None:
    """The record of this process; None where the system does not tell."""
    try:
        return ProcessRecord(
            boot=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            namespace=Path("/proc/self/ns/pid").stat().st_ino,
            pid=os.getpid(),
            started=_started(os.getpid()),
        )
    except OSError:
        return None


def _is_dead(process: ProcessRecord | None) -> bool:
    """Whether the process is known to be gone, which it can be only where this process would see it."""
    here = _this_process()
    if process is None or here is None or (process.boot, process.namespace) != (here.boot, here.namespace):
        return False
    try:
        return _started(process.pid) != process.started
    except (FileNotFoundError, ProcessLookupError):
        return True


def _started(pid: int) -> int | None:
    """When a process began, in ticks since the machine's start; None when it has ended but is not reaped yet."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
