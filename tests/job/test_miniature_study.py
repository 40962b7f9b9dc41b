"""The quickstart study as users run it, held to its figures.

docs/decisions/005-miniature.md has the figures of five seeds that the bounds leave room around.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from lora_engine import miniature
from lora_engine.evaluation.clip_score import retrieval
from lora_engine.evaluation.line_art import Measures, distances, measure
from lora_engine.models.clip import load_clip
from lora_engine.models.files import LocalModel
from tests.lora_job import COLD, ROOT, lora_job, start, stop_at

LOSS_SHARE = 0.75  # of the base model's, that is left at the end at most
RETRIEVAL = 0.8  # of six prompts; chance is 0.17
ALIKE = 1e-3  # relative; kernels round differently at other batch sizes


def arguments(folder: Path, every: int, *more: str) -> list[str | Path]:
    sets = [f"evaluation.every={every}", f"output.destination={folder}", *more]
    options = [part for line in sets for part in ("--set", line)]
    return ["run", ROOT / "manifests" / "quickstart.yaml", *options, "--workdir", folder / "scratch"]


def report(folder: Path) -> dict[str, dict[str, Any]]:
    comparison = json.loads((folder / "quickstart" / "report" / "comparison.json").read_text())
    return {member["variant"]: member for member in comparison["members"]}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, uninterrupted: three variants in one pack."""
    folder = tmp_path_factory.mktemp("straight")
    command, environ = [COLD, *arguments(folder, 200)], os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_training_lowers_the_loss_on_held_out_drawings(straight: Path) -> None:
    for name, member in report(straight).items():
        print(name, member["base_loss"], member["final_loss"])
        assert member["final_loss"] <= LOSS_SHARE * member["base_loss"]


@pytest.mark.parametrize("variant", ["vanilla", "blip"])
def test_stickers_become_line_art(straight: Path, variant: str) -> None:
    first, *_, last = report(straight)[variant]["samples"]
    print(first, last)
    assert last["line_art_distance"] <= 0.5 * first["line_art_distance"]


def test_captions_that_name_the_subject_keep_it(straight: Path) -> None:
    first, *_, last = report(straight)["blip"]["samples"]
    print(first, last)
    assert first["clip_retrieval"] >= RETRIEVAL
    assert last["clip_retrieval"] >= RETRIEVAL


def test_hints_draw_line_art_with_the_adapter_that_learned_them(straight: Path) -> None:
    """In diffusers, as a user would: the prompts with blip_plus's hints, without and with its adapter.

    The base model makes black blots of the hints, which name nothing.
    """
    run = straight / "quickstart"
    folder = run / "variants" / "blip_plus" / "seed-1337"
    manifest = json.loads((run / "resolved.json").read_text())["manifest"]
    prompts = manifest["evaluation"]["samples"]["prompts"]
    hints = next(v["captions"]["style_hints"] for v in manifest["variants"] if v["name"] == "blip_plus")
    pipeline = StableDiffusionPipeline.from_pretrained(miniature.folder("stable-diffusion"), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    training = _rows(run / "data" / "line_art.jsonl")
    reference = [Measures(**{name: value for name, value in row.items() if name != "id"}) for row in training]

    def drawn() -> list[Image.Image]:
        return pipeline(
            [f"{prompt}, {hints}" for prompt in prompts],
            num_inference_steps=20,
            guidance_scale=3,
            generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
        ).images

    def distance(pictures: list[Image.Image]) -> float:
        found = distances([measure(picture) for picture in pictures], reference)
        return sum(found.values()) / len(found)

    def named(pictures: list[Image.Image]) -> float:
        return retrieval(clip.cosines(pictures, prompts), range(len(prompts)))

    clip = load_clip(LocalModel(miniature.folder("clip")), torch.device("cpu"))
    base = drawn()
    pipeline.load_lora_weights(folder / "checkpoints" / "step-000200", weight_name="pytorch_lora_weights.safetensors")
    adapted = drawn()
    stickers = report(straight)["blip_plus"]["samples"][0]["line_art_distance"]
    print(stickers, distance(base), distance(adapted), named(base), named(adapted))
    assert distance(adapted) <= 0.25 * stickers
    assert distance(adapted) < distance(base)
    assert named(adapted) >= 0.5 > named(base)


def test_the_captioner_names_what_is_drawn(straight: Path) -> None:
    images = _rows(straight / "quickstart" / "data" / "images.jsonl")
    subjects = {row["id"]: row["source"].split("-")[0] for row in images}
    captions = _rows(straight / "quickstart" / "data" / "captions" / "blip.jsonl")
    right = [subjects[row["id"]] in row["texts"][0].split() for row in captions]
    assert sum(right) >= 0.9 * len(right)


@pytest.mark.slow
def test_interruption_and_packing_leave_the_figures_unchanged(straight: Path, tmp_path: Path) -> None:
    """One variant alone, stopped after its first checkpoint and started again, against the same one in its pack."""
    blip = "variants=[{name: blip, captions: {strategy: blip}}]"
    same_cache = f"output.cache={straight / '.cache'}"
    command = arguments(tmp_path, 100, blip, "evaluation.samples.when=end", same_cache)
    commit = tmp_path / "quickstart/variants/blip/seed-1337/checkpoints/step-000100/COMMIT.json"
    started = start(*command)
    assert stop_at(commit, started) == 51, started.stderr
    done = lora_job(*command)
    assert done.returncode == 0, done.stderr
    packed, alone = report(straight)["blip"], report(tmp_path)["blip"]
    assert alone["fairness"] == packed["fairness"]
    own = [member["validation"][-1]["caption_sets"]["blip"] for member in (packed, alone)]
    print(own, packed["samples"][-1], alone["samples"][-1])
    assert own[1] == pytest.approx(own[0], rel=ALIKE)
    for figure in ("line_art_distance", "clip_score"):
        assert alone["samples"][-1][figure] == pytest.approx(packed["samples"][-1][figure], rel=10 * ALIKE)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
