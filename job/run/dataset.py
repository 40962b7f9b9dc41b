"""The images and captions of a run, and the dataset's source that they were made from."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from job.errors import ExitCode, JobError
from job.run.context import Attempt
from job.run.own_captions import FoundCaptions, find_own_captions
from job.storage import ObjectInfo, Storage, is_remote, open_storage
from job.storage.local import LocalStorage
from job.storage.stored import StoredJson
from lora_engine.records import CaptionRecord, ImageRecord, SourceFile, used_images


class SourceStamp(StoredJson):
    """`data/source.json`: the source and the settings that `data/images.jsonl` was made with. Written after it."""

    fingerprint: str  # of the source, as `source_fingerprint` gives it
    pixels: str  # names the settings that decide the pixels, and the version of the code that makes them
    preprocess: dict[str, Any]
    split: dict[str, Any]
    own_captions: str | None = None  # see `Images`


Captions = dict[str, tuple[CaptionRecord, ...]]  # caption set to one record for each used image, in the order of ids


@dataclass(frozen=True)
class Prepared:
    """The images as they lie on this machine once they are fetched and prepared."""

    files: tuple[SourceFile, ...]  # all files that the dataset holds
    records: tuple[ImageRecord, ...]  # one for each file of the dataset but captions
    paths: dict[str, Path]  # id of each used image to the file with its square image

    @cached_property
    def own(self) -> FoundCaptions:
        """The captions that came with the images. Raises DataError where files of them cannot be read."""
        return find_own_captions(self.files, self.records)


@dataclass(frozen=True)
class Images:
    """The images of a run.

    An attempt that finds latents, captions and measures in storage needs only the records, and never prepares images.
    """

    records: tuple[ImageRecord, ...]  # one for each file of the dataset but captions
    prepare: Callable[[], Prepared]
    own_captions: str | None = None  # a hash of what strategies take of their own captions; None where none reads them

    @cached_property
    def prepared(self) -> Prepared:
        """The images on this machine, fetched and prepared when they are first asked for."""
        return self.prepare()

    @property
    def train(self) -> tuple[ImageRecord, ...]:
        """The images that are trained on, in the order of their ids."""
        return self._of("train")

    @property
    def validation(self) -> tuple[ImageRecord, ...]:
        """The images that are held out, in the order of their ids."""
        return self._of("validation")

    @property
    def used(self) -> tuple[ImageRecord, ...]:
        """The images that are trained on or held out, in the order of their ids."""
        return used_images(self.records)

    def _of(self, split: str) -> tuple[ImageRecord, ...]:
        return tuple(record for record in self.used if record.split == split)


def list_source(attempt: Attempt) -> tuple[ObjectInfo, ...]:
    """The dataset's files, or the archive that holds them, as the source shows them now.

    Raises:
        JobError: 41 when there is nothing at a local `dataset.source`, 42 or 50 when its storage cannot be read.
    """
    source, settings = attempt.manifest.dataset.source, attempt.manifest.dataset_storage()
    if is_remote(source):
        return _entries(open_storage(source, settings, patience=attempt.patience), source)
    try:
        return _entries(LocalStorage(), source)
    except JobError as error:
        if error.code != ExitCode.STORAGE_ACCESS:
            raise
        raise JobError(ExitCode.DATA, f"dataset.source: {error.cause}", error.remedy) from error


def source_fingerprint(attempt: Attempt) -> str:
    """The fingerprint of the dataset's source as it is now. Raises as `list_source`."""
    return fingerprint_of(attempt, list_source(attempt))


def _entries(storage: Storage, source: str) -> tuple[ObjectInfo, ...]:
    file = storage.head(source.rstrip("/") or "/")  # an archive; None where the source is a folder or a prefix
    return (file,) if file is not None else tuple(storage.list(source))


def fingerprint_of(attempt: Attempt, listed: Iterable[ObjectInfo]) -> str:
    """A hash of the names, sizes and etags of the dataset's files, which changes when a file does.

    It also says if `dataset.follow_links` is set, which can give images other captions.
    """
    lines = (f"{info.uri}\0{info.size}\0{info.etag}" for info in listed)
    found = hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{found} with links" if attempt.manifest.dataset.follow_links else found
