"""Exit codes, and errors that carry one. DESIGN: 4x never retry, 5x retry."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the process tells its scheduler."""

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


class JobError(Exception):
    """A failure with an exit code, a cause and a remedy, each one sentence for a person."""

    def __init__(self, code: ExitCode, cause: str, remedy: str) -> None:
        super().__init__(f"{cause} {remedy}")
        self.code = code
        self.cause = cause
        self.remedy = remedy
