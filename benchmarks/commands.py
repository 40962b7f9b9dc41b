"""Runs a command and says what it took, of itself and of the processes that it started."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

_TAIL = 2000  # characters of a log that are shown when its command fails


@dataclass(frozen=True)
class Spent:
    """By one command, or by several one after the other."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int  # of its largest process

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_bytes, other.peak_bytes),
        )


def spend(
    command: Sequence[str | Path], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Spent:
    """Run it to its end; what it prints goes to `log`.

    A process inherits the peak of the one that started it, so this one should have imported little.

    Raises:
        SystemExit: it failed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, cwd=cwd, stdout=output, stderr=output)
        spent = wait_for(process)
    if process.returncode:
        tail = log.read_text(errors="replace")[-_TAIL:].strip()
        raise SystemExit(f"{tail}\n{command[0]} ended with {process.returncode}; all that it said is in {log}")
    return replace(spent, seconds=time.perf_counter() - began)


def wait_for(process: "subprocess.Popen[bytes]") -> Spent:
    """Wait until it ends; the seconds are those of the wait."""
    began = time.perf_counter()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    return Spent(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
