"""Spares Python's garbage collector the objects that live as long as the process.

Importing torch and the model libraries makes a million of them. The collector walks them all several times meanwhile,
at every full collection after that, and once more before the process ends: some three seconds, for nothing.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting() -> Iterator[None]:
    """Take all objects that exist at the end of the block out of the collector's sight; garbage among them stays."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def leave_to_the_system() -> None:
    """Let a process end without a last collection: the system takes back whatever is left."""
    gc.freeze()
