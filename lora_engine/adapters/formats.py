"""The files of one trained adapter: kohya's format, diffusers' format, and the state to continue from.

Shape legend: R rank, I and O features in and out.
"""

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
from lora_engine.adapters.names import DIFFUSERS_NAME, STATE_NAME, is_taken, kohya_name
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.models import PredictionType
from lora_engine.records import FileEntry

_SD2_WIDTH = 1024  # features of a token in SD 2.x; SD 1.x has 768


@dataclass(frozen=True)
class AdapterCard:
    """The description of an adapter in the metadata of its files, which programs that load LoRAs show to people."""

    name: str
    base_model: str
    resolution: int  # pixels a side
    images: int  # that it was trained on
    prediction_type: PredictionType
    zero_terminal_snr: bool  # whether it was trained with a last timestep that is noise alone
    clip_skip: int  # which layer of the text encoder it was trained with, 1 for the last
    text_width: int  # features of a token that the UNet attends to, by which programs tell SD 2.x from 1.x
    started_at: float  # when the training began, in seconds since 1970
    tag_frequency: dict[str, int]  # of the captions, see `tag_frequency`
    trigger_phrase: str  # the text that calls the adapter up; empty where there is none


def kohya_state_dict(adapter: Adapter, config: LoraConfig) -> dict[str, Tensor]:
    """The adapter under kohya's names: for each module down [R, I], up [O, R] and a scalar alpha.

    A reader computes the update of a weight as up @ down * alpha / rank.
    """
    result: dict[str, Tensor] = {}
    for key, tensor in adapter.items():
        module, part, _ = key.rsplit(".", 2)
        name = f"lora_unet_{module.replace('.', '_')}"
        result[f"{name}.lora_{'down' if part == 'lora_A' else 'up'}.weight"] = tensor
        result[f"{name}.alpha"] = torch.tensor(config.file_alpha(config.rank, config.alpha))
    return result


def _kohya_metadata(state: dict[str, Tensor], config: LoraConfig, card: AdapterCard) -> dict[str, str]:
    side, version_2 = str(card.resolution), card.text_width == _SD2_WIDTH
    predicts_v = card.prediction_type == "v_prediction"
    return {
        "ss_v2": str(version_2),
        "ss_base_model_version": f"sd_v{2 if version_2 else 1}{'_v' if predicts_v else ''}",
        "ss_v_parameterization": str(predicts_v),
        "ss_zero_terminal_snr": str(card.zero_terminal_snr),
        "ss_clip_skip": str(card.clip_skip),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(config.rank),
        "ss_network_alpha": str(config.file_alpha(config.rank, config.alpha)),
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
    """The SHA-256 by which programs know an adapter: of a safetensors file with these tensors, its header left out."""
    from safetensors.torch import save

    data = save(state)
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def write_checkpoint(
    folder: Path, adapter: Adapter, state: dict[str, Tensor], config: LoraConfig, card: AdapterCard
) -> tuple[FileEntry, ...]:
    """Write the three files of a checkpoint into an existing folder and list them, in the order of their names.

    Raises:
        ValueError: the card's name would put one of the files in place of another.
    """
    from diffusers import StableDiffusionPipeline

    if is_taken(card.name):
        raise ValueError(f"an adapter cannot be named {card.name!r}: another file of its checkpoint is")
    weights = {key: value.float() for key, value in adapter.items()}
    kohya = kohya_state_dict(weights, config)
    save_file(kohya, folder / kohya_name(card.name), _kohya_metadata(kohya, config, card))
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=weights,
        weight_name=DIFFUSERS_NAME,
        unet_lora_adapter_metadata={
            "r": config.rank,
            "lora_alpha": config.file_alpha(config.rank, config.alpha),
            "rank_pattern": {},  # diffusers before 0.40 has to be told that there are no patterns
            "alpha_pattern": {},
            "target_modules": sorted({key.rsplit(".", 2)[0] for key in weights}),
        },
    )
    save_file(state, folder / STATE_NAME)
    return tuple(_entry(path) for path in sorted(folder.iterdir()))


def _entry(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(path.name, os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def tag_frequency(captions: Iterable[str]) -> dict[str, int]:
    """How often each comma-separated tag stands in the captions, most frequent first."""
    tags = (tag.strip() for caption in captions for tag in caption.split(","))
    return dict(Counter(tag for tag in tags if tag).most_common())


def read_adapter(path: Path) -> Adapter:
    """The weights of a checkpoint's diffusers file, as `lora.load` takes them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a whole safetensors file.
    """
    return {key.removeprefix("unet."): value for key, value in _tensors(path).items()}


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
