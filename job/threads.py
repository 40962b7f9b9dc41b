"""Work in other threads: pieces in turn beside the main thread, or many items at once that a check may abandon."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Self, TypeVar

from job.errors import code_of

Item = TypeVar("Item")
Result = TypeVar("Result")
Check = Callable[[], None]  # raises where the work is to be abandoned

_CHECK_SECONDS = 0.5  # between two calls of a check
_WAITING = 1  # pieces that may wait while another is done, which bounds the memory that they hold


class Background:
    """A context manager that does pieces of work in turn, in a thread of its own.

    Its block ends when no piece is left: all are done or, after one has failed, those behind it are dropped. The error
    of the failed piece is raised by the next `submit` or `wait`, or at the block's end, unless the block itself raised
    something else than a stop.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._pending: deque[Future[None]] = deque()
        self.failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, *_: object) -> None:
        self._thread.shutdown()
        if error is None or code_of(error).is_stop:  # A stop tells the user that all is saved, which has to be true.
            self.wait()

    def submit(self, piece: Callable[[], None]) -> None:
        """Have a piece done after those before it. Returns at once, unless another piece still waits for its turn.

        Raises the error of an earlier piece that failed.
        """
        self.wait(0 if self.failed else _WAITING)
        self._pending.append(self._thread.submit(self._do, piece))

    def wait(self, left: int = 0) -> None:
        """Wait until no more than `left` pieces are not done yet. Raises the error of a piece that failed."""
        while len(self._pending) > left:
            self._pending.popleft().result()

    def _do(self, piece: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            piece()
        except BaseException:
            self.failed = True
            raise


def wait_for(work: Callable[[], Result], check: Check) -> Result:
    """Do the work in a thread and return its result. An error that `check` raises meanwhile abandons the thread.

    A stop thus ends even a wait in which a library lets no signal through.
    """
    return next(as_finished(lambda _: work(), [None], 1, check))


def as_finished(work: Callable[[Item], Result], items: Iterable[Item], workers: int, check: Check) -> Iterator[Result]:
    """Yield the result of `work` for each item, in the order in which they finish, `workers` of them at a time.

    The first error of an item cancels the items that have not begun, waits for those that have, and is raised. `check`
    is called at least every half second; what it raises is raised at once, and items that have begun are left alone.
    """
    remaining = iter(items)
    # While `abandoned` is True, only `check` can raise, and the pool is not waited for.
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
