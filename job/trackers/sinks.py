"""What becomes of what is told: event files in the run's folder, or records that a tracker sends elsewhere."""

import base64
from collections.abc import Callable, Sequence
from typing import Protocol

from job import layout
from job.layout import Member
from job.trackers.event_names import files_of
from job.trackers.messages import Adapter, Answer, Kind, Request
from job.trackers.told import Item, Told

Ask = Callable[[Request], Answer]
AdapterOf = Callable[[Told], Adapter]

_AT_ONCE: dict[Kind, int] = {"train": 500, "validation": 500, "samples": 1, "verdict": 1}  # records in a request


class Sink(Protocol):
    """Where a tracker shows what it is told."""

    def take(self, told: Told, of: Adapter, ask: Ask) -> None:
        """Have the tracker's process do what is new in what was told."""
        ...


class EventFiles:
    """Files for TensorBoard in the run's folder.

    The tracker's process makes their bytes and the job writes them, since only the job holds the lease of the unit.
    What is stale is removed first: a kill in between leaves too little, which the next time adds, and nothing twice.
    """

    def take(self, told: Told, of: Adapter, ask: Ask) -> None:
        """Write the files that are missing, after removing those that are stale."""
        folder = layout.tensorboard(told.member)
        there = (key.removeprefix(f"{folder}/") for key, _ in told.run.list(folder))
        files = files_of(there, told.kind, told.items())
        for name in files.stale:
            told.run.delete(f"{folder}/{name}")
        for name, items in files.new:
            events = ask(_request(told, of, items)).events
            if events is not None:
                told.run.write(f"{folder}/{name}", base64.b64decode(events))


class Stream:
    """Records that go to a service, each once in an attempt."""

    def __init__(self) -> None:
        self._sent: dict[tuple[Member, Kind], int] = {}  # the last step

    def take(self, told: Told, of: Adapter, ask: Ask) -> None:
        """Send what is after the last step that was sent."""
        key, at_once = (told.member, told.kind), _AT_ONCE[told.kind]
        items = [item for item in told.items() if item.step > self._sent.get(key, -1)]
        for at in range(0, len(items), at_once):
            part = items[at : at + at_once]
            ask(_request(told, of, part))
            self._sent[key] = part[-1].step


def _request(told: Told, of: Adapter, items: Sequence[Item]) -> Request:
    return Request(of=of, kind=told.kind, records=tuple(item.record() for item in items))
