"""The images of the page: their thumbnails with every caption, the odd ones first, and what became of the others."""

from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from markupsafe import escape

from job import layout
from job.report.artefacts import rows
from job.report.picture_schema import Copy
from job.report.schema import Comparison
from job.run.resolved import Resolved
from job.storage.folder import RunFolder
from lora_engine.images.fates import why_ignored
from lora_engine.records import CaptionRecord, ImageRecord, used_images
from lora_engine.text import printable, shortened

_MOST_CHARACTERS = 1_300_000  # that the page has for images with their captions
_OF_A_ROW = 300  # of them, besides the texts
_LONGEST_CAPTION = 300  # characters that it shows of one
_LONGEST_NAME = 200  # of a file
_MOST_OF_GROUP = 20  # near-duplicates of one group that are named
_MOST_LISTED = 500  # groups, copies, and files that were not used


@dataclass(frozen=True)
class ImageRow:
    """An image with its captions."""

    id: str
    source: str  # file name
    held_out: bool
    remarks: tuple[str, ...]  # what is odd about it
    texts: tuple[str, ...]  # in the order of the caption sets


@dataclass(frozen=True)
class Unused:
    """A file that was not used."""

    source: str
    why: str


@dataclass(frozen=True)
class Images:
    """What the page shows of the dataset."""

    sets: tuple[str, ...]
    rows: tuple[ImageRow, ...]
    left_out: int  # images that are used and not shown
    copies: tuple[tuple[int, tuple[str | int, ...], Copy], ...]  # place among the members, path of the likeness, copy
    groups: tuple[tuple[str, ...], ...]  # file names of near-duplicates
    unused: tuple[Unused, ...]
    cut: int | None  # entries at which one of the lists ends that has more; None where all are whole
    names: dict[str, str]  # id of an image to the name of its picture beside the page, where there is one

    def thumbnails(self, run: RunFolder) -> dict[str, Callable[[], bytes]]:
        """A picture's name to what gives it."""
        return {name: partial(_read, run, layout.thumbnail(image)) for image, name in self.names.items()}


def _read(run: RunFolder, key: str) -> bytes:
    return run.read(key) or b""


def read_images(run: RunFolder, resolved: Resolved, comparison: Comparison) -> Images:
    """What the page shows of the dataset. Raises JobError 46 where the run's files about it are missing or damaged."""
    records = rows(run, layout.IMAGES, ImageRecord)
    captions = {
        name: {caption.id: caption for caption in rows(run, layout.captions(name), CaptionRecord)}
        for name in resolved.caption_sets
    }
    used = used_images(records)
    groups = _groups(used)
    copies = list(_copies(comparison))
    twins = {image.id for group in groups for image in group}
    copied = {copy.image for _, _, copy in copies}
    remarks = {image.id: _remarks(image, captions, twins, copied) for image in used}
    ordered = sorted(used, key=lambda image: (not remarks[image.id], image.source))
    rows_of = [_row(image, remarks[image.id], captions) for image in ordered]
    shown = rows_of[: _that_fit(rows_of)]
    unused = [
        Unused(shortened(each.source, _LONGEST_NAME), shortened(why, _LONGEST_CAPTION))
        for each in records
        if (why := _why_unused(each))
    ]
    there = {key for key, _ in run.list(layout.THUMBNAILS)}
    pictured = dict.fromkeys([*(copy.image for _, _, copy in copies[:_MOST_LISTED]), *(row.id for row in shown)])
    return Images(
        sets=tuple(captions),
        rows=tuple(shown),
        left_out=len(used) - len(shown),
        copies=tuple(copies[:_MOST_LISTED]),
        groups=tuple(map(_named, groups[:_MOST_LISTED])),
        unused=tuple(unused[:_MOST_LISTED]),
        cut=_MOST_LISTED if max(len(copies), len(groups), len(unused)) > _MOST_LISTED else None,
        names={image: _name_of(image) for image in pictured if layout.thumbnail(image) in there},
    )


def _named(group: Sequence[ImageRecord]) -> tuple[str, ...]:
    """The files of a group, or as many as are named, and how many more there are."""
    names = tuple(shortened(image.source, _LONGEST_NAME) for image in group[:_MOST_OF_GROUP])
    return names if len(group) == len(names) else (*names, f"and {len(group) - len(names)} more")


def _row(image: ImageRecord, remarks: tuple[str, ...], captions: Mapping[str, Mapping[str, CaptionRecord]]) -> ImageRow:
    return ImageRow(
        image.id, shortened(image.source, _LONGEST_NAME), image.split == "validation", remarks, _texts(image, captions)
    )


def _that_fit(rows_of: Sequence[ImageRow]) -> int:
    """How many of the rows, from the first, the page has room for."""
    sizes = [_OF_A_ROW + sum(len(escape(printable(text))) + 50 for text in (row.source, *row.texts)) for row in rows_of]
    return bisect(list(accumulate(sizes)), _MOST_CHARACTERS)


def _name_of(image_id: str) -> str:
    return f"image-{image_id[:16]}"


def _groups(used: Sequence[ImageRecord]) -> list[list[ImageRecord]]:
    """The groups of more than one near-duplicate."""
    groups: dict[str | None, list[ImageRecord]] = {}
    for image in used:
        groups.setdefault(image.group, []).append(image)
    return [group for group in groups.values() if len(group) > 1]


def _copies(comparison: Comparison) -> Iterator[tuple[int, tuple[str | int, ...], Copy]]:
    """Every picture that is a copy, once: its adapter's place among the members, its likeness's JSON path, the copy."""
    for member, report in enumerate(comparison.members):
        files: set[str] = set()
        for way in ("bare", "as_trained"):
            found = None if report.memorised is None else getattr(report.memorised, way)
            for at, copy in enumerate(found.copies if found else ()):
                if copy.file not in files:
                    files.add(copy.file)
                    yield member, ("members", member, "memorised", way, "copies", at, "likeness"), copy


def _remarks(
    image: ImageRecord, captions: Mapping[str, Mapping[str, CaptionRecord]], twins: Set[str], copied: Set[str]
) -> tuple[str, ...]:
    """What is odd about an image, in words."""
    found = [caption for each in captions.values() if (caption := each.get(image.id)) is not None]
    odd = {
        "memorised": image.id in copied,
        "a caption was cut": any(any(caption.truncated) for caption in found),
        "an empty caption": any(not text for caption in found for text in caption.texts),
        "near-duplicate": image.id in twins,
    }
    return tuple(remark for remark, holds in odd.items() if holds)


def _texts(image: ImageRecord, captions: Mapping[str, Mapping[str, CaptionRecord]]) -> tuple[str, ...]:
    """The image's captions under each strategy; those of a mix one after the other."""
    found = [each.get(image.id) for each in captions.values()]
    return tuple("" if each is None else shortened(" / ".join(each.texts), _LONGEST_CAPTION) for each in found)


def _why_unused(image: ImageRecord) -> str | None:
    if image.rejected is not None:
        return image.rejected
    if (why := why_ignored(image)) is not None:
        return f"ignored: {why}"
    return f"the same bytes as {image.duplicate_of}" if image.duplicate_of is not None else None
