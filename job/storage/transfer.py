"""Transfers many objects at once, with memory that does not grow with their number."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from job.storage.base import Digest, ObjectInfo, Storage
from job.threads import Check, as_finished


def download_all(
    storage: Storage, items: Iterable[tuple[ObjectInfo, Path]], workers: int = 16, check: Check = lambda: None
) -> Iterator[tuple[ObjectInfo, Digest]]:
    """Download each object to its path, in `workers` threads.

    Yields the objects in the order in which they finish. The first error ends all, as `as_finished` says.
    """

    def download(item: tuple[ObjectInfo, Path]) -> tuple[ObjectInfo, Digest]:
        info, path = item
        return info, storage.download(info.uri, path)

    return as_finished(download, items, workers, check)


def write_all(
    storage: Storage, items: Iterable[tuple[str, bytes]], workers: int = 16, check: Check = lambda: None
) -> Iterator[tuple[str, Digest]]:
    """Write the bytes of each URI, in the same manner as `download_all`."""

    def write(item: tuple[str, bytes]) -> tuple[str, Digest]:
        uri, data = item
        return uri, storage.write(uri, data)

    return as_finished(write, items, workers, check)
