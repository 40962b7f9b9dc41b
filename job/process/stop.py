"""Signals and time limits become one flag, which every loop asks between two pieces of work."""

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from job.errors import ExitCode, JobError

Result = TypeVar("Result")
_AGAIN = "Start the same manifest again to continue."


class _InterruptedError(BaseException):
    """A signal came while nothing was held. No library's `except Exception` takes it for an error of its own."""


class StopFlag:
    """Called, it says whether to stop; `check` stops."""

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._at_once = False
        self._abort: JobError | None = None
        self._limits: list[tuple[float, JobError]] = []  # on the monotonic clock, and what is over then

    def install(self) -> None:
        """Let SIGTERM and SIGINT set the flag. Repeating the signal changes nothing."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def at_once(self, work: Callable[[], Result]) -> Result:
        """What `work` gives; a signal stops it where it is: for what takes seconds, or waits, and holds nothing.

        No context manager: a signal on its way in or out would be raised beside its own `except`.

        Raises:
            JobError: as `check` does.
        """
        try:
            try:
                self._at_once = True
                self.check()
                return work()
            finally:
                self._at_once = False
        except _InterruptedError:
            self.check()
            raise

    def check_after(self, seconds: float) -> Callable[[], None]:
        """A `check` that lets so much time pass first, for what ends by itself unless it hangs.

        The time counts from the first call that finds that there is to be a stop.
        """
        found: float | None = None

        def check() -> None:
            nonlocal found
            if self():
                found = found or time.monotonic()
                if time.monotonic() - found >= seconds:
                    self.check()

        return check

    def limit_attempt(self, hours: float) -> None:
        """Stop, with code 55, so long from now."""
        cause = f"limits.attempt_hours ({hours:g}) is over; what was done is saved."
        self._limits.append((time.monotonic() + hours * 3600, JobError(ExitCode.ATTEMPT_HOURS, cause, _AGAIN)))

    def limit_run(self, hours: float, spent_seconds: float) -> None:
        """Stop, with code 48, once all attempts together have taken so long."""
        cause = f"limits.max_hours ({hours:g}) over all attempts is over; what was done is saved."
        error = JobError(ExitCode.MAX_HOURS, cause, "Raise limits.max_hours to continue.")
        self._limits.append((time.monotonic() + hours * 3600 - spent_seconds, error))

    def abort(self, error: JobError) -> None:
        """Stop with this error, whatever else there is."""
        self._abort = error

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._signal is None:
            self._signal = signal.Signals(number)
            if self._at_once:
                raise _InterruptedError

    def __call__(self) -> bool:
        """Whether to stop."""
        return self._abort is not None or self._signal is not None or self._over() is not None

    def _over(self) -> JobError | None:
        now = time.monotonic()
        return next((error for deadline, error in self._limits if now >= deadline), None)

    def check(self) -> None:
        """Stop here if asked to.

        Raises:
            JobError: 51 for a signal, 55 or 48 when a limit is over, or what `abort` was given.
        """
        if self._abort is not None:
            raise self._abort
        if self._signal is not None:
            cause = f"Stopped by {self._signal.name}; what was done is saved."
            raise JobError(ExitCode.PREEMPTED, cause, _AGAIN)
        over = self._over()
        if over is not None:
            raise over
