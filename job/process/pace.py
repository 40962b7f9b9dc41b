"""Notices that updates have become several times slower than the first ones, and why, as far as CPU time tells."""

import time
from collections.abc import Callable

_UPDATES = 10  # in a window; records come in tens where updates are fast
_FIRST = 3  # windows, the fastest of which is what later ones are compared with: the first one also warms up
_SLOWER = 3.0  # times the time of an update, from which on it is said
_IN_A_ROW = 2  # windows that have to be so slow, since a machine may be held up for once
_LEAST_SECONDS = 10.0  # that these windows have to last: nobody minds a slow second
_SHARE_LOST = 0.8  # of the CPU time an update used to have in a second: below, others have the cores


class Pace:
    """Counts updates of one pack, and says once that they have become slow.

    Args:
        on_cpu: whether the updates are computed on the CPU, whose time tells who has it.
        clock: seconds that have gone by, and CPU seconds that this process has had.
    """

    def __init__(self, *, on_cpu: bool, clock: Callable[[], tuple[float, float]] | None = None) -> None:
        self._on_cpu = on_cpu
        self._clock = clock or (lambda: (time.monotonic(), time.process_time()))
        self._last = self._clock()
        self._updates, self._seconds, self._cpu_seconds = 0, 0.0, 0.0  # of the window under way
        self._windows = 0  # that were compared or are to be compared with
        self._best, self._best_share = float("inf"), 0.0  # seconds an update, and CPU seconds a second
        self._slow: list[tuple[int, float, float]] = []  # slow windows in a row: updates, seconds, CPU seconds
        self._is_said = False

    def resume(self) -> None:
        """Let the clock go on from now: what was done meanwhile was no update."""
        self._last = self._clock()

    def update(self) -> str | None:
        """Count an update that is done; a sentence for a person where there is something to say."""
        now, cpu_now = self._clock()
        self._updates += 1
        self._seconds += now - self._last[0]
        self._cpu_seconds += cpu_now - self._last[1]
        self._last = now, cpu_now
        is_slow = self._seconds > _SLOWER * self._best * _UPDATES  # though the window is not full
        if self._is_said or not (is_slow or self._updates == _UPDATES):
            return None
        if not is_slow:
            self._learn()
            self._slow = []
        else:
            self._slow.append((self._updates, self._seconds, self._cpu_seconds))
        self._updates, self._seconds, self._cpu_seconds = 0, 0.0, 0.0
        updates, seconds, cpu_seconds = map(sum, zip(*self._slow, strict=True)) if self._slow else (0, 0.0, 0.0)
        if len(self._slow) < _IN_A_ROW or seconds < _LEAST_SECONDS:
            return None
        self._is_said = True
        return self._sentence(seconds / updates, cpu_seconds / seconds)

    def _learn(self) -> None:
        """Take the window that has ended for one of the first, if it is."""
        self._windows += 1
        if self._windows <= _FIRST and self._seconds / _UPDATES < self._best:
            self._best = self._seconds / _UPDATES
            self._best_share = self._cpu_seconds / self._seconds if self._seconds else 0.0

    def _sentence(self, seconds: float, share: float) -> str:
        said = f"updates take {seconds:.2g} s now, {seconds / self._best:.0f} times as long as the first ones"
        if not self._on_cpu:
            return f"{said}: nvidia-smi shows whether others use the GPU, or it is too hot"
        had = f"this process has the time of {share:.1f} cores, and had that of {self._best_share:.1f}"
        if share < _SHARE_LOST * self._best_share:
            return f"{said}: other programs use the cores ({had}); stopped and started again, it shares them better"
        return f"{said}, though not for other programs on the cores ({had}): is the machine hot, or its memory full?"
