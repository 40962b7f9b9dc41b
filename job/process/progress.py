"""Shows a person how far a run is: live bars on a terminal, JSON lines elsewhere."""

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self, TextIO

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from job.errors import ExitCode
from lora_engine.text import printable

_LINE_SECONDS = 2.0  # at least, between two lines about progress


@dataclass
class Stage:
    """One stage under way. `advance` is cheap and may be called for every item."""

    name: str
    total: int  # items
    unit: str  # the word for its items: "images", "steps"
    show: Callable[["Stage"], None]  # called at every advance
    done: int = 0  # items, those of earlier attempts included
    loss: float | None = None  # the last one; None where the stage has none
    images_per_second: float | None = None
    began: float = field(default_factory=time.monotonic)
    _advanced: int = 0  # items that were done in this attempt, from which the time that is left is estimated

    def advance(self, count: int, *, loss: float | None = None, images_per_second: float | None = None) -> None:
        """Count that many more items as done; 0 is a sign of life."""
        # The first advance may be of the items that an earlier attempt has done, so without a loss it sets no pace.
        if self.done or self._advanced or loss is not None:
            self._advanced += count
        self.done += count
        self.loss, self.images_per_second = loss, images_per_second
        self.show(self)

    @property
    def eta_seconds(self) -> float | None:
        """The time that is left at the pace of this attempt; None while that is not known."""
        elapsed = time.monotonic() - self.began
        return elapsed / self._advanced * (self.total - self.done) if self._advanced > 0 else None

    def facts(self) -> dict[str, Any]:
        """The stage as a status or a log line shows it, without values that are not known."""
        known = {
            "stage": self.name,
            "step": self.done,
            "steps": self.total,
            "unit_of_steps": self.unit,
            "loss": self.loss,
            "images_per_second": self.images_per_second,
            "eta_seconds": self.eta_seconds,
        }
        return {key: round(v, 6) if isinstance(v, float) else v for key, v in known.items() if v is not None}


class Progress:
    """Shows stages and events on a terminal or in a log, and remembers how long each stage took."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._stream = stream
        self._bars = self._new_bars() if self._console.is_terminal else None
        self._last_line = 0.0  # when the last line about progress was written
        self.seconds: dict[str, float] = {}  # that each stage has taken in this attempt
        self.observer: Callable[[Stage], None] = lambda _: None  # called at every advance of a stage
        self.alive = time.monotonic()  # when there was the last sign of life

    @contextmanager
    def stage(self, name: str, total: int, unit: str) -> Iterator[Stage]:
        """Show a stage of `total` items while the block runs; `unit` is the word for its items."""
        bar = self._bars.add_task(name, total=total, detail="") if self._bars else None

        def show(stage: Stage) -> None:
            self.alive = time.monotonic()
            self.observer(stage)
            if self._bars and bar is not None:
                self._bars.update(bar, completed=stage.done, detail=_detail(stage))
            elif self.alive - self._last_line >= _LINE_SECONDS:
                self._last_line = self.alive
                self._line("info", "progress", stage.facts())

        stage = Stage(name, total, unit, show)
        if not self._bars:
            self._line("info", "stage started", {"stage": name, "steps": total, "unit_of_steps": unit})
        inner_before = sum(self.seconds.values())
        try:
            yield stage
        finally:
            # The seconds of a stage within this one (evaluation within training) are counted as that one's alone.
            inner = sum(self.seconds.values()) - inner_before
            own = time.monotonic() - stage.began - inner
            self.seconds[name] = self.seconds.get(name, 0.0) + own
            self.alive = time.monotonic()
            if self._bars and bar is not None:
                self._bars.stop_task(bar)
                if name == "evaluate":
                    self._bars.remove_task(bar)
        if not self._bars:
            self._line("info", "stage ended", {"stage": name, "step": stage.done, "seconds": round(own, 3)})

    def moved(self) -> None:
        """Note a sign of life of an item that is not done yet. May be called in any thread."""
        self.alive = time.monotonic()

    def say(self, event: str, **facts: Any) -> None:
        """Show an event with its facts."""
        self._show_event("info", event, facts)

    def warn(self, text: str) -> None:
        """Show something that a person should look at; the attempt goes on."""
        self._show_event("warning", text, {})

    def conclude(self, summary: RenderableType, facts: Mapping[str, Any]) -> None:
        """Show how the run ended, below all else: the summary on a terminal, its facts in a log."""
        if self._bars:
            self._bars.stop()
            self._console.print(summary, crop=False)
        else:
            self._line("info", "done", dict(facts))

    def _show_event(self, level: str, event: str, facts: dict[str, Any]) -> None:
        if self._bars:
            details = " ".join(f"{key}={value}" for key, value in facts.items())
            style = "yellow" if level == "warning" else ""
            self._console.print(Text(printable(f"{event} {details}".strip()), style=style))
        else:
            self._line(level, event, facts)

    def _line(self, level: str, event: str, facts: dict[str, Any]) -> None:
        row = {"time": _now(), "level": level, "event": event} | facts
        self._stream.write(json.dumps(row, ensure_ascii=True, allow_nan=False, default=str) + "\n")
        self._stream.flush()

    def _new_bars(self) -> Bars:
        columns = (
            TextColumn("{task.description:<12}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            TimeRemainingColumn(),
        )
        return Bars(*columns, console=self._console)

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()


def watch_for_stalls(progress: Progress, minutes: float) -> None:
    """Have a thread end the process, with code 54 and all threads' stacks, after that long without a sign of life."""

    def watch() -> None:
        while time.monotonic() - progress.alive < minutes * 60:
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
