"""One unit of a run under way: `units/<unit>/status.json`, every few seconds and at its end."""

import contextlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from job import layout
from job.context import Job
from job.errors import ExitCode, JobError, code_of
from job.progress import Stage

_SECONDS = 5.0
_LARGEST = 4096  # bytes of a termination message
_TERMINATION_LOG = Path("/dev/termination-log")


@contextlib.contextmanager
def unit_of(job: Job, unit: str) -> Iterator[None]:
    """Keep the unit's status true while the block runs, and say at its end how it went."""
    writer = _Writer(job, unit)
    try:
        with writer:
            yield
    except BaseException as error:
        code = code_of(error)
        state = "preempted" if code in (ExitCode.PREEMPTED, ExitCode.ATTEMPT_HOURS, ExitCode.MAX_HOURS) else "failed"
        cause, remedy = getattr(error, "cause", str(error)), getattr(error, "remedy", "")
        end = {"state": state, "exit_code": int(code), "cause": cause[:1500], "remedy": remedy[:500]}
        with contextlib.suppress(JobError):  # the error at hand says more than a store that cannot be written
            writer.write(end)
        if _TERMINATION_LOG.exists():
            _TERMINATION_LOG.write_text(json.dumps(end)[:_LARGEST])
        raise
    writer.write({"state": "done", "exit_code": 0})


class _Writer:
    """Writes in a thread of its own, so that a slow store holds nothing up. The last value wins."""

    def __init__(self, job: Job, unit: str) -> None:
        self._job, self._unit = job, unit
        self._key = layout.unit_status(unit)
        self._started = _now()
        self._before = dict(job.progress.seconds)
        earlier = job.run.read_json(self._key) or {}
        self._earlier_seconds = float(earlier.get("seconds", 0.0))
        self._facts: dict[str, Any] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="status", daemon=True)

    def __enter__(self) -> None:
        self._job.progress.observer = self._observe
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _observe(self, stage: Stage) -> None:
        self._facts = stage.facts()

    def _loop(self) -> None:
        while True:
            try:
                self.write({"state": "running"})
            except JobError as error:
                self._job.progress.warn(f"status.json could not be written: {error.cause}")
            if self._ended.wait(_SECONDS):
                return

    def write(self, end: dict[str, Any]) -> None:
        """Write the status now."""
        spent = {
            name: round(seconds - self._before.get(name, 0.0), 3)
            for name, seconds in dict(self._job.progress.seconds).items()
            if seconds > self._before.get(name, 0.0)
        }
        total = self._earlier_seconds + (datetime.now(UTC) - datetime.fromisoformat(self._started)).total_seconds()
        status = {"unit": self._unit, "started": self._started, "updated": _now(), "stages": spent, "seconds": total}
        self._job.run.write_json(self._key, status | self._facts | end)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
