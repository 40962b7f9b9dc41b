"""One writer a unit: a lease in storage that its holder keeps renewing, and a fence around what the holder writes.

Nothing rests on clocks of two machines agreeing: a lease is over when a reader, by its own clock, has seen it unchanged
for as long as it says. A holder that was frozen for so long finds out before its next write or, where the freeze falls
between the two, by the write's own precondition. The lease's file is never deleted, so its epoch only grows.
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

from pydantic import ValidationError

from job import layout
from job.errors import ExitCode, JobError
from job.process.stop import StopFlag
from job.storage import Digest, ObjectInfo, Storage, Stored
from job.storage.folder import RunFolder
from job.storage.stored import StoredJson

_RENEWALS = 4  # while a lease lasts
_POLL_SECONDS = 1.0


class ProcessRecord(StoredJson):
    """The process that holds a lease, for those that share its kernel and its namespace of processes."""

    boot: str  # the kernel's id of its own start
    namespace: int
    pid: int
    started: int | None  # ticks after the kernel's start


class LeaseRecord(StoredJson):
    """`lease.json`: who writes a unit's files. What an unreadable file says is nothing, as by default."""

    epoch: int = 0  # grows with every process that takes the lease
    holder: str | None = None
    host: str = "?"
    process: ProcessRecord | None = None
    released: bool = False
    seconds: float | None = None  # for which the lease lasts unrenewed
    write: str | None = None  # a nonce: no two writes are alike, so no two etags are
    updated: str | None = None  # for people


class HeldError(JobError):
    """The unit is another live process's, and was not waited for any longer."""


@dataclass(frozen=True)
class LeaseTimes:
    """How long a lease lasts unrenewed, and how long to wait for another's."""

    seconds: float
    wait_seconds: float


class _Looks:
    """What a process that waits for a lease has seen of it."""

    def __init__(self) -> None:
        self._etag: str | None = None
        self._since = 0.0
        self.changes = -1  # since the first look; a holder that renews lives

    def add(self, etag: str) -> None:
        """Another look."""
        if etag != self._etag:
            self._etag, self._since, self.changes = etag, _now(), self.changes + 1

    def unchanged_seconds(self, etag: str) -> float:
        """For how long all looks have shown this."""
        return _now() - self._since if etag == self._etag else 0.0


class Lease:
    """The right to write one unit, held by this process from `acquire` to `release`."""

    def __init__(self, run: RunFolder, unit: str, times: LeaseTimes, lost: Callable[[JobError], None]) -> None:
        self._storage, self._unit, self._times = run.storage, unit, times
        self._uri = run.uri(layout.unit_lease(unit))
        self._lost = lost  # called once another process holds the lease
        self._holder = secrets.token_hex(16)
        self._etag: str | None = None
        self._renewed = -float("inf")  # when the last renewal that succeeded began
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self.epoch = 0

    def acquire(self, stop: StopFlag, waiting: Callable[[str], None]) -> None:
        """Take the lease once it is free, released, or its holder is dead or silent.

        Raises:
            HeldError: 52 when its holder still lives after `wait_seconds`.
            JobError: that of `stop`.
        """
        began, looks = _now(), _Looks()
        while not self._take(stored := self._storage.fetch(self._uri), looks):
            if stored is None:
                continue  # another process was first to create it
            waiting(_described(stored))
            looks.add(stored.etag)
            if looks.changes > 0 and _now() - began >= self._times.wait_seconds:
                raise HeldError(*self._held_by(stored))
            stop.check()
            self._ended.wait(min(_POLL_SECONDS, self._times.seconds / 10))
        threading.Thread(target=self._keep, name="lease", daemon=True).start()

    def _take(self, stored: Stored | None, looks: "_Looks") -> bool:
        if stored is None:
            return self._write(epoch=1, etag=None)
        record = _parsed(stored)
        lasts_seconds = self._times.seconds if record.seconds is None else record.seconds
        silent = looks.unchanged_seconds(stored.etag) >= lasts_seconds
        if record.released or silent or _is_dead(record.process):
            return self._write(epoch=record.epoch + 1, etag=stored.etag)
        return False

    def _write(self, epoch: int, etag: str | None, *, released: bool = False) -> bool:
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
        """Return only while no other process can have taken the lease.

        Raises:
            JobError: 52 when one has; 50 or 42 when that cannot be found out.
        """
        if _now() - self._renewed > self._times.seconds / 2:
            self.confirm()

    def confirm(self) -> None:
        """Renew the lease now. Raises as `require` does."""
        with self._lock:
            if self._ended.is_set() or self._write(self.epoch, self._etag):
                return
            stored = self._storage.fetch(self._uri)
            if stored is not None and _parsed(stored).holder == self._holder:
                self._etag = stored.etag  # an earlier renewal whose answer was lost
                if self._write(self.epoch, self._etag):
                    return
            error = JobError(*self._held_by(stored))
        self._lost(error)
        raise error

    def _held_by(self, stored: Stored | None) -> tuple[ExitCode, str, str]:
        return (
            ExitCode.LEASE_HELD,
            f"Another process works on {self._unit} of this run: {_described(stored)}.",
            "Let it finish, or stop it and start this again; limits.lease_wait says how long to wait for it.",
        )

    def _keep(self) -> None:
        while not self._ended.wait(self._times.seconds / _RENEWALS):
            try:
                self.confirm()
            except JobError as error:
                if error.code == ExitCode.LEASE_HELD:
                    return
                # a store that cannot be reached: `require` decides before the next write

    def release(self) -> None:
        """Let the next process take the lease at once. A lost lease stays as it is."""
        self._ended.set()
        with self._lock:
            self._write(self.epoch, self._etag, released=True)


