"""The studies of the text encoder and of kohya's layers that come with the package, on fewer images and steps."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file

from tests.job.test_end_to_end import few_drawings
from tests.lora_job import ROOT, lora_job

STUDIES = ("text-encoder", "kohya-defaults")
STEPS = 4
SHORT = {
    "dataset.validation_min": 6,
    "training.steps": STEPS,
    "training.batch_size": 2,
    "training.schedule.warmup_steps": 1,
    "evaluation.every": 2,
    "evaluation.samples": "null",
}


@pytest.fixture(scope="module")
def runs(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a short run of each study."""
    folder = tmp_path_factory.mktemp("text-encoders")
    drawings = few_drawings(folder / "drawings")
    for name in STUDIES:
        sets = SHORT | {"base_model.source": miniature / "sd", "dataset.source": drawings}
        sets |= {"output.destination": folder / "runs"}
        if name == "text-encoder":
            sets["variants.half-way.lora.text_encoder.stop_after"] = STEPS // 2
        options = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
        done = lora_job("run", ROOT / "manifests" / f"{name}.yaml", *options, "--workdir", folder / "work")
        assert done.returncode == 0, done.stderr
    return {name: folder / "runs" / name for name in STUDIES}


def report(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "report" / "comparison.json").read_text())
    return found


def variants(name: str) -> list[str]:
    manifest = yaml.safe_load((ROOT / "manifests" / f"{name}.yaml").read_text())
    return [variant["name"] for variant in manifest["variants"]]


def kinds(path: Path) -> dict[str, set[str]]:
    """The layers in an adapter's file for A1111 and ComfyUI, those of the UNet and those of the text encoder."""
    layers = {key.partition(".")[0] for key in load_file(path)}
    return {part: {layer for layer in layers if layer.startswith(part)} for part in ("lora_unet_", "lora_te_")}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_trains_in_one_pack_and_is_fair(runs: dict[str, Path], name: str) -> None:
    found = report(runs[name])
    assert [pack["members"] for pack in found["packs"]] == [[f"{each}/seed-1337" for each in variants(name)]]
    assert found["fair"] == {"1337": True}
    assert all(pair["withheld"] == [] and pair["verdict"] for pair in found["pairs"])
    assert len({member["final_loss"] for member in found["members"]}) == len(found["members"])
    page = (runs[name] / "report" / "report.html").read_text()
    assert all(each in page for each in variants(name))


def test_what_trains_the_text_encoder_has_its_layers_in_its_file(runs: dict[str, Path]) -> None:
    for name in variants("text-encoder"):
        found = kinds(runs["text-encoder"] / "adapters" / f"{name}.safetensors")
        assert bool(found["lora_te_"]) == (name != "unet")
        assert not any("proj_in" in layer or "_ff_" in layer for layer in found["lora_unet_"])
    found = kinds(runs["kohya-defaults"] / "adapters" / "kohya.safetensors")
    assert {"proj_in", "proj_out", "ff_net_0_proj", "ff_net_2"} <= {
        end
        for layer in found["lora_unet_"]
        for end in ("proj_in", "proj_out", "ff_net_0_proj", "ff_net_2")
        if end in layer
    }
    assert found["lora_te_"]


def test_a_text_encoder_that_is_stopped_stays_as_it_is(runs: dict[str, Path]) -> None:
    def weights(variant: str, step: int, part: str) -> dict[str, Any]:
        folder = runs["text-encoder"] / "variants" / variant / "seed-1337" / "checkpoints" / f"step-{step:06}"
        found = load_file(folder / f"{variant}.safetensors")
        return {key: value for key, value in found.items() if key.startswith(part) and not key.endswith(".alpha")}

    for variant, moves in (("half-way", False), ("same-rate", True)):
        first, last = (weights(variant, step, "lora_te_") for step in (STEPS // 2, STEPS))
        assert first.keys() == last.keys()
        assert any((first[key] != last[key]).any() for key in first) == moves
        first, last = (weights(variant, step, "lora_unet_") for step in (STEPS // 2, STEPS))
        assert any((first[key] != last[key]).any() for key in first)


def test_the_sentence_says_what_the_two_differ_in(runs: dict[str, Path]) -> None:
    pairs = {pair["b"]: pair for pair in report(runs["text-encoder"])["pairs"]}
    assert list(pairs) == variants("text-encoder")[1:]
    assert all(pair["factor"] == ["lora.text_encoder"] for pair in pairs.values())
    sentence = pairs["same-rate"]["verdict"]["sentence"]
    assert "the adapter without the text encoder (unet)" in sentence
    assert "the adapter with the text encoder (same-rate)" in sentence
    (pair,) = report(runs["kohya-defaults"])["pairs"]
    assert pair["factor"] == ["lora.target_modules", "lora.text_encoder"]


def test_a_finished_study_is_left_alone(runs: dict[str, Path], tmp_path: Path) -> None:
    run = shutil.copytree(runs["kohya-defaults"], tmp_path / "kohya-defaults")
    done = lora_job("verify", run)
    assert done.returncode == 0, done.stderr
