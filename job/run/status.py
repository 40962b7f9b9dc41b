"""`units/<unit>/status.json`, and where a run stands by these files alone."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from pydantic import AwareDatetime, field_serializer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from job import layout
from job.errors import ExitCode, JobError
from job.storage.folder import RunFolder
from job.storage.stored import StoredJson
from lora_engine.text import printable

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
    exit_code: int | None = None  # None while a process works on the unit
    cause: str | None = None
    remedy: str | None = None

    @field_serializer("started", "updated")
    def _in_milliseconds(self, moment: datetime) -> str:
        return moment.isoformat(timespec="milliseconds")

    @property
    def failed_for_good(self) -> bool:
        """Whether the last attempt failed in a way in which the next one would fail, too."""
        return self.state == "failed" and any(code == self.exit_code and code.is_final for code in ExitCode)


def _statuses(run: RunFolder) -> list[Status]:
    keys = [key for key, _ in run.list("units") if key.endswith("/status.json")]
    return [status for key in keys if (status := run.read_stored(key, Status)) is not None]


def read_status(run: RunFolder) -> list[Status]:
    """The status of every unit that has begun, in the order in which they began.

    Raises:
        JobError: 42 when no run has begun in that folder.
    """
    found = _statuses(run)
    if not found:
        raise JobError(ExitCode.STORAGE_ACCESS, f"There is no run at {run.root}.", "Name a run: <destination>/<name>.")
    return sorted(found, key=lambda status: status.started)


def spent_seconds(run: RunFolder) -> float:
    """The seconds that all attempts at the run have taken so far, but for sets of samples that were drawn besides."""
    return sum(status.seconds for status in _statuses(run) if not status.unit.startswith(layout.SET_UNITS))


def follow_status(run: RunFolder) -> Iterator[list[Status]]:
    """Yield the status of all units again and again, until the run is finished or no process works on it."""
    while True:
        units = read_status(run)
        yield units
        if run.exists(layout.SUCCESS) or not _is_at_work(units):
            return
        time.sleep(_POLL_SECONDS)


def _is_at_work(units: list[Status]) -> bool:
    """Whether a process seems to work on the run."""
    if any(unit.state == "running" and not _is_stale(unit) for unit in units):
        return True
    # Where all units that have begun are done, the process is about to begin the next one.
    return all(unit.state == "done" for unit in units) and not all(map(_is_stale, units))


def show_status(run: RunFolder, *, follow: bool, as_json: bool) -> None:
    """Print the status once, or at every change until the run ends."""
    console = Console()
    shown: object = None
    for units in follow_status(run) if follow else [read_status(run)]:
        shown_units = [unit.model_dump(mode="json", exclude_none=True) for unit in units]
        text = json.dumps(shown_units, indent=None if follow else 2)
        now = text if as_json else (text, [_is_stale(unit) for unit in units])
        if now == shown:
            continue
        shown = now
        if as_json:
            console.print(Text(text), soft_wrap=True)
        else:
            console.print(as_table(units))


def as_table(units: list[Status]) -> Table:
    """A table for a person, with a row for each unit."""
    table = Table("unit", "state", "stage", "done", "loss", "images/s", "left", "cause")
    for unit in units:
        table.add_row(
            _printable(unit.unit),
            _printable(_state(unit)),
            _printable(unit.stage or ""),
            f"{unit.step}/{unit.steps}" if unit.steps is not None else "",
            f"{unit.loss:.4f}" if unit.loss is not None else "",
            f"{unit.images_per_second:.1f}" if unit.images_per_second is not None else "",
            f"{unit.eta_seconds:.0f} s" if unit.eta_seconds is not None and unit.state == "running" else "",
            _printable(unit.cause or ""),
        )
    return table


def _printable(value: str) -> Text:
    # Whoever may write to the bucket can have written the text, and a terminal would obey its control characters.
    return Text(printable(value))


def _state(unit: Status) -> str:
    if unit.state == "running" and _is_stale(unit):
        return f"silent for {_age_seconds(unit):.0f} s"
    return unit.state


def _is_stale(unit: Status) -> bool:
    """Whether the status is so old that a process that still works on the unit would have written a newer one."""
    return _age_seconds(unit) > _STALE_SECONDS


def _age_seconds(unit: Status) -> float:
    return (datetime.now(UTC) - unit.updated).total_seconds()
