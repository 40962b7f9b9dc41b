"""Tells that the bytes of a large object move, before the object is whole."""

from collections.abc import Callable
from typing import Any

PULSE_BYTES = 256 * 1024  # leases and status, which are also written while the work hangs, are smaller


class Pulse:
    """Of one transfer: calls `moved` for every `PULSE_BYTES`."""

    def __init__(self, moved: Callable[[], None]) -> None:
        self._moved = moved
        self._bytes = 0  # since the last call

    def count(self, size: int) -> None:
        """So many bytes have moved."""
        self._bytes += size
        if self._bytes >= PULSE_BYTES:
            self._bytes = 0
            self._moved()


class CountedBody:
    """The body of a request, counted as it is sent."""

    def __init__(self, body: Any, pulse: Pulse) -> None:
        self._body, self._pulse = body, pulse

    def read(self, size: int = -1) -> bytes:
        """As a file's; the part before has been sent by now."""
        data: bytes = self._body.read(size)
        self._pulse.count(len(data))
        return data

    def seek(self, position: int) -> None:
        """As a file's; to send it again."""
        self._body.seek(position)
