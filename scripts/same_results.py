"""Make the same studies with the code of a commit and of the working tree, and compare what must not vary, to the bit.

Usage: same_results.py COMMIT [--scenarios quickstart s3 processes]. It prints a line a scenario and one a difference,
and ends with 1 where there is any. For changes that are to change no number: run it before they are merged.

It knows a run by its commands and its files alone, so that no change to the code behind them is a change to it:
weights, optimizer states, losses, captions, samples and the report are compared; times, machines and paths are not.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import deserialize

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "name": "small",
    "dataset.validation_min": 3,
    "training.steps": 6,
    "training.batch_size": 2,
    "training.schedule.warmup_steps": 1,
    "evaluation.every": 2,
    "evaluation.samples.steps": 1,
    "evaluation.samples.prompts": "[a heart, a sun]",
    "limits.lease_seconds": 4,  # what a killed process held is soon the next one's
}
SMALL_VARIANTS = ("vanilla", "blip", "blip_plus")
SMALL_DRAWINGS = 12
SECONDS = 7200  # after which a command has hung
DEFAULT = ("quickstart", "s3", "processes")

# What tells when and where a run was made, in a run's folder and as names of values.
OF_THE_ATTEMPT = ("manifest.yaml", "environment.json", "units/", "data/source.json")
TIMES = {
    "resolved.json": {"manifest", "started_at"},
    "report/comparison.json": {"timing", "environment", "images_per_second", "files"},
    "adapters/index.json": {"kohya"},  # whose metadata tell when the run began
    "metrics.jsonl": {"images_per_second"},
    "COMMIT.json": {"epoch", "files", "manifest_sha256"},
    ".safetensors": {"ss_training_started_at", "modelspec.date"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", metavar="COMMIT")
    parser.add_argument("--scenarios", nargs="+", choices=DEFAULT, default=DEFAULT)
    options = parser.parse_args()
    scenarios = {"quickstart": quickstart, "s3": killed_on_s3, "processes": two_processes}
    differs = False
    with tempfile.TemporaryDirectory(prefix="same-results-") as folder, worktree(options.commit) as before:
        for name in options.scenarios:
            began = time.monotonic()
            found = []
            for side, tree in (("before", before), ("now", ROOT)):
                (place := Path(folder) / name / side).mkdir(parents=True)
                found.append(values_of(scenarios[name](Code(tree, place))))
            differences = list(compare(*found))
            count, seconds = len(found[0].keys() | found[1].keys()), time.monotonic() - began
            outcome = f"{len(differences)} differences in {count} values" if differences else f"{count} values equal"
            print(f"{name}: {outcome} ({seconds:.0f} s)", flush=True)
            for difference in differences:
                print(f"  {name}: {difference}", flush=True)
            differs = differs or bool(differences)
    sys.exit(differs)


@contextlib.contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """The files of a commit, for as long as they are needed."""
    git = ("git", "-C", str(ROOT))
    with tempfile.TemporaryDirectory(prefix="same-results-tree-") as folder:
        tree = Path(folder) / "tree"
        subprocess.run([*git, "worktree", "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", str(tree)], check=True)


class Code:
    """A tree's command, in a folder of its own."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self.tree = tree
        self.folder = folder
        self.manifest = tree / "manifests" / "quickstart.yaml"
        # Threads that wait do not spin: that changes no number, and much time where others want the cores too.
        self._environment = {"OMP_WAIT_POLICY": "passive"} | dict(os.environ) | {"PYTHONPATH": str(tree)}
        self._commands = 0
        where = "import job, lora_engine; print(job.__file__, lora_engine.__file__)"
        imported = subprocess.run(
            [sys.executable, "-c", where], cwd=folder, env=self._environment, check=True, capture_output=True, text=True
        ).stdout.split()
        if not all(Path(file).is_relative_to(tree) for file in imported):
            sys.exit(f"Asked for the code in {tree}, Python imports {' and '.join(imported)}.")

    def drawings(self) -> list[Path]:
        """The first drawings that come with the package, and their captions."""
        (folder,) = self.tree.glob("lora_engine/**/drawings")
        return sorted(folder.glob("*-100000.*"))[: 2 * SMALL_DRAWINGS]

    def start(self, *options: str, sets: Mapping[str, object], env: Mapping[str, str] | None = None) -> "Started":
        """Start `lora-job run` on the quickstart's manifest."""
        self._commands += 1
        overrides = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
        work = self.folder / f"work-{self._commands}"
        command = [sys.executable, "-m", "job", "run", str(self.manifest), *overrides, "--workdir", str(work), *options]
        return Started(command, self.folder, self._environment | dict(env or {}), work.with_suffix(".log"))


