"""The console script: takes signals before it imports anything that takes time."""

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line.

    Signals have handlers from the start, since a container's first process gets none that it has no handler for.
    """
    signal.signal(signal.SIGTERM, _end)
    interrupted = signal.signal(signal.SIGINT, _end)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # else `nohup` started it, to outlive the terminal
        signal.signal(signal.SIGHUP, _end)
    from job.cli.commands import app
    from job.cli.exit import run_to_exit
    from job.process.stderr import lose_no_work_to_a_lost_log

    lose_no_work_to_a_lost_log()
    # Python's own handler raises KeyboardInterrupt, so that commands other than `run`, which has its own, can clean up.
    signal.signal(signal.SIGINT, interrupted)
    run_to_exit(app)


def _end(number: int, _frame: FrameType | None) -> None:
    os._exit(128 + number)  # The code is what a shell says of a process that the signal has ended.


if __name__ == "__main__":
    main()
