"""How long `lora-job validate` takes, and `lora-job run` to its first training step, and what of it is imports.

Usage: python -m benchmarks.start [--manifest manifests/quickstart.yaml] [--rounds 3] [--set KEY=VALUE ...]

A run that does not count fills the cache of captions, latents and embeddings; each of the others has a name of its own,
so that it fetches and preprocesses again. It is killed once its first update is done. Last comes one with the
interpreter's import profile, which makes it slower.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median

from benchmarks.commands import Spent, spend, wait_for
from benchmarks.machine import describe
from benchmarks.rounds import in_turns

_COMMAND = Path(sys.executable).parent / "lora-job"
_IMPORT = re.compile(r"^import time:\s*(\d+) \|\s*\d+ \|\s*([\w.]+)$", re.MULTILINE)  # microseconds of its own, module
_SHOWN = 12  # packages


class Runs:
    """Runs of one update into one destination, each to where that update is done."""

    def __init__(self, folder: Path, manifest: Path, sets: Sequence[str]) -> None:
        self._folder, self._manifest, self._sets = folder, manifest, sets
        self._numbers = count()
        self.logs: list[Path] = []

    def to_first_step(self, env: Mapping[str, str] | None = None) -> Spent:
        """One that is killed when its first numbers are written, right after the update."""
        name = f"run-{next(self._numbers)}"
        self.logs.append(self._folder / f"{name}.txt")
        began = time.perf_counter()
        with self.logs[-1].open("wb") as log:
            process = subprocess.Popen(self._command(name), env=env, stdout=log, stderr=log)
            variants = self._folder / "runs" / name / "variants"
            while not any(variants.glob("*/*/metrics.jsonl")):
                if process.poll() is not None:
                    raise SystemExit(f"{self.logs[-1].read_text()}\nlora-job ended with {process.returncode}")
                time.sleep(0.005)
            seconds = time.perf_counter() - began
            process.kill()
            return replace(wait_for(process), seconds=seconds)

    def _command(self, name: str) -> list[str | Path]:
        values = {
            "name": name,
            "training.steps": 1,
            "training.schedule.warmup_steps": 0,
            "evaluation.every": 1,
            "output.destination": self._folder / "runs",
        }
        sets = [*self._sets, *(f"{key}={value}" for key, value in values.items())]
        options = [part for line in sets for part in ("--set", line)]
        return [_COMMAND, "run", self._manifest, *options, "--workdir", self._folder / "scratch" / name]


def seconds_by_package(profile: str) -> dict[str, float]:
    """What the import of each package's own modules took, most first. A module counts once."""
    first: dict[str, int] = {}
    for microseconds, module in _IMPORT.findall(profile):
        first.setdefault(module, int(microseconds))
    totals: Counter[str] = Counter()
    for module, microseconds in first.items():
        totals[module.partition(".")[0]] += microseconds
    return {package: microseconds / 1e6 for package, microseconds in totals.most_common()}


def stage_seconds(log: str) -> dict[str, float]:
    """How long each stage took that ended."""
    rows = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    return {row["stage"]: row["seconds"] for row in rows if row["event"] == "stage ended"}


def command_table(spent: Mapping[str, Sequence[Spent]]) -> str:
    """A row a command, medians of the rounds."""
    lines = ["| | seconds | CPU seconds | peak memory, MiB |", "| --- | --- | --- | --- |"]
    for name, own in spent.items():
        seconds, cpu_seconds = median(s.seconds for s in own), median(s.cpu_seconds for s in own)
        peak = median(s.peak_bytes for s in own) / 2**20
        lines.append(f"| {name} | {seconds:.2f} | {cpu_seconds:.2f} | {peak:.0f} |")
    return "\n".join(lines)


def parts_table(title: str, seconds: Mapping[str, float]) -> str:
    """A row a part."""
    return "\n".join([f"| {title} | seconds |", "| --- | --- |", *(f"| {k} | {v:.2f} |" for k, v in seconds.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, default=Path("manifests/quickstart.yaml"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        runs = Runs(folder, options.manifest, options.sets)
        runs.to_first_step()
        validate = [_COMMAND, "validate", options.manifest, "--set", f"output.destination={folder / 'runs'}"]
        ways: dict[str, Callable[[], Spent]] = {
            "validate --offline": partial(spend, [*validate, "--offline"], folder / "validate.txt"),
            "validate": partial(spend, validate, folder / "validate.txt"),
            "run, to the first training step": runs.to_first_step,
        }
        print(describe(), command_table(in_turns(ways, options.rounds)), sep="\n\n")
        print(parts_table("stages before it, in the last round", stage_seconds(runs.logs[-1].read_text())))
        runs.to_first_step(os.environ | {"PYTHONPROFILEIMPORTTIME": "1"})
        packages = seconds_by_package(runs.logs[-1].read_text())
    shown = dict(list(packages.items())[:_SHOWN])
    parts = {"all": sum(packages.values())} | shown | {"the others": sum(packages.values()) - sum(shown.values())}
    print(parts_table("imports, profiled", parts))


if __name__ == "__main__":
    main()
