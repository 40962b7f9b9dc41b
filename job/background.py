"""Work beside what the main thread does, piece after piece in one thread."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from job.errors import code_of

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
