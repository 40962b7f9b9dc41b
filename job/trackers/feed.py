"""Tells one tracker what is new, in a thread, so that whoever says it goes on at once."""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from job.errors import JobError
from job.layout import Member
from job.manifest.trackers import TrackerConfig
from job.trackers.messages import Kind
from job.trackers.process import TrackerError, TrackerProcess
from job.trackers.sinks import AdapterOf, Sink
from job.trackers.told import Told


class Feed:
    """One tracker with its process, which is started when there is something to tell.

    Only the newest of each kind is kept for each adapter, and holds all that was told before: nothing is lost while the
    tracker is slow, and what waits does not grow with the time for which it is.
    """

    def __init__(
        self,
        config: TrackerConfig,
        sink: Sink,
        adapter_of: AdapterOf,
        scratch: Path,
        warn: Callable[[str], None],
        seconds: float,
    ) -> None:
        self._config, self._sink, self._adapter_of, self._scratch = config, sink, adapter_of, scratch
        self._warn = warn
        self.left_seconds = seconds  # for which the job may still wait for the tracker
        self._pending: dict[tuple[Member, Kind], Told] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._process: TrackerProcess | None = None
        self._is_busy = self._is_closing = self._is_given_up = self._has_failed = False

    def tell(self, told: Told) -> None:
        """Have the tracker show it. Returns at once."""
        with self._changed:
            if self._has_failed or self._is_closing:
                return
            self._pending[told.member, told.kind] = told
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"tracker {self._config.name}", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Have the tracker end once it has shown all. Returns at once."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to be done: to be shown or, once it is closed, to be ended."""
        has_ended = self._thread is None or not self._thread.is_alive()
        return self._has_failed or has_ended or not (self._pending or self._is_busy or self._is_closing)

    def wait(self, seconds: float) -> float:
        """Wait so long for it to be settled; how many seconds that took."""
        began = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: self.is_settled, seconds)
        return time.monotonic() - began

    def give_up(self, why: str) -> None:
        """End the tracker, and say why, unless that was said before. It has ended when this returns."""
        with self._changed:
            is_said, self._is_given_up = self._is_given_up, True
            process = self._process
            if is_said:
                self._changed.wait_for(lambda: self._has_failed)
                return
        self._warn(
            f"The tracker {self._config.name} shows nothing more: {why.rstrip('.')}. The run goes on without it."
        )
        if process is not None:
            process.kill()
        with self._changed:  # The job may end once this is so.
            self._has_failed = True
            self._pending.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        """Tell the process what is new until it is to end, or something fails."""
        try:
            with contextlib.closing(TrackerProcess(self._config, self._scratch)) as process:
                self._tell_all(process)
        except TrackerError as error:
            self.give_up(str(error))
        except JobError as error:
            self.give_up(error.cause)
        except Exception as error:  # noqa: BLE001 - nothing about a tracker may reach the run
            self.give_up(f"{type(error).__name__}: {error}")
        finally:
            with self._changed:
                self._is_busy = self._is_closing = False
                self._changed.notify_all()

    def _tell_all(self, process: TrackerProcess) -> None:
        with self._changed:
            self._process = process
            if self._is_given_up:
                return
        while (told := self._next()) is not None:
            self._sink.take(told, self._adapter_of(told), process.ask)
        process.finish()

    def _next(self) -> Told | None:
        """Wait for something to tell; None where there is nothing more."""
        with self._changed:
            self._is_busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._pending or self._is_closing or self._has_failed)
            if not self._pending:
                return None
            self._is_busy = True
            return self._pending.pop(next(iter(self._pending)))
