"""How far one stage of an attempt is, and how far the whole run is. Shows nothing."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stage:
    """One stage under way. `advance` is cheap and may be called for every item."""

    name: str
    total: int  # items
    unit: str  # the word for its items: "images", "steps"
    show: Callable[["Stage"], None]  # called at every advance
    passed: Callable[[int], None] = lambda _: None  # called with the items of every advance that sets a pace
    done: int = 0  # items, those of earlier attempts included
    loss: float | None = None  # the last one; None where the stage has none
    best_loss: float | None = None  # the lowest on held-out images so far; None where the stage has none
    images_per_second: float | None = None
    began: float = field(default_factory=time.monotonic)
    _advanced: int = 0  # items that were done in this attempt, from which the time that is left is estimated

    def advance(
        self, count: int, *, loss: float | None = None, images_per_second: float | None = None, earlier: bool = False
    ) -> None:
        """Count that many more items as done; 0 is a sign of life.

        Args:
            earlier: whether an earlier attempt has done them, so that they set no pace.
        """
        if not earlier:
            self._advanced += count
            self.passed(count)
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
            "best_loss": self.best_loss,
            "images_per_second": self.images_per_second,
            "eta_seconds": self.eta_seconds,
        }
        return {key: round(v, 6) if isinstance(v, float) else v for key, v in known.items() if v is not None}


class WholeRun:
    """How far training, scoring and samples of all packs are. The report comes besides: nobody knows its pace.

    Work is counted in forward passes of one image.

    Args:
        parts: the work of each pack, by its unit. Work outside of these is not counted.
    """

    def __init__(self, parts: Mapping[str, float]) -> None:
        self._parts, self._total = dict(parts), sum(parts.values())
        self._done = 0.0
        self._bounds: tuple[float, float] | None = None  # where in `_done` the part under way begins and ends
        self._worked, self._seconds = 0.0, 0.0  # forward passes in this attempt, and what they took
        self._since: float | None = None  # when the last of them was counted

    def begin(self, part: str) -> None:
        """Count what follows as that part's."""
        if part in self._parts:
            self._bounds = (self._done, self._done + self._parts[part])

    def skip(self, fraction: float) -> None:
        """Count so much of the part under way, in [0, 1], as done by an earlier attempt."""
        if self._bounds is not None:
            start, end = self._bounds
            self._done = start + fraction * (end - start)

    def start_clock(self) -> None:
        """Begin to measure the pace, unless that goes on already."""
        if self._bounds is not None:
            self._since = self._since or time.monotonic()

    def advance(self, passes: float) -> None:
        """Count so many forward passes as done now."""
        if self._bounds is not None and self._since is not None:
            now = time.monotonic()
            self._seconds, self._since = self._seconds + now - self._since, now
            self._worked += passes
            self._done = min(self._done + passes, self._bounds[1])

    def end(self) -> None:
        """Count the part under way as done, however much was counted."""
        self.skip(1.0)
        self._bounds = self._since = None

    @property
    def fraction(self) -> float:
        """How much is done, in [0, 1]."""
        return self._done / self._total if self._total else 1.0

    @property
    def eta_seconds(self) -> float | None:
        """The time that is left at the pace of this attempt; None while that is not known."""
        return self._seconds / self._worked * (self._total - self._done) if self._worked else None

    def facts(self) -> dict[str, Any]:
        """The run as a status or a log line shows it, without values that are not known."""
        if not self._total:
            return {}
        eta = {} if self.eta_seconds is None else {"run_eta_seconds": round(self.eta_seconds, 1)}
        return {"run_done": round(self.fraction, 4)} | eta


def duration(seconds: float) -> str:
    """A time as a person says it: 8 s, 2 min 10 s, 3 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
