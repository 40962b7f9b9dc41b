"""`lora-job status`: shows where a run stands."""

import json
import sys
from collections.abc import Callable, Iterable

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from job import layout
from job.process.stage import duration
from job.run.status import Status, follow_status, read_status
from job.run.verify import Depth, require_whole
from job.storage.folder import RunFolder
from lora_engine.text import printable


def show_status(run: RunFolder, *, follow: bool, as_json: bool) -> None:
    """Show the status once, or until the run ends: on a terminal in its place, elsewhere at every change.

    Raises:
        JobError: 42 when there is no run; one that is followed is waited for. 46 when a finished run lacks a file
            that it names, or one has another size.
    """
    console = Console()
    found = follow_status(run, lambda: _say_waiting(run)) if follow else [read_status(run)]
    if as_json:
        _print_changes(found, lambda units: ([Text(_as_json(units, follow))], _as_json(units, follow)), console)
    elif follow and console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            for units in found:
                live.update(Group(*as_text(units, _report_uri(run))), refresh=True)
    else:
        _print_changes(found, lambda units: (as_text(units, _report_uri(run)), _state_of(units)), console)
    if run.exists(layout.SUCCESS):
        require_whole(run, Depth.SIZES)


def _say_waiting(run: RunFolder) -> None:
    typer.echo(f"lora-job: There is no run at {printable(run.root)} yet; waiting for it. Ctrl-C ends this.", err=True)
    sys.stderr.flush()


def _print_changes(
    found: Iterable[list[Status]], show: Callable[[list[Status]], tuple[list[RenderableType], object]], console: Console
) -> None:
    """Print each status that is not like the one before.

    Args:
        show: gives what is printed, and what is compared.
    """
    shown: object = None
    for units in found:
        printed, now = show(units)
        if now != shown:
            for part in printed:
                console.print(part, soft_wrap=isinstance(part, Text))
            shown = now


def _as_json(units: list[Status], follow: bool) -> str:
    return json.dumps([unit.model_dump(mode="json", exclude_none=True) for unit in units], indent=None if follow else 2)


def _state_of(units: list[Status]) -> object:
    return _as_json(units, follow=True), [unit.is_stale for unit in units]


def _report_uri(run: RunFolder) -> str | None:
    """The page of the report, or the report of an earlier version; None where there is none yet."""
    return next((run.uri(key) for key in (layout.PAGE, layout.COMPARISON) if run.exists(key)), None)


def as_text(units: list[Status], report: str | None) -> list[RenderableType]:
    """The status for a person: a row for each unit, a line about the run, and what ended the units that failed.

    Args:
        report: its URI; None where there is none yet.
    """
    parts: list[RenderableType] = [_table(units), Text(_run_line(units))]
    if report is not None:
        parts.append(_printable(f"report: {report}"))
    ended = [unit for unit in units if unit.cause]
    return [*parts, *(_printable(f"{unit.unit}: {unit.cause} {unit.remedy or ''}".rstrip()) for unit in ended)]


def _table(units: list[Status]) -> Table:
    table = Table("unit", "state", "stage", "done", "loss", "images/s", "left")
    for unit in units:
        is_running = unit.state == "running"
        table.add_row(
            _printable(unit.unit),
            _printable(f"silent for {duration(unit.age_seconds)}" if is_running and unit.is_stale else unit.state),
            _printable(unit.stage or ""),
            _printable(f"{unit.step}/{unit.steps} {unit.unit_of_steps or ''}") if unit.steps is not None else "",
            f"{unit.loss:.4f}" if unit.loss is not None else "",
            f"{unit.images_per_second:.1f}" if unit.images_per_second is not None else "",
            duration(unit.eta_seconds) if unit.eta_seconds is not None and is_running else "",
        )
    return table


def _run_line(units: list[Status]) -> str:
    """How long all attempts have worked, how long those under way have left, and the lowest loss."""
    line = f"run: {duration(sum(unit.seconds for unit in units if unit.is_of_study))} of work"
    running = [unit for unit in units if unit.state == "running" and not unit.is_stale]
    left = [unit.run_eta_seconds for unit in running if unit.run_eta_seconds is not None]
    if left:
        line += f", {duration(max(left))} left"
    best = [unit.best_loss for unit in units if unit.best_loss is not None]
    return f"{line}, best loss {min(best):.4f}" if best else line


def _printable(value: str) -> Text:
    # Whoever may write to the bucket can have written the text, and a terminal would obey its control characters.
    return Text(printable(value))
