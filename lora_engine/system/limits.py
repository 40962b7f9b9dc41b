"""Tells errors that a limit of the process or the machine is behind from faults of what was at work."""

import errno
import re
import resource
from collections.abc import Iterator
from pathlib import Path

from lora_engine.errors import ResourceError

_PIDS_LIMIT = Path("/sys/fs/cgroup/pids.max")  # the container's
_OF_THE_MACHINE = (
    "out of memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "CUDA error",
)  # in errors of torch


def limit_hit(error: BaseException) -> tuple[str, str] | None:
    """The cause, which names the limit, and the remedy; None where no limit is behind the error.

    The errors from which it was raised count, too, since libraries hide the system's own behind theirs.
    """
    for each in _chain(error):
        number, text = errno_of(each), str(each)
        if number == errno.EMFILE:
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            return (
                f"This process has as many files and connections open as it may: {most} (RLIMIT_NOFILE).",
                "Allow more: `ulimit -n 4096` before the command, or `docker run --ulimit nofile=4096`.",
            )
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if number == errno.EFBIG and most != resource.RLIM_INFINITY:
            return (
                f"A file would be larger than this process may write: {most} bytes (RLIMIT_FSIZE).",
                "Allow more: `ulimit -f unlimited` before the command; it is not for want of room on the disk.",
            )
        if number == errno.ENFILE:
            return "The machine has as many files open as it may (fs.file-max).", "Raise that limit of the machine."
        if "can't start new thread" in text or (isinstance(each, BlockingIOError) and each is error):
            return (
                f"No further thread or process can be started: the pids limit is {_pids_limit()}.",
                "Allow more: `docker run --pids-limit`, the kubelet's podPidsLimit, or `ulimit -u`.",
            )
        if isinstance(each, FileNotFoundError) and "temporary directory" in text:
            return "No folder takes temporary files.", "Set TMPDIR to one that is writable."
    return None


def raise_if_limit(error: BaseException) -> None:
    """Raise a ResourceError in the place of an error that a limit is behind, and one of memory or a GPU as it is."""
    if (found := limit_hit(error)) is not None:
        raise ResourceError(*found) from error
    if is_of_the_machine(error):
        raise error


def is_of_the_machine(error: BaseException) -> bool:
    """Whether it says that memory is full or that a GPU failed, which is no fault of what was at work."""
    of_torch = isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OF_THE_MACHINE)
    return of_torch or isinstance(error, MemoryError) or errno_of(error) == errno.ENOMEM


def errno_of(error: BaseException) -> int | None:
    """The system's number of an error; None where it is not the system's."""
    if isinstance(error, OSError):
        return error.errno
    named = re.search(r"\(os error (\d+)\)", str(error))  # safetensors gives the number in its message alone.
    return int(named[1]) if named else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


def _pids_limit() -> str:
    """The lower one of the container's limit and the user's."""
    limits = []
    if _PIDS_LIMIT.exists() and (text := _PIDS_LIMIT.read_text().strip()).isdecimal():
        limits.append(int(text))
    if (of_user := resource.getrlimit(resource.RLIMIT_NPROC)[0]) != resource.RLIM_INFINITY:
        limits.append(of_user)
    return str(min(limits)) if limits else "that of the machine"
