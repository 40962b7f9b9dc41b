"""A base model with an adapter in its weights, as it was stored: a folder in diffusers layout, or one file."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from lora_engine.adapters import updates
from lora_engine.adapters.layer_names import OF_TEXT_MODEL
from lora_engine.adapters.lora_file import LoraFile
from lora_engine.adapters.rewritten import HASHES
from lora_engine.errors import ModelError
from lora_engine.models.accepted import WITH_WEIGHTS, plain_name
from lora_engine.models.checkpoint import EMA, OPEN_CLIP, UNET, Header, clip_names, current_name, require_checkpoint
from lora_engine.models.files import LocalModel, weight_files

_OTHER = "Name the base model that the adapter was made for."
_COPIED = ("tokenizer", "scheduler")  # the parts of a pipeline without weights
_PIPELINE = (*WITH_WEIGHTS, *_COPIED)
# Names of the layers of the text encoder of Stable Diffusion 2.x in one file, by those of diffusers.
_OPEN_CLIP_LAYERS = {"self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}


@dataclass(frozen=True)
class MergeOrder:
    """What goes into a base model."""

    lora: LoraFile
    strength: float
    dtype: torch.dtype | None  # of all weights; None to leave each as it is
    metadata: Mapping[str, str]  # of the files that are made


@dataclass(frozen=True)
class _Stored:
    """Where a layer's weight is stored."""

    name: str  # of the tensor
    third: int | None = None  # which third of its rows, where queries, keys and values are one tensor


def merge_folder(model: LocalModel, merge: MergeOrder, folder: Path) -> None:
    """Write a pipeline in diffusers layout with the adapter in its UNet and text encoder into a folder, which is made.

    A safety checker and whatever else is no part of drawing is left out.

    Raises:
        ModelError: the base model's weights are no safetensors, or the adapter is for another.
    """
    files = {part: weight_files(model.part(part), f"base_model.source: the {part}") for part in WITH_WEIGHTS}
    stored = {part: _names(files[part]) for part in WITH_WEIGHTS}
    text = {current_name(name): name for name in stored["text_encoder"]}
    places = {name.removesuffix(".weight"): _Stored(name) for name in stored["unet"]}
    in_text = {OF_TEXT_MODEL + name.removesuffix(".weight"): _Stored(own) for name, own in text.items()}
    _require_layers(merge.lora, places | in_text, model.path.name)
    for part in WITH_WEIGHTS:
        own = {"unet": places, "text_encoder": in_text}.get(part, {})
        (folder / part).mkdir(parents=True)
        metadata = {"format": "pt", **merge.metadata}
        save_file(_merged(files[part], own, merge), folder / part / plain_name(part), metadata)
        shutil.copyfile(model.part(part).path / "config.json", folder / part / "config.json")
    for part in _COPIED:
        shutil.copytree(model.path / part, folder / part, copy_function=shutil.copyfile)
    index = json.loads((model.path / "model_index.json").read_bytes())
    left_out = {
        name: [None, None] for name, entry in index.items() if isinstance(entry, list) and name not in _PIPELINE
    }
    (folder / "model_index.json").write_text(json.dumps(index | left_out, indent=2) + "\n")


def merge_file(checkpoint: Path, merge: MergeOrder, path: Path) -> None:
    """Write a checkpoint in one file with the adapter in its UNet and text encoder, under the names that it has.

    A moving average of the UNet's weights, which would be one without the adapter, is left out.

    Raises:
        ModelError: the file is no checkpoint of Stable Diffusion 1.x or 2.x, or the adapter is for another.
    """
    header = require_checkpoint(checkpoint)
    names = list(header.shapes)
    places = _unet_names(names) | {f"{OF_TEXT_MODEL}{name}": each for name, each in _text_names(header).items()}
    _require_layers(merge.lora, places, checkpoint.name)
    metadata = {key: value for key, value in header.metadata.items() if key not in HASHES}
    save_file(_merged((checkpoint,), places, merge), path, {**metadata, **merge.metadata})


def _names(files: tuple[Path, ...]) -> list[str]:
    names: list[str] = []
    for path in files:
        with safe_open(path, framework="pt") as file:
            names += file.keys()
    return names


