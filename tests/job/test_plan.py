"""What `lora-job plan` says can be counted from the manifest, and follows what it depends on."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_engine import estimate
from tests.job.small_run import arguments
from tests.lora_job import lora_job


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


def test_memory_follows_resolution_batch_and_precision(miniature: Path, tmp_path: Path) -> None:
    def memory(*lines: str) -> float:
        base = ("preprocess.resolution=384", "training.batch_size=1", "training.precision=fp32")
        return float(plan(miniature, tmp_path, *base, *lines)["memory_bytes"])

    one = memory()
    image = 1.3 * estimate.kept_bytes(384, 4)
    assert memory("training.batch_size=3") - one == pytest.approx(2 * 2 * image, rel=1e-6)  # of two variants
    assert memory("preprocess.resolution=768") - one == pytest.approx(2 * 3 * image, rel=1e-6)
    halves = one - memory("training.precision=bf16")
    assert halves == pytest.approx(2 * estimate.UNET_PARAMETERS + 2 * image / 2, rel=1e-6)
