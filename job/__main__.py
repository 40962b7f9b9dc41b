"""The console script: takes SIGTERM and SIGINT before it imports anything that takes time."""

import os
import signal
from types import FrameType


def main() -> None:
    """Run `job.cli`. As a container's first process, lora-job would not hear a signal that it has no handler for."""
    signal.signal(signal.SIGTERM, _end)
    interrupted = signal.signal(signal.SIGINT, _end)
    from job.cli.commands import app
    from job.cli.exit import run_to_exit
    from job.process.stderr import lose_no_work_to_a_lost_log

    lose_no_work_to_a_lost_log()
    signal.signal(signal.SIGINT, interrupted)  # commands other than `run` clean up after it
    run_to_exit(app)


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)  # as the signal would have ended any other process


if __name__ == "__main__":
    main()
