"""Reports that the bytes of a large object move, so that a slow transfer is not taken for one that hangs."""

from collections.abc import Callable
from typing import Any

# Leases and status files are smaller: they are written even while the work hangs, and must not look like progress.
PULSE_BYTES = 256 * 1024


class Pulse:
    """Counts the bytes of one transfer and calls `moved` for every `PULSE_BYTES` of them."""

    def __init__(self, moved: Callable[[], None]) -> None:
        self._moved = moved
        self._bytes = 0  # since the last call

    def count(self, size: int) -> None:
        """Note that `size` more bytes have moved."""
        self._bytes += size
        if self._bytes >= PULSE_BYTES:
            self._bytes = 0
            self._moved()


class CountedBody:
    """The body of a request: a file-like object that counts what is read from it to be sent."""

    def __init__(self, body: Any, pulse: Pulse) -> None:
        self._body, self._pulse = body, pulse

    def read(self, size: int = -1) -> bytes:
        """The next bytes. The HTTP library asks for them when it has sent those before."""
        data: bytes = self._body.read(size)
        self._pulse.count(len(data))
        return data

    def seek(self, position: int) -> None:
        """Go to a position, as a retry does to send the body again."""
        self._body.seek(position)
