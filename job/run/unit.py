"""Holds a unit of a run while it is worked on: its lease, and its `status.json`, written every few seconds."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from job import layout
from job.errors import JobError, code_of
from job.process.faults import resource_errors
from job.run.context import Workplace
from job.run.lease import LeaseTimes, held
from job.run.status import Status

Place = TypeVar("Place", bound=Workplace)

_STATUS_SECONDS = 5.0  # between two writes of the status


@contextlib.contextmanager
def unit_of(place: Place, unit: str, wait_minutes: float) -> Iterator[Place]:
    """Hold the unit while the block runs, keep its status up to date, and write at its end how it went.

    Args:
        wait_minutes: how long to wait for another process that works on the unit.

    Yields:
        The workplace, with a run folder that can be written only while the unit is held.

    Raises:
        HeldError: 52 when another process still holds the unit after the wait.
        JobError: 44 or 53 when memory, disk or GPU fail within the block.
    """
    with _held(place, unit, wait_minutes) as holding, _shown(holding, unit):
        try:
            yield holding
        finally:
            place.tracking.settle()  # Nothing can be written into the run once the lease is released.


@contextlib.contextmanager
def _held(place: Place, unit: str, wait_minutes: float) -> Iterator[Place]:
    """Hold the unit's lease while the block runs, if the store can keep leases; yield the workplace with its folder."""
    if not place.fenced:
        yield place
        return
    is_logged = False

    def waiting(holder: str) -> None:
        nonlocal is_logged
        place.progress.moved()
        if not is_logged:
            text = f"Waiting for another process, {holder}, which works on {unit}"
            place.progress.say("waiting for another process", text, unit=unit, holder=holder)
        is_logged = True

    times = LeaseTimes(place.limits.lease_seconds, wait_minutes * 60)
    with held(place.run, unit, times, place.stop, waiting) as (run, epoch):
        yield replace(place, run=run, epoch=epoch)


@contextlib.contextmanager
def _shown(place: Workplace, unit: str) -> Iterator[None]:
    """Keep the unit's status up to date while the block runs, and write how it ended."""
    writer = _Writer(place, unit)
    try:
        with writer, resource_errors():
            yield
    except BaseException as error:
        code = code_of(error)
        state = "preempted" if code.is_stop else "failed"
        cause, remedy = getattr(error, "cause", str(error)), getattr(error, "remedy", "")
        with contextlib.suppress(JobError):  # A store that cannot be written must not hide the error of the block.
            if not writer.restore():
                writer.write(state, exit_code=int(code), cause=cause[:1500], remedy=remedy[:500])
        raise
    writer.write("done", exit_code=0)


class _Writer:
    """Writes a unit's status in a thread of its own, so that a slow store does not hold up the work."""

    def __init__(self, place: Workplace, unit: str) -> None:
        self._place, self._unit = place, unit
        self._key = layout.unit_status(unit)
        self._started = datetime.now(UTC)
        self._seconds_before = dict(place.progress.seconds)  # of stages, spent on other units in this attempt
        earlier = place.run.read_stored(self._key, Status)
        self._earlier = earlier
        self._earlier_seconds = earlier.seconds if earlier else 0.0
        self._earlier_stages = earlier.stages if earlier else {}
        best = earlier.best_loss if earlier else None
        self._facts: dict[str, object] = {} if best is None else {"best_loss": best}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="status", daemon=True)

    def __enter__(self) -> None:
        self._place.progress.observer = self._observe
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _observe(self, facts: dict[str, object]) -> None:
        # Stages that know no best loss, such as an evaluation within training, leave that of the one that does.
        self._facts = {key: value for key, value in self._facts.items() if key == "best_loss"} | facts

    def _loop(self) -> None:
        while True:
            try:
                self.write("running")
            except JobError as error:
                self._place.progress.warn(f"status.json could not be written: {error.cause}")
            if self._ended.wait(_STATUS_SECONDS):
                return

    def restore(self) -> bool:
        """Write what stood there before, if the unit was done and the run still is: whether that is so.

        A start that is refused, or stopped as it looks, changes nothing about a finished run.
        """
        run, earlier = self._place.run, self._earlier
        if earlier is None or earlier.state != "done" or not earlier.is_of_study or not run.exists(layout.SUCCESS):
            return False
        run.write_json(self._key, earlier.model_dump(mode="json", exclude_none=True))
        return True

    def write(self, state: str, **end: object) -> None:
        """Write the status now; `end` holds the further fields of a unit that has ended."""
        stages = dict(self._earlier_stages)
        for name, seconds in dict(self._place.progress.seconds).items():
            if (spent := seconds - self._seconds_before.get(name, 0.0)) > 0:
                stages[name] = round(stages.get(name, 0.0) + spent, 3)
        now = datetime.now(UTC)
        facts = {"unit": self._unit, "state": state, "started": self._started, "updated": now, "stages": stages}
        facts["seconds"] = self._earlier_seconds + (now - self._started).total_seconds()
        status = Status.model_validate(facts | self._facts | end)
        self._place.run.write_json(self._key, status.model_dump(mode="json", exclude_none=True))
