"""The console script: takes SIGTERM before it imports anything that takes time."""

import os
import signal
from types import FrameType


def main() -> None:
    """Run `job.cli`. As a container's first process, lora-job would not hear a signal that it has no handler for."""
    signal.signal(signal.SIGTERM, _end)
    from job.cli import main as run

    run()


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)  # as the signal would have ended any other process


if __name__ == "__main__":
    main()
