"""Standard error for a job that outlives whoever reads its log."""

import io
import os
import sys
from pathlib import Path
from typing import Any


class _Unheard(io.FileIO):
    """A descriptor to which every write succeeds, though a pipe's reader may be gone or a terminal have hung up."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or len(data)  # None where a pipe that does not wait is full
        except OSError:
            return len(data)


def lose_no_work_to_a_lost_log() -> None:
    """Let `sys.stderr` drop what nobody can read, to the interpreter's end."""
    before = sys.stderr
    if before is None:  # the process was started without one
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - open as long as the interpreter
        return
    buffer = io.BufferedWriter(_Unheard(before.fileno(), "w", closefd=False))
    sys.stderr = io.TextIOWrapper(buffer, before.encoding, before.errors, line_buffering=True)
