"""The last line of a command that failed: its cause and its remedy, where people and platforms look for them."""

import sys
from contextlib import suppress
from pathlib import Path

PROGRAM = "lora-job"  # however it was started
_TERMINATION_LOG = Path("/dev/termination-log")  # Kubernetes shows its text as the reason why a container ended.
_LARGEST_LOG = 1024  # characters of at most 4 bytes each, since Kubernetes takes 4 KB


def show_last_line(code: int, message: str) -> None:
    """Show it on standard error, and where Kubernetes looks for it."""
    print(f"{PROGRAM}: {message}", file=sys.stderr, flush=True)  # noqa: T201 - the process ends with it
    if _TERMINATION_LOG.exists():
        with suppress(OSError):  # Some containers have the file but may not write it.
            _TERMINATION_LOG.write_text(f"{code}: {message}"[:_LARGEST_LOG])
