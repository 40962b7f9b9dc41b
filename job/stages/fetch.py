"""Brings the dataset to this machine."""

from collections.abc import Sequence
from pathlib import Path

from job.errors import ExitCode
from job.run.context import Attempt
from job.run.downloads import fetch_object, fetch_prefix, folder_of, require_path
from job.storage import ObjectInfo, is_remote
from job.storage.uris import local_path
from lora_engine.images.sources import extract_archive, is_archive, list_files
from lora_engine.records import SourceFile


def fetch_dataset(attempt: Attempt, listed: Sequence[ObjectInfo] | None = None) -> list[SourceFile]:
    """Every file of the dataset, which is a folder, a prefix or an archive, in the order of the keys.

    Args:
        listed: what `list_source` gave; None where nothing relies on what it was.

    Raises:
        JobError: 41 when there is nothing at a local `dataset.source`, 42 or 50 when its storage cannot be read, or an
            object is no longer what was listed.
        DataError: a folder cannot be read, or the archive is damaged.
        UnsafeError: the archive would write elsewhere than into its folder, or unpack to far more than it is.
    """
    source, settings = attempt.manifest.dataset.source, attempt.manifest.dataset_storage()
    if not is_remote(source):
        path = local_path(source)
        if path.is_dir():
            return list(list_files(path, follow_links=attempt.manifest.dataset.follow_links))
        require_path(path, "dataset.source", ExitCode.DATA)
        return _extract(attempt, path, folder_of(attempt, "dataset", str(path.absolute())))
    folder = folder_of(attempt, "dataset", source)
    if is_archive(source):
        seen = next((info for info in listed or () if info.uri == source), None)
        archive = fetch_object(attempt, source, settings, folder, seen)
        return _extract(attempt, archive, folder / "members")
    return fetch_prefix(attempt, source, settings, folder, lambda _: True, listed)


def _extract(attempt: Attempt, archive: Path, folder: Path) -> list[SourceFile]:
    """Extract the archive's members into the folder, unless asked to stop."""
    files = []
    with attempt.progress.doing("Unpacking the dataset", f"Unpacking {archive.name}"):
        for file in extract_archive(archive, folder):
            files.append(file)
            attempt.progress.moved()
            attempt.stop.check()
    return sorted(files, key=lambda file: file.key)
