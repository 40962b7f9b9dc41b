"""The files of one trained adapter: kohya's format, diffusers' format, and the state to continue from."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_engine.adapters.lora import Adapter
from lora_engine.config.adapter import LoraConfig
from lora_engine.diffusion import PredictionType
from lora_engine.records import FileEntry

_SD2_WIDTH = 1024  # of a token; SD 1.x has 768
_TAKEN_NAMES = ("pytorch_lora_weights", "state")  # of a checkpoint's other files


@dataclass(frozen=True)
class AdapterCard:
    """What the metadata of the files says of an adapter. Programs that load LoRAs show it to people."""

    name: str
    base_model: str
    resolution: int
    images: int
    prediction_type: PredictionType
    text_width: int  # features of a token that the UNet attends to, by which programs tell SD 2.x from 1.x
    started_at: float  # seconds since 1970
    tag_frequency: dict[str, int]  # of the captions
    trigger_phrase: str


def kohya_state_dict(adapter: Adapter, config: LoraConfig) -> dict[str, Tensor]:
    """The adapter under kohya's names: down [R, I], up [O, R] and a scalar alpha for each module.

    A reader computes the update of a weight as up @ down * alpha / rank.
    """
    result: dict[str, Tensor] = {}
    for key, tensor in adapter.items():
        module, part, _ = key.rsplit(".", 2)
        name = f"lora_unet_{module.replace('.', '_')}"
        result[f"{name}.lora_{'down' if part == 'lora_A' else 'up'}.weight"] = tensor
        result[f"{name}.alpha"] = torch.tensor(float(config.alpha))
    return result


def _kohya_metadata(state: dict[str, Tensor], config: LoraConfig, card: AdapterCard) -> dict[str, str]:
    side, version_2 = str(card.resolution), card.text_width == _SD2_WIDTH
    predicts_v = card.prediction_type == "v_prediction"
    return {
        "ss_v2": str(version_2),
        "ss_base_model_version": f"sd_v{2 if version_2 else 1}{'_v' if predicts_v else ''}",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(config.rank),
        "ss_network_alpha": str(config.alpha),
        "ss_output_name": card.name,
        "ss_sd_model_name": card.base_model,
        "ss_resolution": f"({side}, {side})",
        "ss_num_train_images": str(card.images),
        "ss_tag_frequency": json.dumps({card.name: card.tag_frequency}),
        "ss_training_started_at": str(card.started_at),
        "sshs_model_hash": _tensors_sha256(state),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{_architecture(version_2, predicts_v)}/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/StableDiffusion",
        "modelspec.title": card.name,
        "modelspec.resolution": f"{side}x{side}",
        "modelspec.prediction_type": "v" if predicts_v else "epsilon",
        "modelspec.date": datetime.fromtimestamp(card.started_at, UTC).isoformat(timespec="seconds"),
        "modelspec.trigger_phrase": card.trigger_phrase,
    }


def _architecture(version_2: bool, predicts_v: bool) -> str:
    if not version_2:
        return "stable-diffusion-v1"
    return f"stable-diffusion-v2-{'768-v' if predicts_v else '512'}"


def _tensors_sha256(state: dict[str, Tensor]) -> str:
    """SHA-256 of what follows the header of a safetensors file with these tensors."""
    from safetensors.torch import save

    data = save(state)
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def write_checkpoint(
    folder: Path, adapter: Adapter, state: dict[str, Tensor], config: LoraConfig, card: AdapterCard
) -> tuple[FileEntry, ...]:
    """Write the three files of a checkpoint into an existing folder and list them, in the order of their names.

    Raises:
        ValueError: the card's name is that of one of the other two.
    """
    from diffusers import StableDiffusionPipeline

    if card.name in _TAKEN_NAMES:
        raise ValueError(f"an adapter cannot be named {card.name!r}: another file of its checkpoint is")
    weights = {key: value.float() for key, value in adapter.items()}
    kohya = kohya_state_dict(weights, config)
    save_file(kohya, folder / f"{card.name}.safetensors", _kohya_metadata(kohya, config, card))
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=weights,
        unet_lora_adapter_metadata={
            "r": config.rank,
            "lora_alpha": config.alpha,
            "rank_pattern": {},  # nothing, which diffusers before 0.40 has to be told
            "alpha_pattern": {},
            "target_modules": sorted({key.rsplit(".", 2)[0] for key in weights}),
        },
    )
    save_file(state, folder / "state.safetensors")
    return tuple(_entry(path) for path in sorted(folder.iterdir()))


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(path.name, os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def tag_frequency(captions: Iterable[str]) -> dict[str, int]:
    """How often each comma-separated tag stands in the captions, as programs that load LoRAs show it."""
    tags = (tag.strip() for caption in captions for tag in caption.split(","))
    return dict(Counter(tag for tag in tags if tag).most_common())


def read_adapter(path: Path) -> Adapter:
    """The weights of a checkpoint's diffusers file, as `adapters.load` takes them.

    Raises:
        ValueError: the file is not a whole safetensors file.
    """
    return {key.removeprefix("unet."): value for key, value in _tensors(path).items()}


def read_state(path: Path) -> dict[str, Tensor]:
    """A `state.safetensors` as `PackTrainer.restore` takes it.

    Raises:
        ValueError: the file is not a whole safetensors file.
    """
    return _tensors(path)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (MemoryError, FileNotFoundError):
        raise
    except Exception as error:  # the library reports odd headers by several of them
        raise ValueError(f"{path} is damaged: {error}") from error
