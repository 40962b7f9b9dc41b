"""Exit codes, and errors that carry one. After 40 to 49 starting again is no use, after 50 to 59 it is."""

from collections.abc import Sequence
from enum import IntEnum

from lora_engine.errors import (
    DataError,
    DivergedError,
    EngineError,
    LostPeerError,
    ModelError,
    ResourceError,
    UnsafeError,
)
from lora_engine.text import printable


class ExitCode(IntEnum):
    """The code with which the process ends, by which whoever started it decides whether to start it again."""

    DONE = 0
    BUG = 1
    USAGE = 2
    MANIFEST = 40
    DATA = 41
    STORAGE_ACCESS = 42
    MODEL = 43
    RESOURCES = 44
    DIVERGED = 45
    CONFLICT = 46
    UNSAFE = 47
    MAX_HOURS = 48
    STORAGE_RETRIES = 50
    PREEMPTED = 51
    LEASE_HELD = 52
    GPU_FAULT = 53
    STALLED = 54
    ATTEMPT_HOURS = 55

    @property
    def is_final(self) -> bool:
        """Whether the same command, started again, would end the same."""
        return self in (ExitCode.BUG, ExitCode.USAGE) or 40 <= self < 50

    @property
    def is_stop(self) -> bool:
        """Whether a signal or a limit ended the attempt, and says that what was done is saved."""
        return self in (ExitCode.PREEMPTED, ExitCode.ATTEMPT_HOURS, ExitCode.MAX_HOURS)


class JobError(Exception):
    """A failure with an exit code, a cause and a remedy, each one sentence for a person, on one line.

    Args:
        details: lines that are shown between the cause and the remedy.
    """

    def __init__(self, code: ExitCode, cause: str, remedy: str, details: Sequence[str] = ()) -> None:
        self.code = code
        self.cause, self.remedy = printable(cause), printable(remedy)
        lines = [self.cause, *(f"  {printable(detail)}" for detail in details), self.remedy]
        super().__init__("\n".join(lines) if details else f"{self.cause} {self.remedy}")


def no_run(root: str) -> JobError:
    """The error of every command that is to read a run where there is none."""
    return JobError(ExitCode.STORAGE_ACCESS, f"There is no run at {root}.", "Name a run: <destination>/<name>.")


_ENGINE_CODES: tuple[tuple[type[EngineError], ExitCode], ...] = (
    (DataError, ExitCode.DATA),
    (UnsafeError, ExitCode.UNSAFE),
    (ModelError, ExitCode.MODEL),
    (ResourceError, ExitCode.RESOURCES),
    (DivergedError, ExitCode.DIVERGED),
    (LostPeerError, ExitCode.STORAGE_RETRIES),
)


def code_of(error: BaseException) -> ExitCode:
    """The exit code of any error."""
    if isinstance(error, JobError):
        return error.code
    return next((code for kind, code in _ENGINE_CODES if isinstance(error, kind)), ExitCode.BUG)
