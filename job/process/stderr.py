"""Keeps a process alive whose standard error nobody reads any more, as a job outlives the terminal that it began at."""

import io
import os
import sys
from pathlib import Path
from typing import Any


class _Unheard(io.FileIO):
    """A file to which every write succeeds, even where a pipe's reader is gone or a terminal has hung up."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or len(data)  # A full pipe that does not block gives None: its data is dropped.
        except OSError:
            return len(data)


def lose_no_work_to_a_lost_log() -> None:
    """Replace `sys.stderr` by one that drops what nobody can read, where writing would raise an error."""
    before = sys.stderr
    if before is None:  # The process was started with standard error closed.
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - it stays open as long as the interpreter runs
        return
    buffer = io.BufferedWriter(_Unheard(before.fileno(), "w", closefd=False))
    sys.stderr = io.TextIOWrapper(buffer, before.encoding, before.errors, line_buffering=True)
