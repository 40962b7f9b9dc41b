"""Where a run stands, from its files alone."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from job import layout
from job.errors import ExitCode, JobError
from job.storage.folder import RunFolder
from lora_engine.text import printable

_POLL_SECONDS = 2.0
_STALE_SECONDS = 60.0


def read_status(run: RunFolder) -> list[dict[str, Any]]:
    """The status of every unit that has begun, in the order in which they began.

    Raises:
        JobError: 42 when no run has begun there.
    """
    keys = [key for key, _ in run.list("units") if key.endswith("/status.json")]
    found = [status for key in keys if (status := run.read_json(key)) is not None]
    if not found:
        raise JobError(ExitCode.STORAGE_ACCESS, f"There is no run at {run.root}.", "Name a run: <destination>/<name>.")
    return sorted(found, key=lambda status: str(status["started"]))


def spent_seconds(run: RunFolder) -> float:
    """What all attempts at the run have taken so far."""
    keys = [key for key, _ in run.list("units") if key.endswith("/status.json")]
    return sum(float((run.read_json(key) or {}).get("seconds", 0.0)) for key in keys)


def follow_status(run: RunFolder) -> Iterator[list[dict[str, Any]]]:
    """The status again and again, until the run is finished or nothing is at work on it."""
    while True:
        units = read_status(run)
        yield units
        if run.exists(layout.SUCCESS) or not _is_at_work(units):
            return
        time.sleep(_POLL_SECONDS)


def _is_at_work(units: list[dict[str, Any]]) -> bool:
    if any(unit["state"] == "running" and not _is_stale(unit) for unit in units):
        return True
    # between two units
    return all(unit["state"] == "done" for unit in units) and not all(map(_is_stale, units))


def show_status(run: RunFolder, *, follow: bool, as_json: bool) -> None:
    """Print the status once, or at every change until the run ends."""
    console = Console()
    shown: object = None
    for units in follow_status(run) if follow else [read_status(run)]:
        text = json.dumps(units, indent=None if follow else 2)
        now = text if as_json else (text, [_is_stale(unit) for unit in units])
        if now == shown:
            continue
        shown = now
        if as_json:
            console.print(Text(text), soft_wrap=True)
        else:
            console.print(as_table(units))


def as_table(units: list[dict[str, Any]]) -> Table:
    """A row a unit."""
    table = Table("unit", "state", "stage", "done", "loss", "images/s", "left", "cause")
    for unit in units:
        table.add_row(
            _shown(unit["unit"]),
            _shown(_state(unit)),
            _shown(unit.get("stage", "")),
            _shown(f"{unit['step']}/{unit['steps']}") if "steps" in unit else "",
            f"{unit['loss']:.4f}" if "loss" in unit else "",
            f"{unit['images_per_second']:.1f}" if "images_per_second" in unit else "",
            f"{unit['eta_seconds']:.0f} s" if "eta_seconds" in unit and unit["state"] == "running" else "",
            _shown(unit.get("cause", "")),
        )
    return table


def _shown(value: object) -> Text:
    return Text(printable(str(value)))  # whoever may write to the bucket wrote it


def _state(unit: dict[str, Any]) -> str:
    if unit["state"] == "running" and _is_stale(unit):
        return f"silent for {_age_seconds(unit):.0f} s"
    return str(unit["state"])


def _is_stale(unit: dict[str, Any]) -> bool:
    """Whether a process that is at work would have said so since."""
    return _age_seconds(unit) > _STALE_SECONDS


def _age_seconds(unit: dict[str, Any]) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(unit["updated"])).total_seconds()
