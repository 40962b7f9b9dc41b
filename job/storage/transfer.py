"""Many objects at once, with memory that does not grow with their number."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import TypeVar

from job.storage.base import Digest, ObjectInfo, Storage

Item = TypeVar("Item")
Result = TypeVar("Result")
Check = Callable[[], None]
_CHECK_SECONDS = 0.5


def download_all(
    storage: Storage, items: Iterable[tuple[ObjectInfo, Path]], workers: int = 16, check: Check = lambda: None
) -> Iterator[tuple[ObjectInfo, Digest]]:
    """Download each object to its path; yields in the order in which they finish.

    The first error cancels what has not begun, waits for what has, and is raised. `check` is called every now and then;
    what it raises is raised at once, and what has begun is left to itself.
    """

    def download(item: tuple[ObjectInfo, Path]) -> tuple[ObjectInfo, Digest]:
        info, path = item
        return info, storage.download(info.uri, path)

    return _as_finished(download, items, workers, check)


def write_all(
    storage: Storage, items: Iterable[tuple[str, bytes]], workers: int = 16, check: Check = lambda: None
) -> Iterator[tuple[str, Digest]]:
    """Write each URI's bytes; otherwise as `download_all`."""

    def write(item: tuple[str, bytes]) -> tuple[str, Digest]:
        uri, data = item
        return uri, storage.write(uri, data)

    return _as_finished(write, items, workers, check)


def wait_for(work: Callable[[], Result], check: Check) -> Result:
    """What `work` gives, unless `check` raises before."""
    return next(_as_finished(lambda _: work(), [None], 1, check))


def _as_finished(work: Callable[[Item], Result], items: Iterable[Item], workers: int, check: Check) -> Iterator[Result]:
    remaining = iter(items)
    pool, abandoned = ThreadPoolExecutor(workers), True
    try:
        pending = {pool.submit(work, item) for item in islice(remaining, 2 * workers)}
        while pending:
            check()
            done, pending = wait(pending, timeout=_CHECK_SECONDS, return_when=FIRST_COMPLETED)
            pending |= {pool.submit(work, item) for item in islice(remaining, len(done))}
            abandoned = False
            for future in done:
                yield future.result()
            abandoned = True
        abandoned = False
    finally:
        pool.shutdown(wait=not abandoned, cancel_futures=True)