def _unet_names(names: list[str]) -> dict[str, _Stored]:
    """Where a checkpoint in one file has the UNet's weights, by the layers' names in diffusers."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    # The library's converter is given tensors that each stand for the name that they have in the file.
    tensors = {name: torch.empty(0, device="meta") for name in names if name.startswith(UNET)}
    name_of = {id(tensor): name for name, tensor in tensors.items()}
    converted = convert_ldm_unet_checkpoint(tensors, config={"layers_per_block": _layers_per_block(names)})
    return {
        name.removesuffix(".weight"): _Stored(name_of[id(tensor)])
        for name, tensor in converted.items()
        if name.endswith(".weight")
    }


def _layers_per_block(names: list[str]) -> int:
    """How many layers each block of the UNet has: behind them comes the first convolution that halves pictures."""
    halved = (at for at in range(1, 100) if f"{UNET}input_blocks.{at}.0.op.weight" in names)
    return next(halved, 3) - 1


def _text_names(header: Header) -> dict[str, _Stored]:
    """Where a checkpoint in one file has the text encoder's weights, by the layers' names in diffusers."""
    if clip := clip_names(header):
        return {name.removesuffix(".weight"): _Stored(own) for name, own in clip.items()}
    found = {}
    for prefix in OPEN_CLIP:
        blocks = f"{prefix}transformer.resblocks."
        for block in sorted({name[len(blocks) :].split(".")[0] for name in header.shapes if name.startswith(blocks)}):
            for third, letter in enumerate("qkv"):
                own = _Stored(f"{blocks}{block}.attn.in_proj_weight", third)
                found[f"encoder.layers.{block}.self_attn.{letter}_proj"] = own
            for ours, theirs in _OPEN_CLIP_LAYERS.items():
                found[f"encoder.layers.{block}.{ours}"] = _Stored(f"{blocks}{block}.{theirs}.weight")
    return found


def _require_layers(lora: LoraFile, places: Mapping[str, _Stored], name: str) -> None:
    lacking = [layer for layer in lora.layers if layer not in places]
    if lacking:
        raise ModelError(
            f"The adapter has weights for {len(lora.layers)} layers, of which {len(lacking)} are not in {name}, "
            f"such as {lacking[0]}.",
            _OTHER,
        )


def _merged(files: tuple[Path, ...], places: Mapping[str, _Stored], merge: MergeOrder) -> dict[str, Tensor]:
    """The tensors of the files, by their names, with the adapter in those that it has layers for."""
    layers: dict[str, list[tuple[str, int | None]]] = {}
    for layer in merge.lora.layers:
        if layer in places:
            layers.setdefault(places[layer].name, []).append((layer, places[layer].third))
    return {
        name: _cast(name, _with_layers(tensor, layers[name], merge) if name in layers else tensor, tensor, merge.dtype)
        for name, tensor in _tensors(files)
    }


def _tensors(files: tuple[Path, ...]) -> Iterator[tuple[str, Tensor]]:
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                if not name.startswith(EMA):
                    yield name, file.get_tensor(name)


def _with_layers(tensor: Tensor, layers: list[tuple[str, int | None]], merge: MergeOrder) -> Tensor:
    result = tensor.float().clone()
    for name, third in layers:
        rows = slice(None) if third is None else slice(third * len(result) // 3, (third + 1) * len(result) // 3)
        try:
            result[rows] = updates.merged(result[rows], merge.lora.layers[name], merge.strength)
        except ModelError as error:
            raise ModelError(f"{name}: {error.cause}", error.remedy) from error
    return result


def _cast(name: str, tensor: Tensor, stored: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The tensor in `dtype`, if it holds no whole numbers, or for None in that of the one that is stored."""
    wanted = stored.dtype if dtype is None or not stored.is_floating_point() else dtype
    result = tensor.to(wanted).contiguous()
    if tensor.dtype != wanted and wanted.is_floating_point and not bool(result.float().isfinite().all()):
        raise ModelError(f"{name} holds numbers that {wanted} cannot hold.".replace("torch.", ""), "Give --dtype fp32.")
    return result
