"""Writes an adapter that was read from a file, and changed, as a file again that says what it was made from."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from lora_engine.adapters.formats import diffusers_tensors, kohya_tensors, parts_of, peft_settings
from lora_engine.adapters.layer_names import OF_TEXT_ENCODER
from lora_engine.adapters.lora_file import LoraFile, LoraLayer
from lora_engine.errors import ModelError

MADE_FROM = "lora_job.made_from"  # the key under which a file says what it was made from, as JSON
HASHES = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")  # metadata that a change makes untrue
_OF_DIFFUSERS = ("format", "lora_adapter_metadata")  # metadata that describe a file in diffusers' format


def write_kohya(path: Path, file: LoraFile, name: str, made_from: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Write a file in kohya's format. What its source says of the training stays; the rest is as the adapter is now.

    Args:
        name: by which programs list it.
        dtype: of the weights.

    Raises:
        ModelError: a weight is too large for the dtype.
    """
    layers = _cast(file.layers, dtype)
    save_file(kohya_tensors(layers), path, _metadata(file, name, made_from))


def write_diffusers(path: Path, file: LoraFile, made_from: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Write a file in diffusers' format. Takes the rest, and raises, as `write_kohya` does."""
    unet, text_encoder = parts_of(_cast(file.layers, dtype))
    settings = {f"unet.{key}": value for key, value in (peft_settings(unet) if unet else {}).items()}
    own = peft_settings(text_encoder) if text_encoder else {}
    settings |= {f"{OF_TEXT_ENCODER}{key}": value for key, value in own.items()}
    said = {"format": "pt", "lora_adapter_metadata": json.dumps(settings, indent=2, sort_keys=True)}
    save_file(diffusers_tensors({**unet, **text_encoder}), path, said | made_from_metadata(made_from))


def made_from_metadata(made_from: Mapping[str, Any]) -> dict[str, str]:
    """The metadata that say what a file was made from."""
    return {MADE_FROM: json.dumps(made_from, sort_keys=True)}


def _cast(layers: Mapping[str, LoraLayer], dtype: torch.dtype) -> dict[str, LoraLayer]:
    def cast(name: str, tensor: Tensor) -> Tensor:
        result = tensor.to(dtype).contiguous()
        if not bool(result.isfinite().all()):
            text = f"{name} has weights that {dtype} cannot hold.".replace("torch.", "")
            raise ModelError(text, "Give --dtype fp32 or bf16.")
        return result

    return {
        name: replace(
            layer,
            down=cast(name, layer.down),
            up=cast(name, layer.up),
            magnitude=None if layer.magnitude is None else cast(name, layer.magnitude),
        )
        for name, layer in layers.items()
    }


def _metadata(file: LoraFile, name: str, made_from: Mapping[str, Any]) -> dict[str, str]:
    layers = file.layers.values()
    flat, spatial = ([layer for layer in layers if layer.is_spatial == of] for of in (False, True))
    said = {key: value for key, value in file.metadata.items() if key not in (*HASHES, *_OF_DIFFUSERS)}
    said.setdefault("ss_network_module", "networks.lora")
    said |= {
        "ss_network_dim": _one(layer.rank for layer in flat),
        "ss_network_alpha": _one(layer.alpha for layer in flat),
    }
    said |= {"ss_output_name": name, "modelspec.title": name}
    arguments = _arguments(said.pop("ss_network_args", "{}"))
    if spatial:
        arguments |= {
            "conv_dim": _one(each.rank for each in spatial),
            "conv_alpha": _one(each.alpha for each in spatial),
        }
    if arguments:
        said["ss_network_args"] = json.dumps(arguments)
    return said | made_from_metadata(made_from)


def _arguments(text: str) -> dict[str, Any]:
    """What a source's metadata say of the network besides ranks and alphas, which may be others now."""
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    sizes = ("_dim", "_alpha", "patterns")
    return {k: v for k, v in said.items() if not k.endswith(sizes)} if isinstance(said, dict) else {}


def _one(values: Iterable[float]) -> str:
    """The number that all are; the word that programs show where they differ, or there are none."""
    different = set(values)
    return f"{different.pop():g}" if len(different) == 1 else "Dynamic"
