"""Tells glibc's allocator what to do with freed memory. Other allocators are left as they are."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # the numbers that malloc.h gives these options
_UNLIMITED = 2**31 - 1


def keep_freed_blocks(up_to: int | None = None) -> None:
    """Reuse freed blocks from now on, instead of asking the kernel for fresh pages each time.

    A program that allocates and frees large blocks over and over, as convolutions do on a CPU, spends a sixth of its
    time on getting fresh pages. `give_back` returns what is kept.

    Args:
        up_to: in bytes; larger blocks still go back at once. None keeps all.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return
    if up_to is None:
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, _UNLIMITED)
    else:
        library.mallopt(_M_MMAP_THRESHOLD, up_to)
        library.mallopt(_M_TRIM_THRESHOLD, 2 * up_to)


def give_back() -> None:
    """Return freed memory to the machine."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
