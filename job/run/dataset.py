"""The images of a run: what is known of them, and where they come from."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from job.errors import ExitCode, JobError
from job.run.context import Attempt
from job.storage import Storage, is_remote, open_storage
from job.storage.local import LocalStorage
from job.storage.stored import StoredJson
from lora_engine.records import CaptionRecord, ImageRecord, SourceFile


class SourceStamp(StoredJson):
    """`data/source.json`: what `data/images.jsonl` was made from, and how. Written after it."""

    fingerprint: str  # see `source_fingerprint`
    pixels: str  # names the preprocessing and its version
    preprocess: dict[str, Any]
    split: dict[str, Any]


Captions = dict[str, tuple[CaptionRecord, ...]]  # caption set to a record an image, in the order of the ids


@dataclass(frozen=True)
class Prepared:
    """What a machine has of the images once they are fetched and prepared."""

    files: tuple[SourceFile, ...]  # all that the dataset holds
    records: tuple[ImageRecord, ...]
    paths: dict[str, Path]  # id to square image, of those that are used


@dataclass(frozen=True)
class Images:
    """The images of a run. An attempt that finds all that was made of them in storage need not prepare them."""

    records: tuple[ImageRecord, ...]  # a row for every file met
    prepare: Callable[[], Prepared]

    @cached_property
    def prepared(self) -> Prepared:
        """Fetches and prepares them, if this attempt has not yet."""
        return self.prepare()

    @property
    def train(self) -> tuple[ImageRecord, ...]:
        """Those trained on, in the order of their ids."""
        return self._of("train")

    @property
    def validation(self) -> tuple[ImageRecord, ...]:
        """Those held out, in the order of their ids."""
        return self._of("validation")

    @property
    def used(self) -> tuple[ImageRecord, ...]:
        """Both, in the order of their ids."""
        return tuple(sorted((r for r in self.records if r.used), key=lambda r: r.id))

    def _of(self, split: str) -> tuple[ImageRecord, ...]:
        return tuple(record for record in self.used if record.split == split)


def source_fingerprint(attempt: Attempt) -> str:
    """A hash that changes when a file of the dataset does, found without reading the files."""
    source, settings = attempt.manifest.dataset.source, attempt.manifest.dataset_storage()
    if is_remote(source):
        return _fingerprint(open_storage(source, settings), source)
    try:
        return _fingerprint(LocalStorage(), source)
    except JobError as error:
        if error.code != ExitCode.STORAGE_ACCESS:
            raise
        raise JobError(ExitCode.DATA, f"dataset.source: {error.cause}", error.remedy) from error


def _fingerprint(storage: Storage, source: str) -> str:
    whole = storage.head(source.rstrip("/") or "/")
    entries = [whole] if whole is not None else storage.list(source)
    lines = (f"{info.uri}\0{info.size}\0{info.etag}" for info in entries)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
