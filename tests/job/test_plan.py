"""What `lora-job plan` says can be counted from the manifest, and follows what it depends on."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_engine.training import estimate
from miniature.architecture import SD_15, make_stable_diffusion
from tests.job.small_run import VANILLA, arguments
from tests.lora_job import COLD, lora_job


def plan(miniature: Path, tmp_path: Path, *lines: str) -> dict[str, Any]:
    done = lora_job("plan", "--json", *arguments(miniature, tmp_path, *lines))
    assert done.returncode == 0, done.stderr
    planned: dict[str, Any] = json.loads(done.stdout)
    return planned


def test_images_files_and_bytes(miniature: Path, tmp_path: Path) -> None:
    planned = plan(miniature, tmp_path, "preprocess.resolution=128", "training.batch_size=3", "lora.rank=4")
    assert planned["images"] == 12
    assert planned["scratch_bytes"] == 12 * 128 * 128 * 3
    assert planned["packs"][0]["checkpoints"] == 2
    weights = 2 * 2 * 4 * estimate.PARAMETERS_PER_RANK  # variants, checkpoints, rank
    assert planned["checkpoint_bytes"] == weights * 20  # the state, and two exported files
    narrow = "{name: narrow, captions: {strategy: blip}, lora: {rank: 1}}"
    planned = plan(miniature, tmp_path, "lora.rank=4", f"variants=[{VANILLA}, {narrow}]")
    assert planned["checkpoint_bytes"] == weights // 8 * (4 + 1) * 20


def test_memory_follows_resolution_batch_and_precision(miniature: Path, tmp_path: Path) -> None:
    def memory(*lines: str) -> float:
        base = ("preprocess.resolution=384", "training.batch_size=1", "training.precision=fp32")
        return float(plan(miniature, tmp_path, *base, *lines)["memory_bytes"])

    one = memory()
    image = 1.15 * estimate.kept_bytes(384, 4)
    assert memory("training.batch_size=3") - one == pytest.approx(2 * 2 * image, rel=1e-6)  # of two variants
    larger = 1.15 * estimate.kept_bytes(768, 4)
    assert 3.9 < larger / image < 4  # not all of it is of pixels
    assert memory("preprocess.resolution=768") - one == pytest.approx(2 * (larger - image), rel=1e-6)
    halves = one - memory("training.precision=bf16")
    assert halves == pytest.approx(2 * estimate.UNET_PARAMETERS + 2 * image / 2, rel=1e-6)


@pytest.mark.slow
def test_a_run_of_the_real_size_takes_what_was_planned(miniature: Path, tmp_path: Path) -> None:
    """SD 1.5 with random weights on the CPU: 4.3 GB and two minutes."""
    make_stable_diffusion(tmp_path / "sd", sizes=SD_15, dtype=torch.float16)
    others = ", ".join(f"{{name: {name}, captions: {{strategy: constant, text: {name}}}}}" for name in ("ink", "line"))
    lines = {
        "base_model.source": tmp_path / "sd",
        "variants": f"[{VANILLA}, {others}]",
        "preprocess.resolution": 128,
        "training.steps": 2,
        "training.batch_size": 1,
        "training.precision": "fp32",
        "evaluation.samples": "null",
        "evaluation.timesteps": 1,
        "evaluation.final_timesteps": 1,
        "dataset.validation_min": 1,
    }
    command = arguments(miniature, tmp_path, *(f"{key}={value}" for key, value in lines.items()))
    planned = json.loads(lora_job("plan", "--json", *command).stdout)["memory_bytes"]
    done = subprocess.run([COLD, "run", *command], capture_output=True, text=True, check=True, cwd=tmp_path)
    said = [json.loads(line) for line in done.stderr.splitlines()]
    training = next(row for row in said if row["event"] == "memory of training")
    print(training)
    assert training["planned_mib"] == pytest.approx(planned / 2**20, abs=0.1)
    assert training["measured_mib"] == pytest.approx(planned / 2**20, rel=0.1)
    assert not [row for row in said if "lora-job plan says" in row["event"]]
