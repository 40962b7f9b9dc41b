"""One unit of a run under way: its lease, and `units/<unit>/status.json`, every few seconds and at its end.

Its seconds, and those of its stages, are of all attempts together.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

from job import layout
from job.errors import JobError, code_of
from job.process.faults import resource_errors
from job.process.progress import Stage
from job.run.context import Attempt
from job.run.lease import LeaseTimes, held
from job.run.status import Status

_SECONDS = 5.0


@contextlib.contextmanager
def unit_of(attempt: Attempt, unit: str, wait_minutes: float) -> Iterator[Attempt]:
    """Hold the unit while the block runs, keep its status true, and say at its end how it went.

    Gives the job with a run folder that writes only while the unit is held.

    Raises:
        HeldError: 52 when another process works on the unit and does not end in time.
    """
    with _held(attempt, unit, wait_minutes) as holding, _shown(holding, unit):
        yield holding


@contextlib.contextmanager
def _held(attempt: Attempt, unit: str, wait_minutes: float) -> Iterator[Attempt]:
    if not attempt.fenced:
        yield attempt
        return
    told = False

    def waiting(holder: str) -> None:
        nonlocal told
        attempt.progress.moved()
        if not told:
            attempt.progress.say("waiting for another process", unit=unit, holder=holder)
        told = True

    times = LeaseTimes(attempt.manifest.limits.lease_seconds, wait_minutes * 60)
    with held(attempt.run, unit, times, attempt.stop, waiting) as (run, epoch):
        yield replace(attempt, run=run, epoch=epoch)


@contextlib.contextmanager
def _shown(attempt: Attempt, unit: str) -> Iterator[None]:
    writer = _Writer(attempt, unit)
    try:
        with writer, resource_errors():
            yield
    except BaseException as error:
        code = code_of(error)
        state = "preempted" if code.is_stop else "failed"
        cause, remedy = getattr(error, "cause", str(error)), getattr(error, "remedy", "")
        with contextlib.suppress(JobError):  # the error at hand says more than a store that cannot be written
            writer.write(state, exit_code=int(code), cause=cause[:1500], remedy=remedy[:500])
        raise
    writer.write("done", exit_code=0)


class _Writer:
    """Writes in a thread of its own, so that a slow store holds nothing up. The last value wins."""

    def __init__(self, attempt: Attempt, unit: str) -> None:
        self._attempt, self._unit = attempt, unit
        self._key = layout.unit_status(unit)
        self._started = datetime.now(UTC)
        self._before = dict(attempt.progress.seconds)
        earlier = attempt.run.read_stored(self._key, Status)
        self._earlier_seconds = earlier.seconds if earlier else 0.0
        self._earlier_stages = earlier.stages if earlier else {}
        self._facts: dict[str, object] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="status", daemon=True)

    def __enter__(self) -> None:
        self._attempt.progress.observer = self._observe
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _observe(self, stage: Stage) -> None:
        self._facts = stage.facts()

    def _loop(self) -> None:
        while True:
            try:
                self.write("running")
            except JobError as error:
                self._attempt.progress.warn(f"status.json could not be written: {error.cause}")
            if self._ended.wait(_SECONDS):
                return

    def write(self, state: str, **end: object) -> None:
        """Write the status now; `end` is what there is to say of a unit that has ended."""
        stages = dict(self._earlier_stages)
        for name, seconds in dict(self._attempt.progress.seconds).items():
            if (spent := seconds - self._before.get(name, 0.0)) > 0:
                stages[name] = round(stages.get(name, 0.0) + spent, 3)
        now = datetime.now(UTC)
        facts = {"unit": self._unit, "state": state, "started": self._started, "updated": now, "stages": stages}
        facts["seconds"] = self._earlier_seconds + (now - self._started).total_seconds()
        status = Status.model_validate(facts | self._facts | end)
        self._attempt.run.write_json(self._key, status.model_dump(mode="json", exclude_none=True))
