"""How OpenMP's threads should wait for each other: updates alone, and beside programs that use the cores.

Usage: python -m benchmarks.waiting [--width 32] [--resolution 128] [--members 3] [--batch 4] [--updates 30]
           [--rounds 3] [--busy 1] [--ways as-now,passive,one-thread] [--patience 60]

Ways take turns, each in a process of its own, alone and beside `--busy` programs that do nothing but count. Each lap
waits for a quiet moment first, for `--patience` seconds at most; the column "others" says how many cores were used by
programs that are not part of the benchmark. Ratios are medians over the rounds, each of two laps of one round. Width 32
is about the miniature's, 320 that of SD 1.5.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median

from benchmarks.machine import describe
from benchmarks.rounds import in_turns
from lora_engine.system.cores import busy_seconds

WAYS: Mapping[str, Mapping[str, str]] = {
    "as-now": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "short-spin": {"GOMP_SPINCOUNT": "20000"},
    "one-thread": {"OMP_NUM_THREADS": "1"},
}
_VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_QUIET = 0.15  # cores that others may use at a lap's begin
_MOMENT_SECONDS = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Lap:
    """One way, once."""

    seconds: float  # of the updates, the first two left out
    cpu_seconds: float
    others: float  # cores that programs used which are not part of the benchmark


def work(width: int, resolution: int, members: int, batch: int, updates: int) -> None:
    """Train, and print how long it took: what a process of its own does."""
    import torch

    from benchmarks.loop import random_data, trainer, unet
    from lora_engine.config.training import TrainingConfig
    from lora_engine.system.malloc import keep_freed_blocks

    keep_freed_blocks()
    device, dtype = torch.device("cpu"), torch.float32
    config = TrainingConfig.model_validate(
        {"steps": 1_000_000, "batch_size": batch, "optimizer": {"learning_rate": 1e-4}, "max_grad_norm": 1.0}
    )
    training = trainer(unet(width, device, dtype), random_data(resolution, device, dtype), members, config)
    for _ in training.run(2, lambda: False):
        pass
    began, cpu = time.perf_counter(), time.process_time()
    for _ in training.run(2 + updates, lambda: False):
        pass
    print(json.dumps({"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}))


@contextmanager
def neighbours(count: int) -> Iterator[list[int]]:
    """Programs that use a core each while the block runs; their process ids."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield [program.pid for program in programs]
    finally:
        for program in programs:
            program.kill()
            program.wait()


def cpu_seconds_of(pid: int) -> float:
    """That a process which still runs has had."""
    with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def wait_for_quiet(patience_seconds: float) -> None:
    """Wait until others use next to nothing, or for that long."""
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        before = busy_seconds()
        time.sleep(_MOMENT_SECONDS)
        if (busy_seconds() - before) / _MOMENT_SECONDS <= _QUIET:
            return


def lap(way: str, busy: int, arguments: list[str], patience_seconds: float) -> Lap:
    """Train one way beside so many busy programs."""
    wait_for_quiet(patience_seconds)
    environment = {key: value for key, value in os.environ.items() if key not in _VARIABLES} | WAYS[way]
    command = [sys.executable, "-m", "benchmarks.waiting", "--work", *arguments]
    with neighbours(busy) as pids:
        began, before, usage = time.monotonic(), busy_seconds(), os.times()
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        own = os.times()
        used = own.children_user + own.children_system - usage.children_user - usage.children_system
        used += sum(map(cpu_seconds_of, pids))
        others = (busy_seconds() - before - used) / (time.monotonic() - began)
    made = Lap(**json.loads(done.stdout), others=max(0.0, others))
    print(way, busy, made, file=sys.stderr, flush=True)
    return made


def main() -> None:
    """Take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"width": 32, "resolution": 128, "members": 3, "batch": 4, "updates": 30}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=1)
    parser.add_argument("--patience", type=float, default=60.0)
    parser.add_argument("--ways", default="as-now,passive,one-thread")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    chosen = {name: getattr(options, name) for name in sizes}
    if options.work:
        work(**chosen)
        return
    arguments = [part for name, value in chosen.items() for part in (f"--{name}", str(value))]
    ways = {
        (way, busy): partial(lap, way, busy, arguments, options.patience)
        for way in options.ways.split(",")
        for busy in (0, options.busy)
    }
    laps = in_turns({f"{way} {busy}": each for (way, busy), each in ways.items()}, options.rounds)
    print(describe())
    print(f"{' '.join(arguments)}, {options.rounds} rounds")
    print(
        "| | busy programs beside | seconds | over as-now alone | CPU seconds | others, cores |\n"
        "| --- | --- | --- | --- | --- | --- |"
    )
    for way, busy in ways:
        own, base = laps[f"{way} {busy}"], laps["as-now 0"]
        ratio = median(one.seconds / alone.seconds for one, alone in zip(own, base, strict=True))
        seconds, cpu, others = (median(asdict(one)[key] for one in own) for key in ("seconds", "cpu_seconds", "others"))
        print(f"| {way} | {busy} | {seconds:.2f} | {ratio:.2f} | {cpu:.2f} | {others:.2f} |")


if __name__ == "__main__":
    main()
