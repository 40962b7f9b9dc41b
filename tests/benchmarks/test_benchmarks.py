import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_engine import miniature

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "ways"),
    [
        (
            ["benchmarks.preprocess", "--images", "3", "--rounds", "2"],
            ["bare loop", "bare loop, drafted down to the target", "preprocessing"],
        ),
        (
            [
                *("benchmarks.captioning", "--images", "3", "--rounds", "2", "--batch", "2", "--tokens", "2"),
                *("--model", str(miniature.folder("blip"))),
            ],
            ["single images", "captioning"],
        ),
        (
            [
                *("benchmarks.sampling", "--width", "32", "--resolution", "64", "--variants", "2", "--prompts", "2"),
                *("--steps", "1", "--rounds", "2"),
            ],
            ["single images", "adapter after adapter", "adapters together"],
        ),
        (
            [
                *("benchmarks.waiting", "--members", "1", "--updates", "1", "--rounds", "1", "--busy", "0"),
                *("--patience", "0", "--ways", "as-now"),
            ],
            ["as-now"],
        ),
    ],
)
def test_a_benchmark_prints_machine_and_table(command: list[str], ways: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'scripts'}"},
        capture_output=True,
        text=True,
        check=True,
    )
    machine, _, *table = done.stdout.splitlines()
    assert "cores" in machine
    assert "torch" in machine
    assert [row.split("|")[1].strip() for row in table[2:]] == ways
    assert table[2].split("|")[4].strip() == "1.00"
