"""`units/<unit>/status.json`, and where a run stands by it."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from pydantic import field_serializer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from job import layout
from job.errors import ExitCode, JobError
from job.storage.folder import RunFolder
from job.storage.stored import StoredJson
from lora_engine.text import printable

_POLL_SECONDS = 2.0
_STALE_SECONDS = 60.0


class Status(StoredJson):
    """How far a unit is, as the process that holds it last wrote. Its seconds are those of all attempts together."""

    unit: str
    state: str  # running, done, preempted or failed
    started: datetime  # of the attempt that wrote this
    updated: datetime
    seconds: float = 0.0
    stages: dict[str, float] = {}  # stage to seconds
    stage: str | None = None  # the one that the process was last seen at
    step: int | None = None  # items of that stage that are done
    steps: int | None = None  # items of that stage
    unit_of_steps: str | None = None
    loss: float | None = None  # mean over the members
    images_per_second: float | None = None
    eta_seconds: float | None = None
    exit_code: int | None = None  # None while the unit is at work
    cause: str | None = None
    remedy: str | None = None

    @field_serializer("started", "updated")
    def _in_milliseconds(self, moment: datetime) -> str:
        return moment.isoformat(timespec="milliseconds")

    @property
    def failed_for_good(self) -> bool:
        """Whether the last attempt ended in a way that the next would end in, too."""
        return self.state == "failed" and any(code == self.exit_code and code.is_final for code in ExitCode)


def _statuses(run: RunFolder) -> list[Status]:
    keys = [key for key, _ in run.list("units") if key.endswith("/status.json")]
    return [status for key in keys if (status := run.read_stored(key, Status)) is not None]


def read_status(run: RunFolder) -> list[Status]:
    """The status of every unit that has begun, in the order in which they began.

    Raises:
        JobError: 42 when no run has begun there.
    """
    found = _statuses(run)
    if not found:
        raise JobError(ExitCode.STORAGE_ACCESS, f"There is no run at {run.root}.", "Name a run: <destination>/<name>.")
    return sorted(found, key=lambda status: status.started)


def spent_seconds(run: RunFolder) -> float:
    """The seconds that all attempts at the run have taken so far."""
    return sum(status.seconds for status in _statuses(run))


def follow_status(run: RunFolder) -> Iterator[list[Status]]:
    """The status again and again, until the run is finished or nothing is at work on it."""
    while True:
        units = read_status(run)
        yield units
        if run.exists(layout.SUCCESS) or not _is_at_work(units):
            return
        time.sleep(_POLL_SECONDS)


def _is_at_work(units: list[Status]) -> bool:
    if any(unit.state == "running" and not _is_stale(unit) for unit in units):
        return True
    # Between two units all that have begun are done, and the process is about to begin the next.
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
    """A table for a terminal, with a row for each unit."""
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
    # Anybody who may write to the bucket can have written the text, and terminals obey control characters.
    return Text(printable(value))


def _state(unit: Status) -> str:
    if unit.state == "running" and _is_stale(unit):
        return f"silent for {_age_seconds(unit):.0f} s"
    return unit.state


def _is_stale(unit: Status) -> bool:
    """Whether a process that is at work would have said so since."""
    return _age_seconds(unit) > _STALE_SECONDS


def _age_seconds(unit: Status) -> float:
    return (datetime.now(UTC) - unit.updated).total_seconds()
