"""Samples whose pixels are not finite: warned of, without a picture and a score, and the run goes on."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file as np_load
from safetensors.numpy import save_file as np_save
from safetensors.torch import load_file, save_file

from lora_engine.evaluation.pictures import MEASURES
from tests.job.small_run import arguments
from tests.lora_job import lora_job

SAMPLES = (
    "evaluation.samples.prompts=[a heart, a sun]",
    "evaluation.samples.seeds=[3]",
    "evaluation.samples.clip={source: 'miniature://clip'}",
)
ROWS = {"vanilla": 4, "blip": 2}  # of the constant text's adapter bare and as trained, which are one of the other's


def with_a_decoder_that_overflows(miniature: Path, tmp_path: Path) -> Path:
    """A copy of the base model whose VAE encodes as before and decodes to NaN, though its weights are numbers."""
    folder = tmp_path / "overflowing"
    shutil.copytree(miniature / "sd", folder)
    (file,) = (folder / "vae").glob("*.safetensors")
    weights = load_file(file)
    weights["decoder.conv_norm_out.weight"] = torch.full_like(weights["decoder.conv_norm_out.weight"], 3e38)
    save_file(weights, file, {"format": "pt"})
    return folder


@pytest.fixture
def run(miniature: Path, tmp_path: Path) -> tuple[Path, list[str | Path], str]:
    """A finished run with such a base model, its command and what it said."""
    model = with_a_decoder_that_overflows(miniature, tmp_path)
    command = ["run", *arguments(miniature, tmp_path, f"base_model.source={model}", *SAMPLES)]
    command += ["--workdir", tmp_path / "work"]
    done = lora_job(*command)
    assert done.returncode == 0, done.stderr
    return tmp_path / "runs" / "small", command, done.stderr


def indices(folder: Path, variant: str) -> list[dict[str, Any]]:
    """What is stored of a variant's samples at steps 0, 2 and 4."""
    paths = sorted(folder.glob(f"variants/{variant}/seed-*/samples/*/samples.json"))
    assert len(paths) == 3
    return [json.loads(path.read_text()) for path in paths]


def points(folder: Path) -> dict[str, list[dict[str, Any]]]:
    report = json.loads((folder / "report" / "comparison.json").read_text())
    return {member["variant"]: member["samples"] for member in report["members"]}


def test_they_are_warned_of_and_have_no_picture_and_no_score(run: tuple[Path, list[str | Path], str]) -> None:
    folder, command, said = run
    assert "the base model, step 0: the sample of 'a heart', seed 3, is not finite" in said
    assert "blip-seed-1337, step 4: the sample of 'a sun', seed 3, is not finite" in said
    assert not list(folder.rglob("samples/*/*.png"))
    for variant, count in ROWS.items():
        for index in indices(folder, variant):
            shown = [(row["file"], row["line_art"], row["clip_cosines"], row["likeness"]) for row in index["images"]]
            assert shown == [(None, None, None, None)] * count
            assert index["embeddings_sha256"] is None
        for point in points(folder)[variant]:
            for prompting in ("bare", "as_trained"):
                pictures = point[prompting]
                assert (pictures["images"], pictures["not_finite"]) == (0, 2)
                assert (pictures["measures"], pictures["change"]) == ({}, {})
                assert pictures["unmeasured"] == dict.fromkeys(MEASURES, "no picture is finite")
    report = json.loads((folder / "report" / "comparison.json").read_text())
    assert [pair["pictures"] for pair in report["pairs"]] == [{"bare": {}, "as_trained": {}}]
    with Image.open(folder / "report" / "samples.png") as grid:
        assert grid.width > 0
    again = lora_job(*command)
    assert again.returncode == 0, again.stderr
    assert '"event": "already done"' in again.stderr


def test_those_beside_them_are_measured(
    run: tuple[Path, list[str | Path], str], miniature: Path, tmp_path: Path
) -> None:
    """Of one prompt, the pictures of a step are finite after all: their scores are the step's."""
    folder, _, _ = run
    done = lora_job("run", *arguments(miniature, tmp_path, *SAMPLES, name="sound"), "--workdir", tmp_path / "sound")
    assert done.returncode == 0, done.stderr
    other = tmp_path / "runs" / "sound"
    for path in sorted(folder.rglob("samples/*/samples.json")):
        twin = other / path.relative_to(folder)
        index, whole = json.loads(path.read_text()), json.loads(twin.read_text())
        places = [at for at, row in enumerate(whole["images"]) if row["prompt"] == 0]
        for at in places:
            index["images"][at] = whole["images"][at]
            shutil.copy(twin.with_name(whole["images"][at]["file"]), path.parent)
        embeddings = np_load(twin.with_name("samples.safetensors"))["embeddings"][places]
        file = path.with_name("samples.safetensors")
        np_save({"embeddings": embeddings}, file)
        path.write_text(json.dumps(index | {"embeddings_sha256": hashlib.sha256(file.read_bytes()).hexdigest()}))
    assert lora_job("report", folder).returncode == 0
    for variant in ROWS:
        last = points(folder)[variant][-1]
        for prompting in ("bare", "as_trained"):
            pictures = last[prompting]
            assert (pictures["images"], pictures["not_finite"]) == (1, 1)
            (measured,) = [
                row
                for row in indices(folder, variant)[-1]["images"]
                if row["file"] and row["prompting"] in (prompting, "both")
            ]
            score = pictures["measures"]["clip_score"]
            assert score["mean"] == pytest.approx(100 * max(measured["clip_cosines"][0], 0))
            assert (score["low"], score["high"]) == (None, None)  # of one prompt
            assert pictures["measures"]["line_art_distance"]["mean"] > 0
            assert pictures["change"]["line_art_distance"]["mean"] != 0
            assert pictures["unmeasured"] == {
                "diversity": "one seed a prompt: two are needed",
                "kid": "too few pictures: 1, and 8 are needed",
                "cmmd": "too few pictures: 1, and 8 are needed",
            }
