"""Make runs beside this file with the code of a checkout of an earlier version.

Usage: make.py CHECKOUT NAME..., of finished, interrupted, sampled and apart. The code is used by its command alone, so
that any version will do.
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
VARIANTS = ("constant", "existing")
# Of `sampled`, and of those who go on with it.
SAMPLES = (
    "evaluation.every=4",
    "evaluation.samples={prompts: [a heart, a sun], steps: 2, guidance: 3, clip: {source: 'miniature://clip'}}",
)
APART = ("variants.existing.lora.rank=2", "variants.existing.training.optimizer.learning_rate=1e-2")  # of `apart`
_SETS = {"sampled": SAMPLES, "apart": APART}
_KILLED = ("interrupted", "apart")
# Pictures of 100 KB that are left out, since no test reads them and `lora-job report` can make them.
LEFT_OUT = ("curves.png", "samples.png")
_PACKAGES = ("torch", "diffusers", "transformers", "peft", "numpy", "pillow")
_CPU = ("vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "flags")


def machine() -> dict[str, Any]:
    """The facts that decide how numbers are rounded: machines that agree in them make the same weights to the bit."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().partition("\n\n")[0].splitlines() if info.exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {
        "cpu": {key: facts.get(key) for key in _CPU},
        "architecture": platform.machine(),
        "torch": torch.__config__.show(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }


def start(checkout: Path, folder: Path, sets: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Start the run with these overrides, in a folder with the manifest and the images.

    So the run holds no path of this machine.
    """
    shutil.copytree(HERE / "images", folder / "images")
    shutil.copy(HERE / "manifest.yaml", folder)
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "job", "run", "manifest.yaml", "--workdir", "work"]
    for line in sets:
        command += ["--set", line]
    return subprocess.Popen(command, cwd=folder, env=environment)


def is_half_done(run: Path) -> bool:
    """Whether the checkpoints of step 2 of all members are committed and scored."""
    members = [run / "variants" / variant / "seed-1337" for variant in VARIANTS]
    return all(
        (member / "checkpoints" / "step-000002" / "COMMIT.json").exists()
        and (scores := member / "validation.jsonl").exists()
        and '"step": 2' in scores.read_text()
        for member in members
    )


def main() -> None:
    checkout, names = Path(sys.argv[1]).resolve(), sys.argv[2:]
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "runs" / "earlier"
            process = start(checkout, Path(folder), _SETS.get(name, ()))
            if name not in _KILLED:
                expected = 0
            else:
                while process.poll() is None and not is_half_done(run):
                    time.sleep(0.001)
                process.kill()
                expected = -signal.SIGKILL
            if process.wait() != expected:
                sys.exit(f"The run that was to be {name} ended with {process.returncode}.")
            shutil.rmtree(HERE / name, ignore_errors=True)
            shutil.copytree(run, HERE / name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    if "finished" in names:
        (HERE / "machine.json").write_text(json.dumps(machine(), indent=2) + "\n")


if __name__ == "__main__":
    main()
