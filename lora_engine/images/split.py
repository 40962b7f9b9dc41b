"""Decides what becomes of each image: duplicate, near-duplicate, training or validation. No order of files matters."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from lora_engine.config.data import PreprocessConfig, SplitConfig
from lora_engine.errors import DataError
from lora_engine.images.near_duplicates import group_alike
from lora_engine.images.prepare import PreparedImage, check_rejected
from lora_engine.records import ImageRecord, Split

_LARGEST_FRACTION = 0.25  # of the images, that a small set may hold out


def tell_copies_apart(prepared: Iterable[PreparedImage]) -> Iterator[PreparedImage]:
    """Give every further file with the same bytes an id of its own, by which captions are told from those of others."""
    seen: Counter[str] = Counter()
    for image in prepared:
        if image.perceptual_hash is None:
            yield image
            continue
        seen[image.id] += 1
        number = seen[image.id]
        own = image.id if number == 1 else hashlib.sha256(f"{image.id} {number}".encode()).hexdigest()
        yield replace(image, id=own, copy_of=None if number == 1 else image.id)


def assign(
    prepared: Sequence[PreparedImage],
    preprocess: PreprocessConfig,
    split: SplitConfig,
    recorded: Sequence[ImageRecord] = (),
) -> tuple[ImageRecord, ...]:
    """Make a record for every file, in the order of the keys.

    Args:
        recorded: the records of the run so far. Where it uses the same images, their groups and sides stay what they
            are there, though another version made them, which saw other likenesses.

    Raises:
        DataError: too many files cannot be used, or too few remain to train and to score on.
    """
    files = sorted(prepared, key=lambda image: image.source)
    check_rejected(files, preprocess.max_rejected_fraction)
    first: dict[str, str] = {}
    for file in files:
        if file.perceptual_hash is not None:
            first.setdefault(file.content, file.source)
    unique = {
        file.id: file for file in files if file.perceptual_hash is not None and first[file.content] == file.source
    }
    # A further copy's id is its own, but its group is that of the first, by which it is found.
    kept = [record for record in recorded if record.id in unique]
    groups = {record.id: record.group for record in kept if record.group is not None}
    held_out = {record.group for record in kept if record.group is not None and record.split == "validation"}
    if groups.keys() != unique.keys() or not set() < held_out < set(groups.values()):
        groups = _groups(sorted(unique.values(), key=lambda image: image.id), preprocess.near_duplicate_distance)
        held_out = _held_out(groups, split)
    used_sources = {file.source for file in unique.values()}

    def record(file: PreparedImage) -> ImageRecord:
        is_copy = file.content in first and file.source not in used_sources
        double = is_copy and preprocess.deduplicate == "exact"
        used = file.content in groups and not double
        group = groups[file.content] if used else None
        part: Split | None = None
        if group is not None:
            part = "validation" if group in held_out else "train"
        return ImageRecord(
            id=file.id,
            source=file.source,
            size_bytes=file.size_bytes,
            width=file.width,
            height=file.height,
            group=group,
            split=part,
            duplicate_of=first[file.content] if double else None,
            ignored=file.ignored is not None,
            rejected=file.rejected,
            why_ignored=file.ignored,
            uniform=file.uniform,
        )

    records = tuple(record(file) for file in files)
    _assert_apart(records)
    return records


def _groups(images: Sequence[PreparedImage], distance: int) -> dict[str, str]:
    """Name each image's group: the smallest id among all images that near-duplicates connect to it.

    Args:
        images: in the order of their ids.
        distance: bits in which the perceptual hashes of near-duplicates, or of one's mirror image, differ at most.
    """
    hashes = [image.perceptual_hash or b"" for image in images]
    _, first, places = np.unique(group_alike(hashes, distance), return_index=True, return_inverse=True)
    return {image.id: images[first[at]].id for image, at in zip(images, places, strict=True)}


def _held_out(groups: dict[str, str], config: SplitConfig) -> set[str]:
    """The groups that are held out, of `groups` by the images' ids."""
    sizes = Counter(groups.values())
    order = sorted(sizes, key=_fraction)
    chosen = {group for group in order if _fraction(group) < config.validation_fraction}
    images = len(groups)
    count = sum(sizes[group] for group in chosen)
    for group in order:
        fits = count + sizes[group] <= max(1, int(images * _LARGEST_FRACTION))
        if count < config.validation_min and group not in chosen and fits:
            chosen.add(group)
            count += sizes[group]
    if not chosen or len(chosen) == len(sizes):
        raise DataError(
            f"{images} images in {len(sizes)} groups of near-duplicates are too few to train and to validate on.",
            "Add images that differ, or lower preprocess.near_duplicate_distance.",
        )
    return chosen


def _fraction(group: str) -> float:
    """A number in [0, 1) that depends on the group's name alone."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64


def _assert_apart(records: Sequence[ImageRecord]) -> None:
    """Make sure that no image, nor a near-duplicate of it, is both trained on and scored."""
    train = {key for r in records if r.split == "train" for key in (r.id, r.group)}
    held_out = {key for r in records if r.split == "validation" for key in (r.id, r.group)}
    assert not train & held_out, f"in training and in validation: {sorted(map(str, train & held_out))[:3]}"


def data_sha256(records: Iterable[ImageRecord]) -> str:
    """The SHA-256, hexadecimal, of the images that are used, each as often as it is; names and order do not matter."""
    return hashlib.sha256("\n".join(sorted(record.id for record in records if record.used)).encode()).hexdigest()
