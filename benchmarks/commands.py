"""Runs a command and says what it took, of itself and of the processes that it started."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

_POLL_SECONDS = 0.5
_TAIL = 2000  # characters of a log that are shown when its command fails


@dataclass(frozen=True)
class Spent:
    """By one command, or by several one after the other."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int  # of its largest process
    gpu_bytes: int = 0  # taken on all GPUs at once, at most, by whatever runs; what is kept for later use counts

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(
            self.seconds + other.seconds,
            self.cpu_seconds + other.cpu_seconds,
            max(self.peak_bytes, other.peak_bytes),
            max(self.gpu_bytes, other.gpu_bytes),
        )

    def times(self, factor: float) -> "Spent":
        """By so many like it."""
        return replace(self, seconds=self.seconds * factor, cpu_seconds=self.cpu_seconds * factor)


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
    with log.open("wb") as output, _gpu_peak() as gpu_bytes:
        process = subprocess.Popen(command, env=env, cwd=cwd, stdout=output, stderr=output)
        spent = wait_for(process)
    if process.returncode:
        tail = log.read_text(errors="replace")[-_TAIL:].strip()
        raise SystemExit(f"{tail}\n{command[0]} ended with {process.returncode}; all that it said is in {log}")
    return replace(spent, seconds=time.perf_counter() - began, gpu_bytes=max(gpu_bytes))


@contextmanager
def _gpu_peak() -> Iterator[list[int]]:
    """What the GPUs had taken every now and then, in bytes; 0 where there are none."""
    seen, done = [0], threading.Event()
    command = [shutil.which("nvidia-smi") or "", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]

    def watch() -> None:
        while not done.wait(_POLL_SECONDS):
            found = subprocess.run(command, capture_output=True, text=True, check=True)
            seen.append(sum(map(int, found.stdout.split())) * 2**20)

    thread = threading.Thread(target=watch, daemon=True)
    if command[0]:
        thread.start()
    try:
        yield seen
    finally:
        done.set()
        if command[0]:
            thread.join()


def wait_for(process: "subprocess.Popen[bytes]") -> Spent:
    """Wait until it ends; the seconds are those of the wait."""
    began = time.perf_counter()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    return Spent(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
