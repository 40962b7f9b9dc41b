"""Looks into folders of images: how many there are, and whether they have captions beside them."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath

from job.convert.settings import Reading, Setting, as_number
from lora_engine.images.sidecars import split_sidecars
from lora_engine.records import SourceFile

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".avif", ".jxl")  # that sd-scripts count when they make epochs
_MOST_FILES = 500_000  # that are looked at; of a folder with more, images are not counted
_SECTION = re.compile(r"([0-9]{1,6})(?:_(.*))?", re.DOTALL)  # how sd-scripts name a folder: repeats, and a caption


@dataclass(frozen=True)
class Folder:
    """A folder of images."""

    path: str
    repeats: int
    class_tokens: str | None  # a caption for those that have none
    images: int | None  # None where the folder is not here
    has_captions: bool  # that the program reads


def is_of_class(subset: Mapping[str, Setting]) -> bool:
    """Whether a folder holds pictures of a class, which are no training images."""
    return "is_reg" in subset and subset["is_reg"].value is True


def folders_of(reading: Reading) -> list[Folder]:
    """The folders whose images are trained on. Empty where none is named."""
    subsets = reading.configuration.subsets
    if subsets:
        return [_of_subset(subset) for subset in subsets if not is_of_class(subset)]
    named = next(filter(None, map(reading.setting, ("train_data_dir", "image_dir", "instance_data_dir"))), None)
    if named is None or not isinstance(named.value, str):
        return []
    sections = list(_sections(named.value)) if reading.program.is_kohya and not reading.has("in_json") else []
    if sections:
        return [_look(path, repeats, tokens) for path, repeats, tokens in sections]
    tokens = _value(reading.setting("class_tokens") or reading.setting("instance_prompt"))
    repeats = reading.count("dataset_repeats", "training.steps")
    return [_look(named.value, repeats, tokens, is_whole=not reading.program.is_kohya)]


def _of_subset(subset: Mapping[str, Setting]) -> Folder:
    written = subset.get("dataset_repeats")
    repeats = as_number(written.value) if written is not None else None
    path, tokens = _value(subset.get("image_dir")), _value(subset.get("class_tokens"))
    return _look(path or "", max(int(repeats or 1), 1), tokens)


def _value(setting: Setting | None) -> str | None:
    return setting.value if setting is not None and isinstance(setting.value, str) else None


def _sections(folder: str) -> Iterator[tuple[str, int, str]]:
    """The folders below one whose names say how often images are repeated."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in islice(entries, _MOST_FILES) if entry.is_dir())
    except (OSError, ValueError):
        return
    for name in names:
        match = _SECTION.fullmatch(name)
        if match and int(match[1]) > 0:
            tokens = (match[2] or "").encode(errors="replace").decode()  # a name need not be text
            yield str(PurePath(folder, name)), int(match[1]), tokens


def _look(path: str, repeats: int, tokens: str | None, *, is_whole: bool = False) -> Folder:
    """Count the images of a folder; those in folders below count, too, where it `is_whole`."""
    names = list(islice(_names(path, is_whole), _MOST_FILES)) if path else []
    images = sum(name.suffix.lower() in _IMAGES for name in names)
    has_captions = bool(split_sidecars([SourceFile(name.relative_to(path).as_posix(), "") for name in names])[1])
    is_here = bool(path) and _is_folder(path) and len(names) < _MOST_FILES
    return Folder(path, repeats, tokens or None, images if is_here else None, has_captions)


def _is_folder(path: str) -> bool:
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def _names(path: str, is_whole: bool) -> Iterator[PurePath]:
    """The files of a folder."""
    try:
        for at, folders, names in os.walk(path):
            yield from (PurePath(at, name) for name in names)
            if not is_whole:
                folders.clear()
    except ValueError:  # a name with a zero byte is that of no folder
        return
