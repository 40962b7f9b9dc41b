"""Base models with an adapter in their weights compute as the base model with the adapter beside it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lora_engine.adapters.lora_file import LoraFile, LoraLayer
from lora_engine.errors import ModelError
from lora_engine.models.files import LocalModel
from lora_engine.models.merged_checkpoint import MergeOrder, merge_file, merge_folder
from lora_engine.models.single_file import convert_single_file
from tests.single_file import checkpoint_of

LAYERS = (  # of the UNet and of the text encoder: linear ones, and convolutions of one pixel and of nine
    "down_blocks.0.attentions.0.proj_in",
    "down_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k",
    "down_blocks.2.downsamplers.0.conv",
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
    "mid_block.resnets.1.conv1",
    "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj",
    "up_blocks.1.resnets.0.conv_shortcut",
    "up_blocks.2.resnets.1.time_emb_proj",
    "up_blocks.1.upsamplers.0.conv",
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
    "text_encoder.text_model.encoder.layers.1.self_attn.v_proj",
    "text_encoder.text_model.encoder.layers.1.self_attn.out_proj",
    "text_encoder.text_model.encoder.layers.0.mlp.fc1",
)


def pipeline_of(folder: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)


def layer_of(pipeline: StableDiffusionPipeline, name: str) -> nn.Module:
    if not name.startswith("text_encoder."):
        return pipeline.unet.get_submodule(name)
    encoder = getattr(pipeline.text_encoder, "text_model", pipeline.text_encoder)
    return encoder.get_submodule(name.removeprefix("text_encoder.text_model."))


def adapter_for(folder: Path, *, dora: bool = False) -> LoraFile:
    """An adapter for those layers, whose updates are about as large as a fifth of the weights."""
    pipeline, dice = pipeline_of(folder), torch.Generator().manual_seed(0)
    layers = {}
    for name in LAYERS:
        weight = layer_of(pipeline, name).weight.detach()
        down = torch.randn(2, *weight.shape[1:], generator=dice)
        up = torch.randn(len(weight), 2, *[1] * (weight.ndim - 2), generator=dice)
        size = 0.2 * weight.norm() / (up.flatten(1) @ down.flatten(1)).norm()
        norms = weight.flatten(1).norm(dim=1) * (1 + 0.1 * torch.rand(len(weight), generator=dice)) if dora else None
        layers[name] = LoraLayer(down * size, up, 2.0, norms)
    return LoraFile(layers, {})


def by_hand(folder: Path, lora: LoraFile, strength: float) -> StableDiffusionPipeline:
    """The pipeline with the adapter's effect added to its weights one by one, in fp64."""
    pipeline = pipeline_of(folder)
    for name, layer in lora.layers.items():
        weight = layer_of(pipeline, name).weight
        base = weight.detach().double()
        after = base + torch.einsum("or,r...->o...", layer.up.flatten(1).double(), layer.down.double())
        if layer.magnitude is not None:
            norms = after.flatten(1).norm(dim=1)
            after = after * (layer.magnitude / norms).view(-1, *[1] * (base.ndim - 1))
        weight.data = (base + strength * (after - base)).float()
    return pipeline


def outputs(pipeline: StableDiffusionPipeline) -> tuple[Tensor, Tensor]:
    """What UNet and text encoder compute."""
    dice = torch.Generator().manual_seed(0)
    words = pipeline.tokenizer(["a heart", ""], padding="max_length", return_tensors="pt").input_ids
    with torch.inference_mode():
        text = pipeline.text_encoder(words).last_hidden_state
        latents = torch.randn(2, 4, 8, 8, generator=dice)
        return text, pipeline.unet(latents, torch.tensor([10, 900]), text).sample


