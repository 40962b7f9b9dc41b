"""Many objects at once, with memory that does not grow with their number."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import TypeVar

from job.storage.base import Digest, ObjectInfo, Storage

Item = TypeVar("Item")
Result = TypeVar("Result")


def download_all(
    storage: Storage, items: Iterable[tuple[ObjectInfo, Path]], workers: int = 16
) -> Iterator[tuple[ObjectInfo, Digest]]:
    """Download each object to its path; yields in the order in which they finish.

    The first error cancels what has not begun, waits for what has, and is raised.
    """

    def download(item: tuple[ObjectInfo, Path]) -> tuple[ObjectInfo, Digest]:
        info, path = item
        return info, storage.download(info.uri, path)

    return _as_finished(download, items, workers)


def upload_all(storage: Storage, items: Iterable[tuple[Path, str]], workers: int = 16) -> Iterator[tuple[str, Digest]]:
    """Upload each file to its URI; otherwise as `download_all`."""

    def upload(item: tuple[Path, str]) -> tuple[str, Digest]:
        path, uri = item
        return uri, storage.upload(path, uri)

    return _as_finished(upload, items, workers)


def _as_finished(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    remaining = iter(items)
    pool = ThreadPoolExecutor(workers)
    try:
        pending = {pool.submit(work, item) for item in islice(remaining, 2 * workers)}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            pending |= {pool.submit(work, item) for item in islice(remaining, len(done))}
            for future in done:
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
