"""Samples whose pixels are not finite: warned of, without a picture and a score, and the run goes on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.job.small_run import arguments
from tests.lora_job import lora_job

SAMPLES = (
    "evaluation.samples.prompts=[a heart, a sun]",
    "evaluation.samples.seeds=[3]",
    "evaluation.samples.clip={source: 'miniature://clip'}",
)


def with_a_decoder_that_overflows(miniature: Path, tmp_path: Path) -> Path:
    """A copy of the base model whose VAE encodes as before and decodes to NaN."""
    folder = tmp_path / "overflowing"
    shutil.copytree(miniature / "sd", folder)
    (file,) = (folder / "vae").glob("*.safetensors")
    weights = load_file(file)
    weights["decoder.conv_out.bias"] = torch.full_like(weights["decoder.conv_out.bias"], float("nan"))
    save_file(weights, file, {"format": "pt"})
    return folder


@pytest.fixture
def run(miniature: Path, tmp_path: Path) -> tuple[Path, list[str | Path], str]:
    """A finished run with such a base model, its command and what it said."""
    model = with_a_decoder_that_overflows(miniature, tmp_path)
    lines = (
        f"base_model.source={model}",
        "evaluation.samples.prompts=[a heart, a sun]",
        "evaluation.samples.seeds=[3]",
    )
    command = ["run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "work"]
    done = lora_job(*command)
    assert done.returncode == 0, done.stderr
    return tmp_path / "runs" / "small", command, done.stderr


def indices(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("samples/*/samples.json"))]


def test_they_are_warned_of_and_have_no_picture_and_no_score(run: tuple[Path, list[str | Path], str]) -> None:
    folder, command, said = run
    assert "the base model, step 0: the sample of 'a heart', seed 3, is not finite" in said
    assert "blip-seed-1337, step 4: the sample of 'a sun', seed 3, is not finite" in said
    assert not list(folder.rglob("samples/*/*.png"))
    assert len(indices(folder)) == 6
    for index in indices(folder):
        shown = [(row["file"], row["line_art"], row["clip_cosines"]) for row in index["images"]]
        assert shown == [(None, None, None)] * 2
    report = json.loads((folder / "report" / "comparison.json").read_text())
    for member in report["members"]:
        for point in member["samples"]:
            assert (point["images"], point["not_finite"]) == (0, 2)
            assert (point["clip_score"], point["clip_retrieval"], point["line_art_distance"]) == (None, None, None)
    with Image.open(folder / "report" / "samples.png") as grid:
        assert grid.width > 0
    again = lora_job(*command)
    assert again.returncode == 0, again.stderr
    assert '"event": "already done"' in again.stderr


def test_those_beside_them_are_measured(
    run: tuple[Path, list[str | Path], str], miniature: Path, tmp_path: Path
) -> None:
    """One of two pictures of a step is finite after all: its scores are the step's."""
    folder, _, _ = run
    done = lora_job("run", *arguments(miniature, tmp_path, *SAMPLES, name="sound"), "--workdir", tmp_path / "sound")
    assert done.returncode == 0, done.stderr
    other = tmp_path / "runs" / "sound"
    for path in sorted(folder.rglob("samples/*/samples.json")):
        twin = other / path.relative_to(folder)
        index, whole = json.loads(path.read_text()), json.loads(twin.read_text())
        index["images"][0] = whole["images"][0]
        path.write_text(json.dumps(index))
        shutil.copy(twin.with_name(whole["images"][0]["file"]), path.parent)
    assert lora_job("report", folder).returncode == 0
    report = json.loads((folder / "report" / "comparison.json").read_text())
    point = report["members"][0]["samples"][-1]
    assert (point["images"], point["not_finite"]) == (1, 1)
    (measured,) = [row for row in indices(folder)[-1]["images"] if row["file"]]
    point = report["members"][-1]["samples"][-1]
    assert point["clip_score"] == pytest.approx(100 * max(measured["clip_cosines"][0], 0))
    assert point["line_art_distance"] > 0
