"""Times ways of doing one thing, in turns, so that what else the machine does falls on all of them."""

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Lap:
    """One way, once."""

    seconds: float
    cpu_seconds: float  # of all cores, of this process and those that it started; other programs count little


Laps = dict[str, list[Lap]]


def in_turns(ways: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What every way gives in every round. Each round starts with another one."""
    given: dict[str, list[T]] = {name: [] for name in ways}
    for at in range(rounds):
        names = list(ways)
        for name in names[at % len(names) :] + names[: at % len(names)]:
            given[name].append(ways[name]())
    return given


def take_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> Laps:
    """How long every way takes in every round."""
    return in_turns({name: partial(timed, way) for name, way in ways.items()}, rounds)


def timed(way: Callable[[], object]) -> Lap:
    """How long it takes."""
    start, cpu_start = time.perf_counter(), _cpu_seconds()
    way()
    return Lap(time.perf_counter() - start, _cpu_seconds() - cpu_start)


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def table(laps: Laps, images: int, reference: str) -> str:
    """A row a way: medians over the rounds, and the medians of its rates over the reference's in the same round."""
    lines = [
        f"| | seconds | images/s | rate / {reference} | CPU seconds | the same by CPU seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, own in laps.items():
        pairs = list(zip(laps[reference], own, strict=True))
        seconds, cpu_seconds = median(lap.seconds for lap in own), median(lap.cpu_seconds for lap in own)
        ratio = median(base.seconds / lap.seconds for base, lap in pairs)
        cpu_ratio = median(base.cpu_seconds / lap.cpu_seconds for base, lap in pairs)
        lines.append(
            f"| {name} | {seconds:.2f} | {images / seconds:.1f} | {ratio:.2f} | {cpu_seconds:.2f} | {cpu_ratio:.2f} |"
        )
    return "\n".join(lines)
