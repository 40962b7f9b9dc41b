"""The processor cores that this process may use, and how far others use them. Does not import torch.

Every function takes the folder `root` that the system's own files lie below, which is / but for tests.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
_TICKS = os.sysconf("SC_CLK_TCK")  # a second, in /proc/stat
_MOMENT_SECONDS = 0.2  # at least, over which a load is measured: twenty ticks of each core


def usable_cores(root: Path = _ROOT) -> int:
    """The cores that this process may use at a time: those of its affinity, within the quota of its cgroup."""
    return _within_quota(len(os.sched_getaffinity(0)), root)


def usable_threads(root: Path = _ROOT) -> int:
    """How many threads compute fastest: one a physical core, as MKL counts them, within the quota of the cgroup."""
    cpus = root / "sys" / "devices" / "system" / "cpu"
    siblings = {_read(cpus / f"cpu{at}/topology/thread_siblings_list") or str(at) for at in os.sched_getaffinity(0)}
    return _within_quota(len(siblings), root)


class Load:
    """How far other programs use the cores that this process may use, from when it is made."""

    def __init__(self, root: Path = _ROOT) -> None:
        self._root = root
        self._began, self._busy, self._own = time.monotonic(), busy_seconds(root), time.process_time()

    def others(self) -> float:
        """The cores that other programs have used, on average; 0 where the system does not tell.

        Waits until a load can be told, if it was made only just now.
        """
        time.sleep(max(0.0, self._began + _MOMENT_SECONDS - time.monotonic()))
        busy, own = busy_seconds(self._root) - self._busy, time.process_time() - self._own
        return max(0.0, busy - own) / (time.monotonic() - self._began)


def busy_seconds(root: Path = _ROOT) -> float:
    """The time for which the cores of this process's affinity have been used, by whomever, since the system's start."""
    names = {f"cpu{at}" for at in os.sched_getaffinity(0)}
    ticks = 0
    for name, *fields in (words for line in _read(root / "proc/stat").splitlines() if (words := line.split())):
        counted = [int(field) for field in fields[:8] if field.isdecimal()]
        if name in names and len(counted) == 8:
            user, nice, system, _idle, _iowait, irq, softirq, steal = counted
            ticks += user + nice + system + irq + softirq + steal
    return ticks / _TICKS


def _within_quota(cores: int, root: Path) -> int:
    return max(1, min([cores, *map(int, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """The cores' worth of time that each cgroup around this process may use; none of those without a limit.

    A container often sees its own group as the root, whatever path it is told, so every folder above is asked too.
    """
    groups = root / "sys" / "fs" / "cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        if line.count(":") < 2:  # It is the rest of a path that holds the end of a line.
            continue
        _, controllers, path = line.split(":", 2)
        inner = PurePosixPath(path.lstrip("/"))
        below = [] if ".." in inner.parts else [inner, *inner.parents]
        for folder in dict.fromkeys((*below, PurePosixPath())):
            if not controllers:
                yield from _quota(_read(groups / folder / "cpu.max").split())
            elif "cpu" in controllers.split(","):
                parts = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                for mount in (
                    controllers,
                    "cpu",
                ):  # Some systems list the controllers in another order than they mount.
                    yield from _quota([_read(groups / mount / folder / part).strip() for part in parts])


def _quota(words: list[str]) -> Iterator[float]:
    """What a limit's two numbers say, microseconds of time and of a period, if it is one."""
    if len(words) == 2 and all(map(str.isdecimal, words)) and int(words[1]):
        yield int(words[0]) / int(words[1])


def _read(path: Path) -> str:
    """A small file of the system's; empty where there is none."""
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:
        return ""
