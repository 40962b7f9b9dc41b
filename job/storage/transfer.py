"""Transfers many objects at once, with memory that does not grow with their number."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from job.storage.base import Digest, ObjectInfo, Storage
from job.storage.carried import is_whole
from job.storage.files import ChangedObjectError, DamagedObjectError
from job.threads import Check, as_finished

_OWN, _TWICE = "its own checksums", "two downloads that are alike"


def download_all(
    storage: Storage, items: Iterable[tuple[ObjectInfo, Path]], workers: int = 16, check: Check = lambda: None
) -> Iterator[tuple[ObjectInfo, Digest]]:
    """Download each object, as it was listed, to its path, in `workers` threads.

    Yields the objects in the order in which they finish. The first error ends all, as `as_finished` says.
    """

    def download(item: tuple[ObjectInfo, Path]) -> tuple[ObjectInfo, Digest]:
        info, path = item
        return info, fetch_checked(storage, info, path)

    return as_finished(download, items, workers, check)


def fetch_checked(storage: Storage, info: ObjectInfo, path: Path) -> Digest:
    """Download an object as it was listed; where its store promises nothing, check what the file carries itself.

    A file that breaks its own checksums is fetched once more. If the very same bytes come again, it is stored so, and
    whoever reads it says what is wrong with it.

    Raises:
        JobError: as `Storage.download`; also 50 where two downloads differ and neither is whole.
    """
    first = storage.download(info.uri, path, etag=info.etag)
    if first.size != info.size:
        raise ChangedObjectError(info.uri)
    whole = None if first.verified_by else is_whole(path)
    if whole is not False:
        return replace(first, verified_by=_OWN) if whole else first
    again = storage.download(info.uri, path, etag=info.etag)
    if is_whole(path):
        return replace(again, verified_by=_OWN)
    if again == first:
        return replace(again, verified_by=_TWICE)
    raise DamagedObjectError(f"{info.uri} arrived damaged twice, by the checksums that it carries.")


def write_all(
    storage: Storage, items: Iterable[tuple[str, bytes]], workers: int = 16, check: Check = lambda: None
) -> Iterator[tuple[str, Digest]]:
    """Write the bytes of each URI, in the same manner as `download_all`."""

    def write(item: tuple[str, bytes]) -> tuple[str, Digest]:
        uri, data = item
        return uri, storage.write(uri, data)

    return as_finished(write, items, workers, check)
