"""Waits for a store that is down for minutes, as for any that answers late, and says so."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from job.errors import JobError
from job.storage.base import Digest, ObjectInfo, Storage, Stored, UnreachableError

Result = TypeVar("Result")

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds between two tries, twice as long each time
_QUIET_SECONDS = 60.0  # between two lines that say that the store is down
_CHECK_SECONDS = 0.5  # between two looks whether to stop


@dataclass(frozen=True)
class Patience:
    """How long a process waits for a store, and whom it tells.

    Attributes:
        minutes: that a store may be down.
        check: raises where the process is to stop.
        say: shows an event: its name for programs, and what it means for people.
        excuse: is told until when, on the monotonic clock, nothing may advance.
    """

    minutes: float
    check: Callable[[], None]
    say: Callable[[str, str], None]
    excuse: Callable[[float], None]


class Wait:
    """One store's state as all threads of the process see it: none of them waits longer than from when it went down.

    Args:
        name: what is waited for, as events call it: a store, or a hub.
    """

    def __init__(self, patience: Patience, name: str = "store") -> None:
        self._patience, self._name = patience, name
        self._seconds = patience.minutes * 60
        self._down_since: float | None = None  # when a request failed after which none has succeeded
        self._told_at = -math.inf  # when a line last said that it is down
        self._lock = threading.Lock()

    def until_it_works(self, work: Callable[[], Result], *, writes: bool = False) -> Result:
        """Do the work, again and again while the store cannot be reached; give its result.

        Args:
            writes: whether something is lost if the work is not done.

        Raises:
            JobError: 50 when the time is over; when the process is to stop, the stop, which says that all is saved, or
                50 again where that would not be so; or any other error of the work.
        """
        pause, failed, tells = _FIRST_PAUSE, None, False
        while True:
            try:
                result = work()
            except UnreachableError as error:
                failed = failed or time.monotonic()
                is_news, deadline = self._note_down(failed)
                if time.monotonic() >= deadline:
                    raise
                if is_news:
                    tells = True
                    text = f"{error.cause} Waiting for it, for up to {self._patience.minutes:g} minutes"
                    self._patience.say(f"waiting for the {self._name}", text)
                self._pause(min(pause, deadline - time.monotonic()), error if writes else None)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            except JobError:  # the store has answered
                self._note_up(waited=failed is not None, tells=tells)
                raise
            self._note_up(waited=failed is not None, tells=tells)
            return result

    def _note_down(self, failed: float) -> tuple[bool, float]:
        """Note that a request failed, as it first did at `failed`: whether that is news, and until when to wait."""
        with self._lock:
            # A store that answers every other request is up and down many times a second.
            is_news = self._down_since is None and failed - self._told_at >= _QUIET_SECONDS
            self._told_at = failed if is_news else self._told_at
            self._down_since = self._down_since or failed
            deadline = min(self._down_since, failed) + self._seconds
        self._patience.excuse(deadline)
        return is_news, deadline

    def _note_up(self, *, waited: bool, tells: bool) -> None:
        with self._lock:
            self._down_since = None
        if waited:
            self._patience.excuse(time.monotonic())
        if tells:
            self._patience.say(f"the {self._name} is back", f"The {self._name} is back")

    def _pause(self, seconds: float, error: UnreachableError | None) -> None:
        """Sleep so long. As soon as the process is to stop, raise the error; the stop where that is None."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                self._patience.check()
            except JobError as stop:
                if error is None or not stop.code.is_stop:
                    raise
                raise error from stop
            time.sleep(min(left, _CHECK_SECONDS))


class PatientStorage:
    """A storage each of whose operations waits for its store. All else is as in `Storage`."""

    def __init__(self, storage: Storage, wait: Wait) -> None:
        self._storage, self._wait = storage, wait

    @property
    def impatient(self) -> Storage:
        """The same storage, whose operations wait for nothing."""
        return self._storage

    def around(self, change: Callable[[Storage], Storage]) -> "PatientStorage":
        """The same store, changed so that what `change` adds is done anew at every try."""
        return PatientStorage(change(self._storage), self._wait)

    def read(self, uri: str) -> bytes | None:
        """Read as `Storage.read` does."""
        return self._wait.until_it_works(lambda: self._storage.read(uri))

    def fetch(self, uri: str) -> Stored | None:
        """Fetch as `Storage.fetch` does."""
        return self._wait.until_it_works(lambda: self._storage.fetch(uri))

    def write(self, uri: str, data: bytes) -> Digest:
        """Write as `Storage.write` does."""
        return self._wait.until_it_works(lambda: self._storage.write(uri, data), writes=True)

    def write_if(self, uri: str, data: bytes, etag: str | None) -> str | None:
        """Write as `Storage.write_if` does.

        A try whose answer was lost may have written. So where a later one finds another object, and that has these
        bytes, it is taken for this call's own.
        """
        tries = 0

        def write() -> str | None:
            nonlocal tries
            tries += 1
            written = self._storage.write_if(uri, data, etag)
            if written is None and tries > 1 and (found := self._storage.fetch(uri)) is not None:
                return found.etag if found.data == data else None
            return written

        return self._wait.until_it_works(write, writes=True)

    def download(self, uri: str, path: Path, expect: Digest | None = None, etag: str | None = None) -> Digest:
        """Download as `Storage.download` does."""
        return self._wait.until_it_works(lambda: self._storage.download(uri, path, expect, etag))

    def upload(self, path: Path, uri: str) -> Digest:
        """Upload as `Storage.upload` does."""
        return self._wait.until_it_works(lambda: self._storage.upload(path, uri), writes=True)

    def upload_if(self, path: Path, uri: str, etag: str | None) -> Digest | None:
        """Upload as `Storage.upload_if` does. A try whose answer was lost is found as another object at the next."""
        return self._wait.until_it_works(lambda: self._storage.upload_if(path, uri, etag), writes=True)

    def head(self, uri: str) -> ObjectInfo | None:
        """Look as `Storage.head` does."""
        return self._wait.until_it_works(lambda: self._storage.head(uri))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """List as `Storage.list` does."""
        yield from self._wait.until_it_works(lambda: [*self._storage.list(prefix)])

    def delete(self, uri: str) -> None:
        """Delete as `Storage.delete` does."""
        self._wait.until_it_works(lambda: self._storage.delete(uri), writes=True)


def changed(storage: Storage, change: Callable[[Storage], Storage]) -> Storage:
    """The storage as `change` makes it; of one that waits for its store, every try goes through what `change` adds."""
    return storage.around(change) if isinstance(storage, PatientStorage) else change(storage)


def impatient(storage: Storage) -> Storage:
    """The same storage, whose operations wait for no store that is down."""
    return storage.impatient if isinstance(storage, PatientStorage) else storage
