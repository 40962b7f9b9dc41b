"""Ends a process that was told to stop and does not, before its platform kills it and the exit code is lost."""

import os
import threading
import time

from job.process.last_line import show_last_line
from job.process.stop import StopFlag


def end_in_time(stop: StopFlag, seconds: float) -> None:
    """Have a thread end the process that long after a signal, if it has not ended by itself.

    A store that takes requests and never answers them would hold it up for minutes. The code is 51 where all that was
    done is stored, else that of what is not.
    """

    def watch() -> None:
        while stop.signalled_seconds < seconds:
            time.sleep(min(1.0, seconds / 10))
        # The error of what is not saved says more than that a signal came.
        error = stop.unsaved or stop.reason
        assert error is not None
        late = f"Something still hung limits.stop_seconds ({seconds:g}) after the signal."
        show_last_line(error.code, f"{error.cause} {late} {error.remedy}")
        os._exit(error.code)

    threading.Thread(target=watch, name="stop-watch", daemon=True).start()
