"""Work in other threads: pieces in turn beside the main thread, or many items at once, which a check may abandon."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Self, TypeVar

from job.errors import code_of

Item = TypeVar("Item")
Result = TypeVar("Result")
Check = Callable[[], None]

_CHECK_SECONDS = 0.5
_WAITING = 1  # pieces that may wait for the one at work, so that what they hold in memory is bounded


class Background:
    """A context: at its end all pieces are done, whatever ended it. After a piece has failed, none begins.

    What a piece raised is raised at the end, too, unless another error than a stop ended the block.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._pending: deque[Future[None]] = deque()
        self.failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, *_: object) -> None:
        self._thread.shutdown()
        if error is None or code_of(error).is_stop:  # a stop says that all is saved
            self.wait()

    def submit(self, piece: Callable[[], None]) -> None:
        """Let a piece be done after those before it. Waits while another one waits.

        Raises what an earlier one raised.
        """
        self.wait(0 if self.failed else _WAITING)
        self._pending.append(self._thread.submit(self._do, piece))

    def wait(self, left: int = 0) -> None:
        """Until no more than so many pieces are left to do. Raises what one of them raised."""
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
    """What `work` gives, unless `check` raises before."""
    return next(as_finished(lambda _: work(), [None], 1, check))


def as_finished(work: Callable[[Item], Result], items: Iterable[Item], workers: int, check: Check) -> Iterator[Result]:
    """What `work` gives for each item, in the order in which they finish, `workers` of them at a time.

    The first error cancels what has not begun, waits for what has, and is raised. `check` is called every now and then;
    what it raises is raised at once, and what has begun is left to itself.
    """
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
