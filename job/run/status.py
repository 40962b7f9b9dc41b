"""`units/<unit>/status.json`, the file that says how far a unit of a run is."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from pydantic import AwareDatetime, field_serializer

from job import layout
from job.errors import ExitCode, no_run
from job.storage.folder import RunFolder
from job.storage.stored import StoredJson

_POLL_SECONDS = 2.0  # between two looks of `status --follow`
_STALE_SECONDS = 60.0  # without a word, after which a process that says that it runs is taken for gone


class Status(StoredJson):
    """How far a unit is, as the process that holds it last wrote."""

    unit: str
    state: str  # running, done, preempted or failed
    started: AwareDatetime  # when the attempt that wrote this began with the unit
    updated: AwareDatetime
    seconds: float = 0.0  # that all attempts together have spent on the unit
    stages: dict[str, float] = {}  # name of a stage to the seconds that all attempts together have spent on it
    stage: str | None = None  # the stage that was last under way
    step: int | None = None  # how many items of that stage are done
    steps: int | None = None  # how many items that stage has
    unit_of_steps: str | None = None  # the word for these items
    loss: float | None = None  # the last one, a mean over the members
    images_per_second: float | None = None
    eta_seconds: float | None = None  # until that stage ends
    best_loss: float | None = None  # the lowest of an adapter of the unit on held-out images so far
    run_done: float | None = None  # of all training, scoring and samples of the process, in [0, 1]
    run_eta_seconds: float | None = None  # until that is done
    exit_code: int | None = None  # None while a process works on the unit
    cause: str | None = None
    remedy: str | None = None

    @field_serializer("started", "updated")
    def _in_milliseconds(self, moment: datetime) -> str:
        return moment.isoformat(timespec="milliseconds")

    @property
    def is_of_study(self) -> bool:
        """Whether the unit is the run's own, and no set of samples that is drawn besides."""
        return not self.unit.startswith(layout.SET_UNITS)

    @property
    def failed_for_good(self) -> bool:
        """Whether the last attempt failed in a way in which the next one would fail, too."""
        return self.state == "failed" and any(code == self.exit_code and code.is_final for code in ExitCode)

    @property
    def age_seconds(self) -> float:
        """How long ago this was written."""
        return (datetime.now(UTC) - self.updated).total_seconds()

    @property
    def is_stale(self) -> bool:
        """Whether this is so old that a process that still works on the unit would have written a newer one."""
        return self.age_seconds > _STALE_SECONDS


def _statuses(run: RunFolder) -> list[Status]:
    keys = [key for key, _ in run.list("units") if key.endswith("/status.json")]
    return [status for key in keys if (status := run.read_stored(key, Status)) is not None]


def read_status(run: RunFolder) -> list[Status]:
    """The status of every unit that has begun, in the order in which they began.

    Raises:
        JobError: 42 when no run has begun in that folder.
    """
    found = sorted_statuses(run)
    if not found:
        raise no_run(run.root)
    return found


def sorted_statuses(run: RunFolder) -> list[Status]:
    """As `read_status`, but empty when no run has begun in that folder."""
    return sorted(_statuses(run), key=lambda status: status.started)


def require_run(run: RunFolder) -> None:
    """Make sure that a run has begun in that folder.

    Raises:
        JobError: 42, none has.
    """
    if not run.exists(layout.RESOLVED):
        read_status(run)


def spent_seconds(run: RunFolder) -> float:
    """The seconds that all attempts at the run have taken so far, but for sets of samples that were drawn besides."""
    return sum(status.seconds for status in _statuses(run) if status.is_of_study)


def follow_status(run: RunFolder, waiting: Callable[[], None]) -> Iterator[list[Status]]:
    """Yield the status of all units again and again, until the run is finished or no process works on it.

    Args:
        waiting: called once where no run has begun yet, before the first status is waited for.
    """
    units = sorted_statuses(run)
    if not units:
        waiting()
    while not units:
        time.sleep(_POLL_SECONDS)
        units = sorted_statuses(run)
    while True:
        yield units
        if run.exists(layout.SUCCESS) or not _is_at_work(units):
            return
        time.sleep(_POLL_SECONDS)
        units = read_status(run)


def _is_at_work(units: list[Status]) -> bool:
    """Whether a process seems to work on the run."""
    if any(unit.state == "running" and not unit.is_stale for unit in units):
        return True
    # Where all units that have begun are done, the process is about to begin the next one.
    return all(unit.state == "done" for unit in units) and not all(unit.is_stale for unit in units)
