"""Writes files of LoRAs in kohya's and diffusers' formats, by what the formats are known to be."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from lora_engine.adapters.lora_file import LoraLayer

Sizes = Mapping[str, tuple[int, float]]  # layer, as `LoraFile` names it, to its rank and alpha


def drawn_layers(
    sizes: Sizes, shapes: Mapping[str, tuple[int, ...]], seed: int = 0, *, dora: bool = False
) -> dict[str, LoraLayer]:
    """Random weights for these layers, of a size that changes what the model computes, but not beyond recognition."""
    generator = torch.Generator().manual_seed(seed)
    result = {}
    for name, (rank, alpha) in sizes.items():
        out, *inside = shapes[name]
        down = torch.randn(rank, *inside, generator=generator) / 4
        up = torch.randn(out, rank, *[1] * (len(inside) - 1), generator=generator) / 4
        magnitude = 0.5 + torch.rand(out, generator=generator) if dora else None
        result[name] = LoraLayer(down, up, alpha, magnitude)
    return result


def write_kohya(path: Path, layers: Mapping[str, LoraLayer]) -> Path:
    """A file as sd-scripts write it, of DoRA as LyCORIS does."""
    tensors: dict[str, Tensor] = {}
    for name, layer in layers.items():
        is_text = name.startswith("text_encoder.")
        key = ("lora_te_" if is_text else "lora_unet_") + name.removeprefix("text_encoder.").replace(".", "_")
        tensors |= {f"{key}.lora_down.weight": layer.down, f"{key}.lora_up.weight": layer.up}
        tensors[f"{key}.alpha"] = torch.tensor(layer.alpha)
        if layer.magnitude is not None:
            tensors[f"{key}.dora_scale"] = layer.magnitude.view(-1, *[1] * (layer.down.ndim - 1))
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return path


def write_diffusers(folder: Path, layers: Mapping[str, LoraLayer]) -> Path:
    """A file as diffusers writes it, by its own function; layers of the text encoder have one alpha and rank."""
    from diffusers import StableDiffusionPipeline

    parts: dict[str, dict[str, LoraLayer]] = {"unet": {}, "text_encoder": {}}
    for name, layer in layers.items():
        is_text = name.startswith("text_encoder.")
        parts["text_encoder" if is_text else "unet"][name.removeprefix("text_encoder.")] = layer
    arguments: dict[str, object] = {}
    for part, of in parts.items():
        if of:
            first = next(iter(of.values()))
            arguments[f"{part}_lora_layers"] = _peft_state(of)
            arguments[f"{part}_lora_adapter_metadata"] = {
                "r": len(first.down),
                "lora_alpha": first.alpha,
                "use_dora": first.magnitude is not None,
                "rank_pattern": {name: len(each.down) for name, each in of.items()},
                "alpha_pattern": {name: each.alpha for name, each in of.items()},
                "target_modules": sorted(of),
            }
    StableDiffusionPipeline.save_lora_weights(folder, **arguments)
    return folder / "pytorch_lora_weights.safetensors"


def _peft_state(layers: Mapping[str, LoraLayer]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for name, layer in layers.items():
        state |= {f"{name}.lora_A.weight": layer.down, f"{name}.lora_B.weight": layer.up}
        if layer.magnitude is not None:
            state[f"{name}.lora_magnitude_vector"] = layer.magnitude
    return state


def dense(layer: LoraLayer) -> Tensor:
    """What a layer adds to a weight, as a matrix, fp64."""
    return layer.up.double().flatten(1) @ layer.down.double().flatten(1) * layer.alpha / layer.rank