class Started:
    """A command under way."""

    def __init__(self, command: list[str], folder: Path, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    def finish(self) -> str:
        """Wait for success; what the command said."""
        try:
            code = self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        said = self._log.read_text()
        if code:
            sys.exit(f"A run ended with {code}:\n{said[-4000:]}")
        return said

    def kill_when(self, reached: Callable[[], bool]) -> None:
        """Kill -9 at that moment."""
        deadline = time.monotonic() + SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            if reached():
                self.process.kill()
                self.process.wait()
                return
            time.sleep(0.02)
        self.process.kill()
        self.process.wait()
        sys.exit(f"A run was to be killed and ended before:\n{self._log.read_text()[-4000:]}")


def quickstart(code: Code) -> dict[str, bytes]:
    """The quickstart as its manifest says."""
    code.start(sets={"output.destination": code.folder / "runs"}).finish()
    return files_below(code.folder / "runs" / "quickstart")


def killed_on_s3(code: Code) -> dict[str, bytes]:
    """A run from and to a real store, killed when its first checkpoint is whole, and run to its end."""
    sys.path.insert(0, str(ROOT))
    from tests.s3_server import S3Server

    server = S3Server()
    try:
        client, bucket = server.client(), "study"
        client.create_bucket(Bucket=bucket)
        for path in code.drawings():
            client.upload_file(str(path), bucket, f"drawings/{path.name}")
        sets = SMALL | {
            "dataset.source": f"s3://{bucket}/drawings/",
            "output.destination": f"s3://{bucket}/runs",
            "storage": f"{{endpoint_url: '{server.endpoint_url}', region: us-east-1, addressing_style: path}}",
        }
        env = server.admin.environment() | {"OMP_NUM_THREADS": "1"}
        prefix = f"runs/{SMALL['name']}/"
        keys = functools.partial(keys_below, client, bucket, prefix)

        def first_checkpoint() -> bool:
            commits = [key for key in keys() if key.endswith("step-000002/COMMIT.json")]
            return len(commits) == len(SMALL_VARIANTS)

        code.start(sets=sets, env=env).kill_when(first_checkpoint)
        if "_SUCCESS" in keys():
            sys.exit("A run was to be killed and had ended before.")
        if '"event": "resumed"' not in (said := code.start(sets=sets, env=env).finish()):
            sys.exit(f"A run that was killed began anew:\n{said[-4000:]}")
        return {key: client.get_object(Bucket=bucket, Key=prefix + key)["Body"].read() for key in keys()}
    finally:
        server.stop()


def keys_below(client: Any, bucket: str, prefix: str) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    return [item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", ())]


def two_processes(code: Code) -> dict[str, bytes]:
    """A run of three packs that two processes share."""
    drawings = code.folder / "drawings"
    drawings.mkdir()
    for path in code.drawings():
        shutil.copy(path, drawings)
    sets = SMALL | {
        "split_packs_by": "[variant]",
        "dataset.source": drawings,
        "output.destination": code.folder / "runs",
    }
    env = {"OMP_NUM_THREADS": "1"}
    both = [code.start("--shard", f"{number}/2", sets=sets, env=env) for number in range(2)]
    try:
        for started in both:
            started.finish()
    finally:
        for started in both:
            started.process.kill()  # the other one, where one has failed
    files = files_below(code.folder / "runs" / "small")
    if "_SUCCESS" not in files:
        sys.exit("Both processes ended well, and there is no _SUCCESS.")
    return files


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def values_of(files: Mapping[str, bytes]) -> dict[tuple[str, str], str]:
    """All that must not vary: (file, value's name) to the value. What is not known to hold times counts to the byte."""
    found: dict[tuple[str, str], str] = {}
    for file, data in files.items():
        if file.startswith(OF_THE_ATTEMPT):
            continue
        times = {name for suffix, names in TIMES.items() if file.endswith(suffix) for name in names}
        if file.endswith(".safetensors"):
            values = tensors(data, times)
        elif file.endswith(".json"):
            values = leaves(json.loads(data), times)
        elif file.endswith(".jsonl"):
            values = leaves([json.loads(line) for line in data.splitlines()], times)
        else:
            values = iter([("bytes", hashlib.sha256(data).hexdigest())])
        found |= {(file, name): value for name, value in values}
    return found


def tensors(data: bytes, times: set[str]) -> Iterator[tuple[str, str]]:
    """Every tensor's type, shape and bytes, and the metadata."""
    for name, tensor in deserialize(data):
        yield name, f"{tensor['dtype']} {tensor['shape']} {hashlib.sha256(tensor['data']).hexdigest()}"
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    yield from leaves(header.get("__metadata__", {}), times, "metadata")


def leaves(value: Any, times: set[str], name: str = "") -> Iterator[tuple[str, str]]:
    """Every value of a document, written in full, by the keys that lead to it."""
    if isinstance(value, dict) and value:
        # a pointer to a checkpoint holds the hash of a file that says when the run began
        skipped = times | {"sha256"} if "checkpoint" in value else times
        for key, item in value.items():
            if key not in skipped:
                yield from leaves(item, times, f"{name}.{key}" if name else key)
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from leaves(item, times, f"{name}[{index}]")
    else:
        yield name, json.dumps(value)


def compare(before: Mapping[tuple[str, str], str], now: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """A line for every difference; one for a file that only one side has."""
    sides = {file for file, _ in before}, {file for file, _ in now}
    for file in sorted(sides[0] ^ sides[1]):
        yield f"{file}: only {'before' if file in sides[0] else 'now'}"
    for file, name in sorted(before.keys() | now.keys()):
        then, after = before.get((file, name), "nothing"), now.get((file, name), "nothing")
        if file in sides[0] & sides[1] and then != after:
            yield f"{file}: {name}: {then} before, {after} now"


if __name__ == "__main__":
    main()
