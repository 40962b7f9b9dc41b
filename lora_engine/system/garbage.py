"""What lives as long as the process is not looked through again and again for garbage.

Importing torch and the model libraries makes a million objects. Python's collector walks them all several times on the
way, at every full collection after that, and once more before the process ends: some three seconds, for nothing.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def lasting() -> Iterator[None]:
    """What is made within, or was made before, is never collected; cycles of garbage among it stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def leave_to_the_system() -> None:
    """At the end of a process: whatever is left goes with it."""
    gc.freeze()
