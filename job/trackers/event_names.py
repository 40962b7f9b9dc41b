"""The names of event files, each of which says what the file holds, so that a listing tells what is missing or stale.

A file is written once and never changed: TensorBoard may hold it open, and would not see another one under its name.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from job.trackers.messages import Kind
from job.trackers.told import Item

# TensorBoard reads files whose names hold `tfevents`, in the order of their names: the number comes before all else.
_NAME = re.compile(r"events\.out\.tfevents\.(\d{10})\.(train|validation|samples|verdict)\.(\d+)-(\d+)\.([0-9a-f]{16})")
_ITEMS = {"samples": 1}  # in a file, at most: a step's samples are megabytes


@dataclass(frozen=True)
class Files:
    """What to do so that the files hold the items, each of them once."""

    stale: tuple[str, ...]  # names of those to remove first
    new: tuple[tuple[str, Sequence[Item]], ...]  # names of those to write then, and what goes into each


def files_of(there: Iterable[str], kind: Kind, items: Sequence[Item]) -> Files:
    """What to do so that the files of one kind hold these items.

    A file is kept if it holds the items after those of the kept one before. Any other is stale: the training went back
    to a checkpoint before it, or it was made of rows that are others by now. Readers want ascending steps, so all that
    comes after a stale file is written anew.

    Args:
        there: the names of all files in the writer's folder; those of other kinds, and of other programs, are left.
        items: by ascending step.
    """
    matches = sorted((match for name in there if (match := _NAME.fullmatch(name))), key=lambda match: match[0])
    own = [match for match in matches if match[2] == kind]
    place = {item.step: at for at, item in enumerate(items)}
    kept, stale = 0, list[str]()
    for match in own:
        end = place.get(int(match[4]), -1) + 1
        held = items[kept:end]
        if held and not stale and match[0] == _name(int(match[1]), kind, held):
            kept = end
        else:
            stale.append(match[0])
    number = max((int(match[1]) for match in matches), default=0)
    at_once = _ITEMS.get(kind, max(len(items), 1))
    parts = [items[at : at + at_once] for at in range(kept, len(items), at_once)]
    new = tuple((_name(number + at, kind, part), part) for at, part in enumerate(parts, 1))
    return Files(tuple(stale), new)


def _name(number: int, kind: Kind, items: Sequence[Item]) -> str:
    content = hashlib.sha256("\n".join(f"{item.step} {item.content}" for item in items).encode()).hexdigest()[:16]
    return f"events.out.tfevents.{number:010d}.{kind}.{items[0].step}-{items[-1].step}.{content}"
