"""Says what became of the files of a dataset: in numbers, in a sentence, and in warnings of what is odd."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lora_engine.images.kinds import LEFT_BEHIND, MAY_HOLD_IMAGES, REGULARISATION, has_image_suffix, why_left_out
from lora_engine.images.kohya import is_regularisation, repeats_of
from lora_engine.records import ImageRecord
from lora_engine.text import shortened

_MOST_REASONS = 3  # that a sentence tells
_LONGEST_NAME = 40  # characters of a file's name in a sentence
_LONGEST_REASON = 80
_NUMBER = re.compile(r"-?\d+")
_MANY = 0.5  # of the images used: more than so many are worth a warning where they are enlarged


@dataclass(frozen=True)
class Fates:
    """How many of the dataset's files were used, and how many were not."""

    files: int  # but captions of images
    train: int
    validation: int
    groups: int  # of near-duplicates among the images used
    near_duplicate_groups: int  # those of more than one image
    duplicates: int
    ignored: int
    ignored_because: dict[str, int]  # reason to number of files, as that below
    rejected: dict[str, int]
    uniform: int  # images used that are all of one colour
    enlarged: int  # images used that are smaller than the resolution


def fates_of(records: Sequence[ImageRecord], resolution: int) -> Fates:
    """Count what became of the files; `resolution` is the side in pixels that the images were brought to."""
    used = [record for record in records if record.used]
    groups = Counter(record.group for record in used)
    return Fates(
        files=len(records),
        train=sum(record.split == "train" for record in used),
        validation=sum(record.split == "validation" for record in used),
        groups=len(groups),
        near_duplicate_groups=sum(count > 1 for count in groups.values()),
        duplicates=sum(record.duplicate_of is not None for record in records),
        ignored=sum(record.ignored for record in records),
        ignored_because=_by_reason(why_ignored(record) for record in records),
        rejected=_by_reason(record.rejected for record in records),
        uniform=sum(record.uniform for record in used),
        enlarged=sum(_is_enlarged(record, resolution) for record in used),
    )


def why_ignored(record: ImageRecord) -> str | None:
    """Why a file is none of the dataset's images; None where it is one. Earlier versions knew one reason alone."""
    return record.why_ignored or (LEFT_BEHIND if record.ignored else None)


def sentence(records: Sequence[ImageRecord], fates: Fates) -> str:
    """What became of the files in one line, with examples."""
    images, small = fates.train + fates.validation, "smaller than the resolution, so enlarged"
    said = [
        f"Data: {_count(images, 'image')} used, {fates.train} trained on and {fates.validation} held out",
        said_because("ignored", [(record.source, why_ignored(record)) for record in records]),
        said_because("rejected", [(record.source, record.rejected) for record in records]),
        _counted(fates.duplicates, "copy of another file", "copies of other files"),
        _counted(fates.near_duplicate_groups, "group of near-duplicates", "groups of near-duplicates"),
        _counted(fates.uniform, "all of one colour", "all of one colour"),
        _counted(fates.enlarged, small, small),
    ]
    return f"{'; '.join(filter(None, said))}."


def said_because(what: str, files: Sequence[tuple[str, str | None]]) -> str:
    """How many files were ignored, or rejected, why, and one for each reason; empty where none were.

    Args:
        files: the key of each file, and the reason; None for one to which that did not happen.
    """
    reasons = _by_reason(why for _, why in files)
    example = {why: source for source, why in reversed(files) if why is not None}
    told = sorted(reasons.items(), key=lambda item: -item[1])
    said = [
        f"{count} {shortened(why, _LONGEST_REASON)}, such as {shortened(example[why], _LONGEST_NAME)}"
        for why, count in told[:_MOST_REASONS]
    ]
    if others := sum(count for _, count in told[_MOST_REASONS:]):
        said.append(f"{others} for other reasons, see data/images.jsonl of a run")
    return f"{sum(reasons.values())} {what} ({'; '.join(said)})" if said else ""


def data_warnings(records: Sequence[ImageRecord], fates: Fates) -> Iterator[str]:
    """What a person should look at, a sentence each."""
    images = fates.train + fates.validation
    yield from folder_warnings(record.source for record in records)
    closed = [(record.source, why) for record in records if (why := record.why_ignored) in MAY_HOLD_IMAGES]
    if closed:
        yield f"There may be images in what is not used: {said_because('ignored', closed)}."
    if fates.uniform:
        blank = next(record.source for record in records if record.used and record.uniform)
        yield f"{_count(fates.uniform, 'image')} all of one colour: remove what shows nothing, such as {blank}."
    if fates.enlarged > _MANY * images:
        yield (
            f"{fates.enlarged} of {_count(images, 'image')} are smaller than preprocess.resolution, and an adapter "
            "learns how enlarged pictures look: lower it, or have larger ones."
        )


def folder_warnings(keys: Iterable[str]) -> Iterator[str]:
    """What to say of the folders that a dataset's files lie in, as kohya's scripts would read their names."""
    images = [key for key in keys if has_image_suffix(key) and why_left_out(key) in (None, REGULARISATION)]
    repeats = repeats_of(images)
    if any(count > 1 for count in repeats.values()):
        folders = shortened(", ".join(repeats), _LONGEST_REASON)
        yield f"Repeats in folders' names ({folders}) do not count: every picture is seen equally often."
    if aside := sum(map(is_regularisation, images)):
        yield (
            f"{_count(aside, 'picture')} in a folder of regularisation images, such as reg/, will not be trained on: "
            "lora-job knows no regularisation. If that folder is what you train on, give it another name."
        )


def _by_reason(reasons: Iterable[str | None]) -> dict[str, int]:
    """How many there are of each reason. Those that differ in numbers alone are one, in the words of the first."""
    found: dict[str, list[str]] = {}
    for reason in filter(None, reasons):
        found.setdefault(_NUMBER.sub("", reason), []).append(reason)
    return dict(sorted((same[0], len(same)) for same in found.values()))


def _is_enlarged(record: ImageRecord, resolution: int) -> bool:
    return record.width is not None and record.height is not None and min(record.width, record.height) < resolution


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}" if number else ""
