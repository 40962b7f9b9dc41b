"""Makes signals and time limits one flag, which every loop asks between two pieces of work."""

import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from job.errors import ExitCode, JobError

Result = TypeVar("Result")
AGAIN = "Start the same manifest again to continue."


def hangup() -> list[signal.Signals]:
    """SIGHUP, which says that the terminal is gone; nothing where `nohup` has it ignored."""
    return [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]


class _InterruptedError(BaseException):
    """A signal came during `StopFlag.at_once`.

    It is a BaseException, so that no library's `except Exception` takes it for an error of its own.
    """


class StopFlag:
    """The flag that says whether to stop. A call of it gives the answer, and `check` raises where that is yes.

    Attributes:
        unsaved: what would be lost if the process ended at this moment, as the error to end with; None where all that
            was done is stored. Whoever does such work sets it.
    """

    def __init__(self) -> None:
        self.unsaved: JobError | None = None
        self._signal: signal.Signals | None = None
        self._signalled = 0.0  # when the signal came, on the monotonic clock
        self._at_once = False  # whether a signal raises an exception where it arrives
        self._abort: JobError | None = None
        self._limits: list[tuple[float, JobError]] = []  # deadlines on the monotonic clock, with their errors

    def install(self) -> None:
        """Have signals set the flag: SIGTERM, SIGINT, and SIGHUP unless it is ignored. Further ones change nothing."""
        for number in (signal.SIGTERM, signal.SIGINT, *hangup()):
            signal.signal(number, self._receive)

    @property
    def signalled_seconds(self) -> float:
        """How long ago the first signal came; below 0 while none has."""
        return -1.0 if self._signal is None else time.monotonic() - self._signalled

    def at_once(self, work: Callable[[], Result]) -> Result:
        """Do the work and return its result; a signal stops it wherever it is.

        It is for work that takes seconds, or waits, and that leaves nothing half done. It is no context manager, since
        a signal that arrives as the block is entered or left would be raised outside of its `except`.

        Raises:
            JobError: the error that `check` raises, where a signal came.
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
        """A `check` that raises only that long after its first call that finds the flag set.

        It is for work that ends by itself within the time, unless it hangs.
        """
        found_set: float | None = None

        def check() -> None:
            nonlocal found_set
            if self():
                found_set = found_set or time.monotonic()
                if time.monotonic() - found_set >= seconds:
                    self.check()

        return check

    def limit_attempt(self, hours: float) -> None:
        """Set the flag, with code 55, that long from now."""
        cause = f"limits.attempt_hours ({hours:g}) is over; what was done is saved."
        self._limits.append((time.monotonic() + hours * 3600, JobError(ExitCode.ATTEMPT_HOURS, cause, AGAIN)))

    def limit_run(self, hours: float, spent_seconds: float) -> None:
        """Set the flag, with code 48, once all attempts at the run together have taken that long.

        Args:
            spent_seconds: that attempts have taken so far.
        """
        cause = f"limits.max_hours ({hours:g}) over all attempts is over; what was done is saved."
        error = JobError(ExitCode.MAX_HOURS, cause, "Raise limits.max_hours to continue.")
        self._limits.append((time.monotonic() + hours * 3600 - spent_seconds, error))

    def abort(self, error: JobError) -> None:
        """Set the flag with this error, which goes before signals and limits."""
        self._abort = error

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._signal is None:
            self._signalled = time.monotonic()
            self._signal = signal.Signals(number)
            if self._at_once:
                raise _InterruptedError

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.reason is not None

    @property
    def reason(self) -> JobError | None:
        """The error that `check` raises; None where the flag is not set."""
        if self._abort is not None:
            return self._abort
        if self._signal is not None:
            return JobError(ExitCode.PREEMPTED, f"Stopped by {self._signal.name}; what was done is saved.", AGAIN)
        return self._over()

    def _over(self) -> JobError | None:
        """The error of a limit that is over; None where none is."""
        now = time.monotonic()
        return next((error for deadline, error in self._limits if now >= deadline), None)

    def check(self) -> None:
        """Raise an error if the flag is set.

        Raises:
            JobError: 51 for a signal, 55 or 48 when a limit is over, or the error that `abort` was given.
        """
        # No variable holds the error: it would keep the frames that it passes through alive, and with them what they
        # are to give back to the system before the process ends.
        if self.reason is not None:
            raise self.reason