@contextmanager
def held(
    run: RunFolder, unit: str, times: LeaseTimes, stop: StopFlag, waiting: Callable[[str], None]
) -> Iterator[tuple[RunFolder, int]]:
    """Hold a unit's lease; gives the run's folder behind the fence, and the epoch."""
    lease = Lease(run, unit, times, stop.abort)
    lease.acquire(stop, waiting)
    try:
        yield RunFolder(FencedStorage(run.storage, lease), run.root), lease.epoch
    finally:
        with suppress(JobError):  # it expires; whatever ended the block says more
            lease.release()


class FencedStorage:
    """A storage that writes only for the holder of a lease."""

    def __init__(self, storage: Storage, lease: Lease) -> None:
        self._storage, self._lease = storage, lease

    def read(self, uri: str) -> bytes | None:
        """See `Storage`."""
        return self._storage.read(uri)

    def fetch(self, uri: str) -> Stored | None:
        """See `Storage`."""
        return self._storage.fetch(uri)

    def head(self, uri: str) -> ObjectInfo | None:
        """See `Storage`."""
        return self._storage.head(uri)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Storage`."""
        return self._storage.list(prefix)

    def download(self, uri: str, path: Path, expect: Digest | None = None) -> Digest:
        """See `Storage`."""
        return self._storage.download(uri, path, expect)

    def write(self, uri: str, data: bytes) -> Digest:
        """See `Storage`; 52 when the lease is another's.

        What stands there is looked at first, then the lease, and the write asks for what was seen: whoever takes over
        in between and writes the object makes this one fail.
        """
        while True:
            before = self._storage.head(uri)
            self._lease.require()
            if self.write_if(uri, data, before.etag if before else None) is not None:
                return Digest(len(data), hashlib.sha256(data).hexdigest())
            self._lease.confirm()

    def write_if(self, uri: str, data: bytes, etag: str | None) -> str | None:
        """See `Storage`."""
        return self._storage.write_if(uri, data, etag)

    def upload(self, path: Path, uri: str) -> Digest:
        """See `Storage`; as `write`, so the file has to fit in memory."""
        return self.write(uri, path.read_bytes())

    def delete(self, uri: str) -> None:
        """See `Storage`; 52 when the lease is another's."""
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
    """Seconds of a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _this_process() -> ProcessRecord | None:
    """What tells this process from any other before or after it, for those that share its kernel and namespace."""
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
    """Whether the process ran where this one would see it, and is gone."""
    here = _this_process()
    if process is None or here is None or (process.boot, process.namespace) != (here.boot, here.namespace):
        return False
    try:
        return _started(process.pid) != process.started
    except (FileNotFoundError, ProcessLookupError):
        return True


def _started(pid: int) -> int | None:
    """When a process began, in ticks since the start of the machine; None when it is dead and not yet reaped."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