def assert_alike(found: StableDiffusionPipeline, expected: StableDiffusionPipeline, base: Path) -> None:
    for ours, theirs, before in zip(outputs(found), outputs(expected), outputs(pipeline_of(base)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
        assert (ours - before).abs().max() > 1e-2


@pytest.mark.parametrize(("dora", "strength"), [(False, 1.0), (True, 0.7)])
def test_a_folder_with_the_adapter_computes_as_base_and_adapter(
    all_layers: Path, tmp_path: Path, dora: bool, strength: float
) -> None:
    lora, folder = adapter_for(all_layers, dora=dora), tmp_path / "merged"
    merge_folder(LocalModel(all_layers), MergeOrder(lora, strength, torch.float32, {"made": "so"}), folder)
    assert_alike(pipeline_of(folder), by_hand(all_layers, lora, strength), all_layers)
    with safe_open(folder / "unet" / "diffusion_pytorch_model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "made": "so"}
    index = json.loads((folder / "model_index.json").read_text())
    parts = {name for name, entry in index.items() if isinstance(entry, list) and entry[0] is not None}
    assert {part.name for part in folder.iterdir() if part.is_dir()} == parts


@pytest.mark.parametrize("open_clip", [None, "cond_stage_model.model."])
def test_one_file_with_the_adapter_computes_as_base_and_adapter_and_keeps_its_names(
    all_layers: Path, tmp_path: Path, open_clip: str | None
) -> None:
    average = {f"model_ema.{number}": torch.zeros(1) for number in range(2)}
    whole = {name: tensor.contiguous() for name, tensor in checkpoint_of(all_layers, open_clip).items()}
    said = {"modelspec.title": "base", "modelspec.hash_sha256": "0"}
    save_file(whole | average, tmp_path / "base.safetensors", said)
    lora, merged = adapter_for(all_layers), tmp_path / "merged.safetensors"
    merge_file(tmp_path / "base.safetensors", MergeOrder(lora, 0.5, None, {"made": "so"}), merged)
    assert load_file(merged).keys() == whole.keys()
    with safe_open(merged, framework="pt") as file:
        assert file.metadata() == {"modelspec.title": "base", "made": "so"}
    convert_single_file(merged, all_layers, tmp_path / "folder")
    assert_alike(pipeline_of(tmp_path / "folder"), by_hand(all_layers, lora, 0.5), all_layers)


def test_weights_keep_their_type_or_get_the_one_that_is_asked_for(all_layers: Path, tmp_path: Path) -> None:
    whole = {name: tensor.to(torch.float16) for name, tensor in checkpoint_of(all_layers).items()}
    whole["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(whole, tmp_path / "base.safetensors")
    for dtype, expected in ((None, torch.float16), (torch.bfloat16, torch.bfloat16)):
        merge_file(
            tmp_path / "base.safetensors", MergeOrder(adapter_for(all_layers), 1, dtype, {}), tmp_path / "m.safetensors"
        )
        found = load_file(tmp_path / "m.safetensors")
        assert {tensor.dtype for tensor in found.values()} == {expected, torch.int64}
    huge = {name: layer for name, layer in adapter_for(all_layers).layers.items() if "conv1" in name}
    huge = {name: replace(layer, alpha=1e9) for name, layer in huge.items()}
    with pytest.raises(
        ModelError, match=r"middle_block\.2\.in_layers\.2\.weight holds numbers that float16 cannot hold"
    ):
        merge_file(
            tmp_path / "base.safetensors", MergeOrder(LoraFile(huge, {}), 1, None, {}), tmp_path / "m.safetensors"
        )


def test_an_adapter_of_another_base_model_is_refused(all_layers: Path, tmp_path: Path) -> None:
    lora = adapter_for(all_layers)
    save_file(checkpoint_of(all_layers), tmp_path / "base.safetensors")
    first = lora.layers[LAYERS[0]]
    others = {
        "of which 1 are not in": LoraFile({**lora.layers, "down_blocks.7.resnets.0.conv1": first}, {}),
        "proj_in: the adapter's layer is for weights of": LoraFile({LAYERS[0]: replace(first, up=first.up[1:])}, {}),
    }
    for said, other in others.items():
        merge = MergeOrder(other, 1, None, {})
        with pytest.raises(ModelError, match=said):
            merge_file(tmp_path / "base.safetensors", merge, tmp_path / "merged.safetensors")
        with pytest.raises(ModelError, match=said):
            merge_folder(LocalModel(all_layers), merge, tmp_path / "merged" / said[:8])
    assert not (tmp_path / "merged.safetensors").exists()
