"""What the job tells trackers, made of the rows and samples that a run stores."""

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from job import layout
from job.layout import Member
from job.run.checkpoints import FinalPointer
from job.run.samples import SampleIndex, SampleRow
from job.storage.folder import RunFolder
from job.storage.stored import StoredJson
from job.trackers.messages import Kind, Picture, Record
from lora_engine.records import StepRecord, ValidationRecord

_OF_A_STEP = ("loss", "learning_rate", "grad_norm", "images_per_second", "squared_error", "d")


@dataclass(frozen=True)
class Item:
    """What there is to show at one step."""

    step: int
    content: str  # the same for what is the same at this step, and another for another
    record: Callable[[], Record]  # reads the pictures, where there are any


@dataclass(frozen=True)
class Told:
    """All items of one kind that an adapter has by now."""

    run: RunFolder
    member: Member
    kind: Kind
    items: Callable[[], Sequence[Item]]  # by ascending step; it may read the run's files


def of_metrics(rows: Sequence[StepRecord]) -> list[Item]:
    """An item for each update; a value that was not finite, and so has no number, is left out."""
    return [_of_numbers(row.step, _numbers_of(row)) for row in rows]


def _numbers_of(row: StepRecord) -> dict[str, float]:
    values = {name: getattr(row, name) for name in _OF_A_STEP} | {"skipped": float(row.skipped)}
    return {f"train/{name}": value for name, value in values.items() if value is not None}


def of_validation(rows: Sequence[ValidationRecord]) -> list[Item]:
    """An item for each evaluation, which has the losses under each caption set, too."""
    return [
        _of_numbers(
            row.step,
            {"validation/loss": row.loss, "validation/curve_loss": row.curve_loss}
            | {_tag_of_set(name): loss for name, loss in row.caption_sets.items()},
        )
        for row in rows
    ]


def _tag_of_set(name: str) -> str:
    return f"validation/captions/{name}" if name else "validation/empty_prompt"


def _of_numbers(step: int, scalars: dict[str, float]) -> Item:
    return Item(step, json.dumps(scalars), lambda: Record(step=step, scalars=scalars))


def of_samples(run: RunFolder, member: Member, set_name: str) -> list[Item]:
    """An item for each step whose samples a run holds."""
    folder = layout.all_samples(member, set_name)
    steps = layout.steps_with(layout.SAMPLE_INDEX_NAME, folder, (key for key, _ in run.list(folder)))
    return list(_of_indices(run, steps, member, set_name))


def _of_indices(run: RunFolder, steps: Iterable[int], member: Member, set_name: str) -> Iterator[Item]:
    for step in steps:
        index = run.read_stored(layout.sample_index(member, step, set_name), SampleIndex)
        if index is not None:
            read = partial(_record_of_samples, run, layout.samples(member, step, set_name), step, index)
            yield Item(step, index.model_dump_json(), read)


def _record_of_samples(run: RunFolder, folder: str, step: int, index: SampleIndex) -> Record:
    named = ((row, run.read(f"{folder}/{row.file}")) for row in index.images if row.file is not None)
    return Record(step=step, pictures=tuple(_picture(row, index, data) for row, data in named if data is not None))


def _picture(row: SampleRow, index: SampleIndex, data: bytes) -> Picture:
    settings = index.settings
    as_trained = row.prompting == "as_trained" and settings.as_trained
    prompt = (settings.as_trained if as_trained else settings.prompts)[row.prompt]
    # The file's header says its size: 8 bytes of signature, then length and name of the chunk, width and height.
    width, height = (int.from_bytes(data[at : at + 4]) for at in (16, 20))
    name = f"samples/{(row.file or '').removesuffix('.png')}"
    return Picture(name=name, prompt=prompt, width=width, height=height, png=base64.b64encode(data).decode())


def of_verdict(run: RunFolder, member: Member, sentence: str) -> list[Item]:
    """The study's verdict, at an adapter's last step."""
    final = run.read_stored(layout.final(member), FinalPointer)
    record = Record(step=final.step if final else 0, texts={"verdict": sentence})
    return [Item(record.step, record.model_dump_json(), lambda: record)]


class _SampleDecision(StoredJson):
    set: str = ""


class Began(StoredJson):
    """What is asked of `resolved.json`."""

    run_id: str | None = None
    started_at: float = 0.0  # seconds since 1970
    samples: _SampleDecision | None = None


def began(run: RunFolder) -> Began:
    """How a run was begun."""
    return run.read_stored(layout.RESOLVED, Began) or Began()


def of_stored(run: RunFolder, member: Member, sentence: str) -> tuple[Told, ...]:
    """All of a member that a finished run has stored, with the verdict."""

    def samples() -> list[Item]:
        decided = began(run).samples
        return of_samples(run, member, decided.set if decided else "")

    return (
        Told(run, member, "train", lambda: of_metrics(run.read_rows(layout.metrics(member), StepRecord) or ())),
        Told(
            run,
            member,
            "validation",
            lambda: of_validation(run.read_rows(layout.validation(member), ValidationRecord) or ()),
        ),
        Told(run, member, "samples", samples),
        Told(run, member, "verdict", lambda: of_verdict(run, member, sentence)),
    )
