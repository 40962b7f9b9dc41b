"""The files of one trained adapter: kohya's format, diffusers' format, and the state to continue from.

Shape legend: R rank, I and O features in and out.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_engine.adapters.card import AdapterCard, kohya_metadata
from lora_engine.adapters.layer_names import (
    OF_TEXT_ENCODER,
    OF_TEXT_MODEL,
    diffusers_name,
    is_of_text_encoder,
    kohya_layer,
)
from lora_engine.adapters.lora import Adapter
from lora_engine.adapters.lora_file import LoraLayer
from lora_engine.adapters.names import DIFFUSERS_NAME, STATE_NAME, is_taken, kohya_name
from lora_engine.adapters.packed import MAGNITUDE
from lora_engine.records import FileEntry

Layers = Mapping[str, LoraLayer]  # by names in the UNet, or, behind `text_encoder.`, in the text encoder


def layers_of(adapter: Adapter, alphas: Mapping[str, float]) -> dict[str, LoraLayer]:
    """The layers of an adapter, in fp32.

    Args:
        alphas: of each layer, by which readers scale: see `lora.file_alphas`.
    """
    weights = {key: tensor.float().contiguous() for key, tensor in adapter.items()}
    return {
        layer: LoraLayer(
            weights[f"{layer}.lora_A.weight"],
            weights[f"{layer}.lora_B.weight"],
            alphas[layer],
            weights.get(f"{layer}.{MAGNITUDE}"),
        )
        for layer in (key.removesuffix(".lora_A.weight") for key in weights if key.endswith(".lora_A.weight"))
    }


def kohya_tensors(layers: Layers) -> dict[str, Tensor]:
    """What a file in kohya's format holds: of each layer down, up and a scalar alpha, and of DoRA the norms.

    A reader computes the update of a weight as up @ down * alpha / rank.
    """
    result: dict[str, Tensor] = {}
    for layer, own in layers.items():
        name = kohya_layer(layer)
        result[f"{name}.lora_down.weight"] = own.down
        result[f"{name}.alpha"] = torch.tensor(float(own.alpha))
        result[f"{name}.lora_up.weight"] = own.up
        if own.magnitude is not None:
            result[f"{name}.dora_scale"] = own.magnitude.view(-1, *[1] * (own.down.ndim - 1))
    return result


def diffusers_tensors(layers: Layers) -> dict[str, Tensor]:
    """What a file in diffusers' format holds, in PEFT's shapes."""
    result: dict[str, Tensor] = {}
    for layer, own in layers.items():
        name = diffusers_name(layer)
        result[f"{name}.lora_A.weight"] = own.down
        result[f"{name}.lora_B.weight"] = own.up
        if own.magnitude is not None:
            is_convolution = own.down.ndim > 2
            # PEFT takes either end, transformers, which loads those of the text encoder, this one alone.
            result[f"{name}.{MAGNITUDE}.weight"] = own.magnitude.view(1, -1, 1, 1) if is_convolution else own.magnitude
    return result


def peft_settings(layers: Layers) -> dict[str, Any]:
    """The settings by which PEFT scales these layers as they were trained, whatever their ranks and alphas.

    Layers of the text encoder are named from `encoder.` on, which is the end of their names in every version of
    transformers.
    """
    own = {name.removeprefix(OF_TEXT_MODEL): layer for name, layer in layers.items()}
    rank = Counter(layer.rank for layer in own.values()).most_common(1)[0][0]
    alpha = Counter(layer.alpha for layer in own.values()).most_common(1)[0][0]
    settings = {
        "r": rank,
        "lora_alpha": alpha,
        # diffusers before 0.40 has to be told that there are no patterns.
        "rank_pattern": {name: layer.rank for name, layer in own.items() if layer.rank != rank},
        "alpha_pattern": {name: layer.alpha for name, layer in own.items() if layer.alpha != alpha},
        "target_modules": sorted(own),
    }
    return settings | ({"use_dora": True} if any(layer.magnitude is not None for layer in own.values()) else {})


def _save_diffusers(folder: Path, layers: Layers) -> None:
    from diffusers import StableDiffusionPipeline

    unet, text_encoder = parts_of(layers)
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers={key.removeprefix("unet."): value for key, value in diffusers_tensors(unet).items()},
        text_encoder_lora_layers={
            key.removeprefix(OF_TEXT_ENCODER): value for key, value in diffusers_tensors(text_encoder).items()
        },
        weight_name=DIFFUSERS_NAME,
        unet_lora_adapter_metadata=peft_settings(unet) if unet else None,
        text_encoder_lora_adapter_metadata=peft_settings(text_encoder) if text_encoder else None,
    )


def parts_of(layers: Layers) -> tuple[Layers, Layers]:
    """The layers of the UNet, and those of the text encoder."""
    text_encoder = {name: layer for name, layer in layers.items() if is_of_text_encoder(name)}
    return {name: layer for name, layer in layers.items() if name not in text_encoder}, text_encoder


def write_checkpoint(
    folder: Path, adapter: Adapter, alphas: Mapping[str, float], state: dict[str, Tensor], card: AdapterCard
) -> tuple[FileEntry, ...]:
    """Write the three files of a checkpoint into an existing folder and list them, in the order of their names.

    Args:
        alphas: of each layer, by which readers scale: see `lora.file_alphas`.

    Raises:
        ValueError: the card's name would put one of the files in place of another.
    """
    if is_taken(card.name):
        raise ValueError(f"an adapter cannot be named {card.name!r}: another file of its checkpoint is")
    layers = layers_of(adapter, alphas)
    kohya = kohya_tensors(layers)
    save_file(kohya, folder / kohya_name(card.name), kohya_metadata(kohya, card))
    _save_diffusers(folder, layers)
    save_file(state, folder / STATE_NAME)
    return tuple(_entry(path) for path in sorted(folder.iterdir()))


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(path.name, os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def read_adapter(path: Path) -> Adapter:
    """The weights of a checkpoint's diffusers file, as `lora.load` takes them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a whole safetensors file.
    """
    named = {key.removeprefix("unet."): value for key, value in _tensors(path).items()}
    return {
        key.replace(f"{MAGNITUDE}.weight", MAGNITUDE): value.flatten() if MAGNITUDE in key else value
        for key, value in named.items()
    }


def read_state(path: Path) -> dict[str, Tensor]:
    """A checkpoint's state, as `PackTrainer.restore` takes it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a whole safetensors file.
    """
    return _tensors(path)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (MemoryError, FileNotFoundError):
        raise
    except Exception as error:  # the library reports damaged headers by several kinds of exception
        raise ValueError(f"{path} is damaged: {error}") from error
