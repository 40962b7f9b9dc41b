"""Reads event files by TensorBoard's own readers, and says what a run's files would have in them."""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from job import layout
from job.layout import Member
from job.storage.folder import RunFolder
from job.trackers.told import of_metrics, of_validation
from lora_engine.records import StepRecord, ValidationRecord

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from tensorboard.backend.event_processing.directory_loader import DirectoryLoader
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.util import tensor_util

MEMBERS = (Member("vanilla", 1337), Member("blip", 1337))


class Raw(NamedTuple):
    """What the event files of one folder hold."""

    scalars: dict[tuple[str, int], float]
    images: dict[tuple[str, int], tuple[str, bytes]]  # prompt and PNG
    texts: dict[tuple[str, int], str]
    times: frozenset[float]


def read(folder: Path) -> Raw:
    """All events of a folder in the order in which TensorBoard reads them; each tag's steps have to ascend."""
    scalars, images, texts, times, last = {}, {}, {}, set(), Counter[str]()
    for path in sorted(folder.iterdir()):
        for data in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(data)
            times.add(event.wall_time)
            for value in event.summary.value:
                key = (value.tag, event.step)
                assert event.step > last.get(value.tag, -1), f"{path.name} has {key} again"
                last[value.tag] = event.step
                if value.HasField("image"):
                    images[key] = (value.metadata.summary_description, value.image.encoded_image_string)
                elif value.HasField("tensor"):
                    texts[key] = tensor_util.make_ndarray(value.tensor).item().decode()
                else:
                    scalars[key] = value.simple_value
    return Raw(scalars, images, texts, frozenset(times))


def stored(run: RunFolder, member: Member) -> dict[tuple[str, int], float]:
    """The numbers of a member's rows."""
    rows = run.read_rows(layout.metrics(member), StepRecord) or []
    items = of_metrics(rows) + of_validation(run.read_rows(layout.validation(member), ValidationRecord) or [])
    found = {}
    for record in (item.record() for item in items):
        found |= {(tag, record.step): float(np.float32(value)) for tag, value in record.scalars.items()}
    # Independent of what is told: the loss and rate of every row.
    assert [found.get(("train/loss", row.step)) for row in rows] == [
        None if row.loss is None else float(np.float32(row.loss)) for row in rows
    ]
    assert len(rows) == len([key for key in found if key[0] == "train/learning_rate"])
    return found


def loaded(folder: Path) -> Counter[tuple[str, int]]:
    """How often TensorBoard's loader of folders, which converts what it reads, has each tag and step."""
    from tensorboard.backend.event_processing.event_file_loader import TimestampedEventFileLoader

    events: Any = DirectoryLoader(str(folder), TimestampedEventFileLoader).Load()
    return Counter((value.tag, event.step) for event in events for value in event.summary.value)
