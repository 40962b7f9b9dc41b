"""Computes values in a thread of its own before they are needed."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


def prefetch(compute: Callable[[Item], Value], items: Iterable[Item], count: int = 1) -> Generator[Value, None, None]:
    """Yield `compute(item)` for each item in turn. One thread computes up to `count` values ahead of their use.

    Items are asked for as they are needed. What `compute` raises is raised where its value would be given.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
        coming: deque[Future[Value]] = deque(thread.submit(compute, item) for item in islice(remaining, count))
        while coming:
            value = coming.popleft().result()
            coming.extend(thread.submit(compute, item) for item in islice(remaining, 1))
            yield value
