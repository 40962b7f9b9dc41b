"""Adapter files, read back by the programs that people load them with."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from lora_engine.adapters import formats, lora
from lora_engine.adapters.card import AdapterCard
from lora_engine.diffusion import PredictionType
from lora_engine.models import stable_diffusion
from lora_engine.models.files import LocalModel
from lora_engine.records import FileEntry
from tests.lora_engine.adapters.trained import CARD, LORA, alphas_of, unet_output


@pytest.fixture(scope="module")
def trained(all_layers: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    folder = tmp_path_factory.mktemp("trained")
    unet = stable_diffusion.load_unet(LocalModel(all_layers), torch.float32)
    lora.inject(unet, [("blip", 0), ("other", 1)], LORA)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in lora.parameters(unet, "blip").values():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    write(folder, unet)
    return unet, folder


def write(folder: Path, unet: nn.Module, card: AdapterCard = CARD) -> tuple[FileEntry, ...]:
    exported = lora.export(unet, "blip")
    return formats.write_checkpoint(folder, exported, alphas_of(exported), {"step": torch.tensor(1)}, card)


@pytest.mark.parametrize("name", ["blip.safetensors", "pytorch_lora_weights.safetensors"])
def test_both_files_give_the_training_models_output_in_a_pipeline(
    trained: tuple[nn.Module, Path], all_layers: Path, name: str
) -> None:
    unet, folder = trained
    lora.activate(unet, ["blip"])
    expected = unet_output(unet)
    lora.activate(unet, [])
    base = unet_output(unet)
    pipeline = StableDiffusionPipeline.from_pretrained(all_layers)
    pipeline.load_lora_weights(folder, weight_name=name)
    torch.testing.assert_close(unet_output(pipeline.unet), expected, rtol=1e-4, atol=1e-5)
    assert (expected - base).abs().max() > 1e-3


def test_kohya_file_holds_what_its_readers_compute_with(trained: tuple[nn.Module, Path]) -> None:
    unet, folder = trained
    state = load_file(folder / "blip.safetensors")
    assert len(state) == 3 * 128
    modules = dict(unet.named_modules())
    for name in [key.removesuffix(".alpha") for key in state if key.endswith(".alpha")]:
        down, up, alpha = (state[f"{name}.{part}"] for part in ("lora_down.weight", "lora_up.weight", "alpha"))
        layer = next(m for n, m in modules.items() if "lora_unet_" + n.replace(".", "_") == name)
        delta = up @ down * (alpha / down.shape[0])
        torch.testing.assert_close(delta, layer.get_delta_weight("blip"), rtol=0, atol=1e-6)


def test_an_export_is_what_peft_would_save(trained: tuple[nn.Module, Path]) -> None:
    unet, _ = trained
    for name in ("blip", "other"):
        exported, expected = lora.export(unet, name), get_peft_model_state_dict(unet, adapter_name=name)
        assert list(exported) == list(expected)
        assert all(torch.equal(exported[key], value) for key, value in expected.items())


def test_metadata_is_what_programs_show(trained: tuple[nn.Module, Path]) -> None:
    with safe_open(trained[1] / "blip.safetensors", "pt") as file:
        kohya = file.metadata()
    with safe_open(trained[1] / "pytorch_lora_weights.safetensors", "pt") as file:
        diffusers = file.metadata()
    assert kohya["ss_network_dim"] == "3"
    assert kohya["ss_network_alpha"] == "5.0"
    assert kohya["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert json.loads(kohya["ss_tag_frequency"]) == {"blip": {"a heart": 2}}
    assert "lora_adapter_metadata" not in kohya
    described = json.loads(diffusers["lora_adapter_metadata"])
    assert described["unet.lora_alpha"] == 5.0
    # every version of diffusers that reads these at all makes a PEFT configuration of them; 0.34 to 0.39 ask for all
    asked = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules")
    assert set(described) == {f"unet.{key}" for key in asked}


@pytest.mark.parametrize(
    ("width", "prediction", "expected"),
    [
        (768, "epsilon", ("False", "sd_v1", "stable-diffusion-v1/lora", "epsilon")),
        (1024, "epsilon", ("True", "sd_v2", "stable-diffusion-v2-512/lora", "epsilon")),
        (1024, "v_prediction", ("True", "sd_v2_v", "stable-diffusion-v2-768-v/lora", "v")),
    ],
)
def test_the_metadata_name_the_base_models_version(
    trained: tuple[nn.Module, Path],
    tmp_path: Path,
    width: int,
    prediction: PredictionType,
    expected: tuple[str, ...],
) -> None:
    """As kohya's do; programs show an adapter only beside models of its version."""
    write(tmp_path, trained[0], replace(CARD, text_width=width, prediction_type=prediction))
    with safe_open(tmp_path / "blip.safetensors", "pt") as file:
        found = file.metadata()
    keys = ("ss_v2", "ss_base_model_version", "modelspec.architecture", "modelspec.prediction_type")
    assert tuple(found[key] for key in keys) == expected


def test_listed_entries_are_the_files(trained: tuple[nn.Module, Path], tmp_path: Path) -> None:
    unet, _ = trained
    out = tmp_path / "again"
    out.mkdir()
    entries = write(out, unet)
    assert [entry.path for entry in entries] == sorted(path.name for path in out.iterdir())
    assert [entry.size for entry in entries] == [path.stat().st_size for path in sorted(out.iterdir())]


@pytest.mark.parametrize("name", ["state", "pytorch_lora_weights"])
def test_an_adapter_named_as_another_file_is_refused(
    trained: tuple[nn.Module, Path], tmp_path: Path, name: str
) -> None:
    """One file would replace the other without a word."""
    with pytest.raises(ValueError, match=name):
        write(tmp_path, trained[0], replace(CARD, name=name))
    assert not list(tmp_path.iterdir())


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"\0" * 40)
    with pytest.raises(ValueError, match=r"state\.safetensors is damaged"):
        formats.read_state(path)
