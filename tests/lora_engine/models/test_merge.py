"""LoRAs that are merged into a base model, against diffusers' own merging, and the formula."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_engine.adapters.lora_file import LoraLayer
from lora_engine.errors import ModelError
from lora_engine.models import merge, stable_diffusion
from lora_engine.models.files import LocalModel, Merge
from tests.lora_files import drawn_layers, write_diffusers, write_kohya

_TEXT = "text_encoder.text_model.encoder.layers"


def base(miniature: Path, *merges: Merge) -> LocalModel:
    return LocalModel(miniature / "sd", merge=merges)


def layers_of(miniature: Path, *, dora: bool = False) -> dict[str, LoraLayer]:
    """One of each kind: attention, convolutions of one pixel and of more, the text encoder; alphas unlike ranks."""
    shapes = merge.layer_shapes(base(miniature))
    attention = next(name for name in shapes if name.endswith("attn2.to_k"))
    sizes = {attention: (3, 2.0), f"{_TEXT}.0.self_attn.q_proj": (2, 1.0), f"{_TEXT}.1.mlp.fc1": (2, 1.0)}
    if not dora:
        sizes |= {next(name for name in shapes if name.endswith(end)): (2, 3.0) for end in ("proj_in", "conv1")}
    return drawn_layers(sizes, shapes, dora=dora)


def weights(model: LocalModel, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    unet = stable_diffusion.load_unet(model, dtype)
    _, text_encoder = stable_diffusion.load_text_encoder(model, dtype)
    return dict(unet.state_dict()) | {merge.named_in_files(n): w for n, w in text_encoder.state_dict().items()}


def as_others_merge(miniature: Path, folder: Path, layers: dict[str, LoraLayer], strength: float) -> dict[str, Tensor]:
    """The UNet as diffusers merges; of the text encoder, which it finds under no name in some versions, the formula."""
    from diffusers import StableDiffusionPipeline

    file = write_diffusers(folder, {name: layer for name, layer in layers.items() if not name.startswith("text_")})
    pipeline: Any = StableDiffusionPipeline.from_pretrained(miniature / "sd", safety_checker=None)
    pipeline.load_lora_weights(str(file.parent), weight_name=file.name)
    pipeline.fuse_lora(lora_scale=strength)
    pipeline.unload_lora_weights()
    result = weights(base(miniature)) | dict(pipeline.unet.state_dict())
    for name, layer in layers.items():
        if name.startswith("text_encoder."):
            weight = result[f"{name}.weight"].double()
            merged = weight + (layer.up.double() @ layer.down.double()) * (layer.alpha / len(layer.down))
            if layer.magnitude is not None:
                merged *= (layer.magnitude / merged.norm(dim=1)).unsqueeze(1)
            result[f"{name}.weight"] = (weight + strength * (merged - weight)).float()
    return result


@pytest.mark.parametrize("strength", [1.0, -0.5])
@pytest.mark.parametrize("is_kohya", [True, False])
def test_what_is_merged_is_what_diffusers_merges(
    miniature: Path, tmp_path: Path, strength: float, is_kohya: bool
) -> None:
    layers = layers_of(miniature)
    write = write_kohya(tmp_path / "a.safetensors", layers) if is_kohya else write_diffusers(tmp_path, layers)
    model = base(miniature, Merge(write, strength))
    stable_diffusion.require_weights(model)
    found, wanted = weights(model), as_others_merge(miniature, tmp_path / "unet", layers, strength)
    before = weights(base(miniature))
    assert found.keys() == before.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, wanted[name], rtol=0, atol=1e-6)
        is_changed = not torch.equal(weight, before[name])
        assert is_changed == (name.removesuffix(".weight") in layers and name.endswith(".weight")), name


def test_dora_is_merged_as_diffusers_merges_it_and_a_part_of_it_is_that_part_of_the_way(
    miniature: Path, tmp_path: Path
) -> None:
    layers = layers_of(miniature, dora=True)
    kohya = write_kohya(tmp_path / "a.safetensors", layers)
    before, wanted = weights(base(miniature)), as_others_merge(miniature, tmp_path / "unet", layers, 1.0)
    whole, half = (weights(base(miniature, Merge(kohya, strength))) for strength in (1.0, 0.5))
    for name, weight in whole.items():
        torch.testing.assert_close(weight, wanted[name], rtol=0, atol=1e-5)
        torch.testing.assert_close(half[name], (before[name] + weight) / 2, rtol=0, atol=1e-6)


def test_sums_are_of_fp32_and_a_strength_of_0_changes_no_bit(miniature: Path, tmp_path: Path) -> None:
    file = write_kohya(tmp_path / "a.safetensors", layers_of(miniature))
    exact, rounded = (weights(base(miniature, Merge(file, 0.7)), dtype) for dtype in (torch.float32, torch.bfloat16))
    untouched, none = (weights(base(miniature, *merges)) for merges in ((), (Merge(file, 0.0),)))
    for name, weight in exact.items():
        assert torch.equal(rounded[name], weight.to(rounded[name].dtype)), name
        assert torch.equal(none[name], untouched[name]), name


def test_into_a_pickle_the_same_is_merged_and_what_overflows_is_refused(miniature: Path, tmp_path: Path) -> None:
    layers = layers_of(miniature)
    file = write_kohya(tmp_path / "a.safetensors", layers)
    folder = Path(shutil.copytree(miniature / "sd", tmp_path / "sd"))
    (stored,) = (folder / "unet").glob("*.safetensors")
    torch.save(load_file(stored), stored.with_suffix(".bin"))
    stored.unlink()
    found = weights(LocalModel(folder, allow_pickle=True, merge=(Merge(file, 0.7),)))
    for name, weight in weights(base(miniature, Merge(file, 0.7))).items():
        assert torch.equal(found[name], weight), name
    huge = {
        name: replace(layer, alpha=1e9, down=layer.down * 1e9, up=layer.up * 1e30) for name, layer in layers.items()
    }
    merged = Merge(write_kohya(tmp_path / "b.safetensors", huge), 1.0)
    for model in (LocalModel(folder, allow_pickle=True, merge=(merged,)), base(miniature, merged)):
        with pytest.raises(ModelError, match="not finite"):
            stable_diffusion.load_unet(model, torch.float32)


def test_merges_add_up_and_those_of_the_text_encoder_are_told(miniature: Path, tmp_path: Path) -> None:
    layers = layers_of(miniature)
    of_unet = {name: layer for name, layer in layers.items() if not name.startswith("text_encoder.")}
    both, one = write_kohya(tmp_path / "a.safetensors", layers), write_kohya(tmp_path / "b.safetensors", of_unet)
    twice, once = weights(base(miniature, Merge(both, 1.0), Merge(one, -1.0))), weights(base(miniature))
    for name, weight in twice.items():
        is_text = name.startswith("text_encoder.")
        assert is_text or torch.allclose(weight, once[name], rtol=0, atol=1e-6), name
    facts = list(merge.text_encoder_facts(base(miniature, Merge(both, 0.5), Merge(one, 1.0), Merge(both, 0.0))))
    assert facts == [f"merged {LocalModel(both).sha256} 0.5"]


def test_what_the_base_model_lacks_is_refused_by_name(miniature: Path, tmp_path: Path) -> None:
    shapes = merge.layer_shapes(base(miniature))
    name = next(name for name in shapes if name.endswith("attn1.to_q"))
    wide = {name: (shapes[name][0] * 2, shapes[name][1])}
    elsewhere = "down_blocks.3.attentions.1.transformer_blocks.0.attn1.to_q"
    for layers, told in (
        (drawn_layers({name: (2, 2.0)}, wide), rf"{name} of {wide[name][0]}x{wide[name][1]}; the base model's is"),
        (drawn_layers({elsewhere: (2, 2.0)}, {elsewhere: (8, 8)}), f"{elsewhere}, a layer that the base model lacks"),
    ):
        file = write_kohya(tmp_path / "a.safetensors", layers)
        with pytest.raises(ModelError, match=told):
            stable_diffusion.require_weights(base(miniature, Merge(file, 1.0)))
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(ModelError, match="no low-rank weight"):
        stable_diffusion.require_weights(base(miniature, Merge(tmp_path / "b.safetensors", 1.0)))


@pytest.mark.parametrize("end", ["attn2.to_k", "0.self_attn.q_proj"])
def test_sums_that_the_dtype_cannot_hold_are_refused(miniature: Path, tmp_path: Path, end: str) -> None:
    shapes = merge.layer_shapes(base(miniature))
    layers = drawn_layers({next(name for name in shapes if name.endswith(end)): (2, 2e7)}, shapes)
    model = base(miniature, Merge(write_kohya(tmp_path / "a.safetensors", layers), 10.0))
    assert all(bool(weight.isfinite().all()) for weight in weights(model).values())
    with pytest.raises(
        ModelError, match=r"\(as float16\) holds values that are not finite with what base_model.merge adds"
    ):
        weights(model, torch.float16)
