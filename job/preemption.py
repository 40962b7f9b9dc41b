"""Signals and time limits become one flag, which every loop asks between two pieces of work."""

import signal
import time
from types import FrameType

from job.errors import ExitCode, JobError


class StopFlag:
    """Called, it says whether to stop; `check` stops."""

    def __init__(self, attempt_hours: float | None = None) -> None:
        self._signal: signal.Signals | None = None
        self._hours = attempt_hours
        self._deadline = None if attempt_hours is None else time.monotonic() + attempt_hours * 3600

    def install(self) -> None:
        """Let SIGTERM and SIGINT set the flag. Repeating the signal changes nothing."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._signal = self._signal or signal.Signals(number)

    def __call__(self) -> bool:
        """Whether to stop."""
        return self._signal is not None or (self._deadline is not None and time.monotonic() >= self._deadline)

    def check(self) -> None:
        """Stop here if asked to.

        Raises:
            JobError: 51 for a signal, 55 when the attempt's hours are over.
        """
        if not self():
            return
        if self._signal is not None:
            raise JobError(
                ExitCode.PREEMPTED,
                f"Stopped by {self._signal.name}; what was done is saved.",
                "Start the same manifest again to continue.",
            )
        raise JobError(
            ExitCode.ATTEMPT_HOURS,
            f"limits.attempt_hours ({self._hours}) is over; what was done is saved.",
            "Start the same manifest again to continue.",
        )
