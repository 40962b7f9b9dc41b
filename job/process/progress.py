"""Shows a person how far a run is: live bars on a terminal, JSON lines elsewhere."""

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Self, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Rows
from rich.text import Text

from job.errors import ExitCode
from job.process.stage import Stage, WholeRun, duration
from lora_engine.text import printable

_LINE_SECONDS = 2.0  # at least, between two lines about progress


class Progress:
    """Shows stages and events on a terminal or in a log, and remembers how long each stage took.

    A terminal shows texts for people; a log has a JSON object a line, with the facts beside them.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._stream = stream
        self._rows = self._new_rows() if self._console.is_terminal else None
        self._last_line = 0.0  # when the last line about progress was written
        self._whole = WholeRun({})
        self._whole_row: TaskID | None = None
        self.seconds: dict[str, float] = {}  # that each stage has taken in this attempt
        self.observer: Callable[[dict[str, Any]], None] = lambda _: None  # called with the facts at every advance
        self.alive = time.monotonic()  # when there was the last sign of life
        self._excused_until = self.alive  # by when nothing has to advance, since a store is waited for

    @contextmanager
    def stage(
        self, name: str, title: str, *, total: int, unit: str, passes: float = 0.0, brief: bool = False
    ) -> Iterator[Stage]:
        """Show a stage while the block runs.

        Args:
            name: for programs, in logs and statuses.
            title: what is done, for people.
            total: the number of its items.
            unit: the word for its items.
            passes: forward passes of one image that an item takes, where `expect` counts it.
            brief: whether a terminal keeps no line that it was done.
        """
        row = self._add_row(title, total)

        def show(stage: Stage) -> None:
            self.alive = time.monotonic()
            facts = stage.facts() | self._whole.facts()
            self.observer(facts)
            if self._rows is None and self.alive - self._last_line >= _LINE_SECONDS:
                self._last_line = self.alive
                self._line("info", "progress", facts)
            self._fill(row, stage.done, f"{stage.done}/{stage.total} {unit}", _detail(stage), stage.eta_seconds)
            self._fill_whole()

        stage = Stage(name, total, unit, show, lambda count: self._whole.advance(count * passes))
        if self._rows is None:
            self._line("info", "stage started", {"stage": name, "steps": total, "unit_of_steps": unit})
        if passes:
            self._whole.start_clock()
        inner_before = sum(self.seconds.values())
        try:
            yield stage
        finally:
            # The seconds of a stage within this one (evaluation within training) are counted as that one's alone.
            inner = sum(self.seconds.values()) - inner_before
            elapsed = time.monotonic() - stage.began
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed - inner
            self.alive = time.monotonic()
            self._remove(row)
        if self._rows is None:
            own = round(elapsed - inner, 3)
            self._line("info", "stage ended", {"stage": name, "step": stage.done, "seconds": own})
        elif not brief:
            self._print(f"{title}: {stage.done} {unit} in {duration(elapsed)}")

    @contextmanager
    def doing(self, event: str, text: str | None = None) -> Iterator[None]:
        """Say what is done while the block runs, which has no items to count.

        Args:
            event: what that is, in the same words every time.
            text: the same with what varies, such as a name; None where nothing does.
        """
        row = self._add_row(text or event, None)
        if self._rows is None:
            self._line("info", event, {} if text is None else {"text": text})
        try:
            yield
        finally:
            self.alive = time.monotonic()
            self._remove(row)

    def expect(self, parts: Mapping[str, float], title: str) -> None:
        """Show from now on how far the whole of these parts is.

        Args:
            parts: the forward passes of one image that each pack takes, by its unit.
            title: what these are together, for people.
        """
        self._whole = WholeRun(parts)
        self._whole_row = self._add_row(title, 100)
        self._fill_whole()

    @contextmanager
    def part(self, unit: str) -> Iterator[None]:
        """Count the stages of the block as that part of what `expect` was told."""
        self._whole.begin(unit)
        yield
        self._whole.end()
        self._fill_whole()

    def skip(self, fraction: float) -> None:
        """Count so much of the part under way, in [0, 1], as done by an earlier attempt."""
        self._whole.skip(fraction)

    def moved(self) -> None:
        """Note a sign of life of an item that is not done yet. May be called in any thread."""
        self.alive = time.monotonic()

    def excuse(self, until: float) -> None:
        """Take it for no stall if nothing advances until then, on the monotonic clock. May be called in any thread."""
        self._excused_until = until

    @property
    def idle_seconds(self) -> float:
        """For how long nothing has advanced that should have."""
        return time.monotonic() - max(self.alive, self._excused_until)

    def say(self, event: str, text: str | None = None, /, **facts: Any) -> None:
        """Show an event.

        Args:
            event: its name, for programs.
            text: what it means, for people; without it they see the name and the facts.
            facts: for programs.
        """
        if self._rows is None:
            self._line("info", event, facts if text is None else facts | {"text": text})
        elif text is None:
            self._print(" ".join([event, *(f"{key}={value}" for key, value in facts.items())]))
        else:
            self._print(text)

    def note(self, event: str, **facts: Any) -> None:
        """Write an event that only programs, and people who look for it, have a use for: a terminal shows none."""
        if self._rows is None:
            self._line("info", event, facts)

    def warn(self, text: str) -> None:
        """Show something that a person should look at; the attempt goes on."""
        if self._rows is None:
            self._line("warning", text, {})
        else:
            self._print(text, "yellow")

    def conclude(self, summary: RenderableType, facts: Mapping[str, Any]) -> None:
        """Show how the run ended, below all else: the summary on a terminal, its facts in a log."""
        if self._rows is None:
            self._line("info", "done", dict(facts))
        else:
            self._rows.stop()
            self._console.print(summary, crop=False)

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(Text(printable(text), style=style))

    def _line(self, level: str, event: str, facts: dict[str, Any]) -> None:
        row = {"time": _now(), "level": level, "event": event} | facts
        self._stream.write(json.dumps(row, ensure_ascii=True, allow_nan=False, default=str) + "\n")
        self._stream.flush()

    def _new_rows(self) -> Rows:
        """The rows at the terminal's foot, across its whole width. What is done is printed above them."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[count]}", markup=False),
            TextColumn("{task.fields[detail]}", markup=False),
            TextColumn("{task.fields[left]}", markup=False),
        )
        return Rows(*columns, console=self._console, expand=True, transient=True)

    def _add_row(self, title: str, total: int | None) -> TaskID | None:
        """A row of the terminal, whose bar only moves where the total is not known; None in a log."""
        if self._rows is None:
            return None
        return self._rows.add_task(printable(title), total=total, count="", detail="", left="")

    def _fill(self, row: TaskID | None, done: float, count: str, detail: str, eta_seconds: float | None) -> None:
        if self._rows is not None and row is not None:
            left = "" if eta_seconds is None else f"{duration(eta_seconds)} left"
            self._rows.update(row, completed=done, count=count, detail=detail, left=left)

    def _fill_whole(self) -> None:
        if self._whole_row is not None:
            percent = 100 * self._whole.fraction
            eta = self._whole.eta_seconds if percent < 100 else None
            self._fill(self._whole_row, percent, f"{percent:.0f}%", "", eta)

    def _remove(self, row: TaskID | None) -> None:
        if self._rows is not None and row is not None:
            self._rows.remove_task(row)

    def __enter__(self) -> Self:
        if self._rows:
            self._rows.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._rows:
            self._rows.stop()


def watch_for_stalls(progress: Progress, minutes: float) -> None:
    """Have a thread end the process, with code 54 and all threads' stacks, after that long without a sign of life."""

    def watch() -> None:
        while progress.idle_seconds < minutes * 60:
            time.sleep(min(1.0, minutes * 6))
        faulthandler.dump_traceback(sys.stderr)
        print(  # noqa: T201 - the process is stuck, and the thread that shows its last line may be the one that hangs
            f"lora-job: Nothing has advanced for limits.stall_minutes ({minutes:g}). "
            "Start the same manifest again to continue; the stacks above say where it hung.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(ExitCode.STALLED)

    threading.Thread(target=watch, name="stall-watch", daemon=True).start()


def _detail(stage: Stage) -> str:
    loss = "" if stage.loss is None else f"loss {stage.loss:.4f} "
    rate = "" if stage.images_per_second is None else f"{stage.images_per_second:.1f} images/s"
    return f"{loss}{rate}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
