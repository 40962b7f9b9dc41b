"""Does what comes next while what came before is used."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetch(make: Callable[[Item], Made], items: Iterable[Item], count: int = 1) -> Generator[Made, None, None]:
    """`make` of each item in turn, made by one thread while the `count` before it are used.

    Items are asked for as they are needed. What `make` raises is raised where its value would be given.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        coming: deque[Future[Made]] = deque(thread.submit(make, item) for item in islice(remaining, count))
        while coming:
            value = coming.popleft().result()
            coming.extend(thread.submit(make, item) for item in islice(remaining, 1))
            yield value
