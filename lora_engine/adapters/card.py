"""What the files of an adapter say of it, by the names of kohya's scripts and of the model specification (SAI)."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from safetensors.torch import save
from torch import Tensor

from lora_engine.config.adapter import LoraConfig
from lora_engine.config.loss import DebiasedWeighting, HuberLoss, MinSnrWeighting
from lora_engine.config.lr_schedule import LrSchedule
from lora_engine.config.models import PredictionType
from lora_engine.config.training import TrainingConfig

_SD2_WIDTH = 1024  # features of a token in SD 2.x; SD 1.x has 768
_SCHEDULES = {"cosine_restarts": "cosine_with_restarts"}  # ours to kohya's name, where they differ


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
    lora: LoraConfig
    training: TrainingConfig  # with its steps, not epochs
    step: int  # updates that it was trained for so far
    seed: int  # that it was trained with
    license: str | None = None
    description: str | None = None
    thumbnail: bytes | None = None  # a small JPEG


def kohya_metadata(tensors: dict[str, Tensor], card: AdapterCard) -> dict[str, str]:
    """What the file in kohya's format says.

    Args:
        tensors: that the file holds, by its keys.
    """
    values = {
        "ss_output_name": card.name,
        "ss_sd_model_name": card.base_model,
        **_base_model(card),
        **_network(tensors, card.lora),
        **_data(card),
        **_training(card),
        "sshs_model_hash": _tensors_sha256(tensors),
        **_model_specification(card),
    }
    return {key: str(value) for key, value in values.items()}


def _base_model(card: AdapterCard) -> dict[str, Any]:
    version_2, predicts_v = card.text_width == _SD2_WIDTH, card.prediction_type == "v_prediction"
    return {
        "ss_v2": version_2,
        "ss_base_model_version": f"sd_v{2 if version_2 else 1}{'_v' if predicts_v else ''}",
        "ss_v_parameterization": predicts_v,
        "ss_zero_terminal_snr": card.zero_terminal_snr,
        "ss_clip_skip": card.clip_skip,
    }


def _network(tensors: Mapping[str, Tensor], lora: LoraConfig) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if lora.kind == "dora":
        arguments |= {"algo": "lora", "dora_wd": True}
    if any(tensor.ndim == 4 and tensor.shape[2:].numel() > 1 for tensor in tensors.values()):
        rank, alpha = lora.conv_rank or lora.rank, lora.conv_alpha or lora.alpha
        arguments |= {"conv_dim": rank, "conv_alpha": lora.file_alpha(rank, alpha)}
    if lora.text_encoder is not None and lora.size_in_text_encoder != (lora.rank, lora.alpha):
        rank, alpha = lora.size_in_text_encoder
        arguments |= {"text_encoder_dim": rank, "text_encoder_alpha": lora.file_alpha(rank, alpha)}
    if lora.patterns:
        arguments["patterns"] = json.dumps({k: v.model_dump(exclude_none=True) for k, v in lora.patterns.items()})
    if lora.plus_ratio is not None:
        arguments["loraplus_lr_ratio"] = lora.plus_ratio
    texts = {key: str(value) for key, value in arguments.items()}
    return {
        # LyCORIS is the one of the modules for kohya's scripts that knows of DoRA.
        "ss_network_module": "lycoris.kohya" if lora.kind == "dora" else "networks.lora",
        "ss_network_dim": lora.rank,
        "ss_network_alpha": lora.file_alpha(lora.rank, lora.alpha),
        "ss_network_dropout": lora.dropout or None,
        **({"ss_network_args": json.dumps(texts)} if texts else {}),
    }


def _data(card: AdapterCard) -> dict[str, Any]:
    return {
        "ss_resolution": f"({card.resolution}, {card.resolution})",
        "ss_num_train_images": card.images,
        "ss_dataset_dirs": json.dumps({card.name: {"n_repeats": 1, "img_count": card.images}}),
        "ss_tag_frequency": json.dumps({card.name: card.tag_frequency}),
        "ss_flip_aug": card.training.random_flip,
    }


def _training(card: AdapterCard) -> dict[str, Any]:
    training, noise, weighting = card.training, card.training.noise, card.training.weighting
    optimizer = training.optimizer.model_dump(exclude={"name", "learning_rate"})
    rate, text_encoder = training.optimizer.learning_rate, card.lora.text_encoder
    values = {
        "ss_training_started_at": card.started_at,
        "ss_learning_rate": rate,
        "ss_unet_lr": rate,
        "ss_text_encoder_lr": 0.0 if text_encoder is None else text_encoder.learning_rate or rate,
        "ss_optimizer": f"{training.optimizer.name}({', '.join(f'{k}={v}' for k, v in optimizer.items())})",
        "ss_lr_scheduler": _schedule(training.schedule, training.last_step),
        "ss_lr_warmup_steps": training.schedule.warmup(training.last_step),
        "ss_max_grad_norm": training.max_grad_norm,
        "ss_steps": card.step,
        "ss_max_train_steps": training.last_step,
        "ss_epoch": _epochs(card, card.step),
        "ss_num_epochs": _epochs(card, training.last_step),
        "ss_batch_size_per_device": training.batch_size,
        "ss_gradient_accumulation_steps": training.gradient_accumulation,
        "ss_seed": card.seed,
        "ss_loss_type": "l2" if training.loss.name == "mse" else training.loss.name,
        "ss_min_snr_gamma": weighting.gamma if isinstance(weighting, MinSnrWeighting) else None,
        "ss_debiased_estimation": isinstance(weighting, DebiasedWeighting),
        "ss_noise_offset": noise.offset or None,
        "ss_multires_noise_iterations": noise.multires and noise.multires.iterations,
        "ss_multires_noise_discount": noise.multires and noise.multires.discount,
        "ss_ip_noise_gamma": noise.input_perturbation or None,
    }
    if isinstance(training.loss, HuberLoss):
        values |= {"ss_huber_c": training.loss.c, "ss_huber_schedule": training.loss.schedule}
    return values


def _schedule(schedule: LrSchedule, steps: int) -> str:
    if schedule.name == "constant" and schedule.warmup(steps):
        return "constant_with_warmup"
    return _SCHEDULES.get(schedule.name, schedule.name)


def _epochs(card: AdapterCard, step: int) -> str:
    """How often each image was seen when so many updates are done, which need not be a whole number."""
    return f"{step * card.training.images_per_step / card.images:.4g}"


def _model_specification(card: AdapterCard) -> dict[str, Any]:
    version_2, predicts_v = card.text_width == _SD2_WIDTH, card.prediction_type == "v_prediction"
    given = {"license": card.license, "description": card.description}
    if card.thumbnail is not None:
        given["thumbnail"] = f"data:image/jpeg;base64,{base64.b64encode(card.thumbnail).decode()}"
    return {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{_architecture(version_2, predicts_v)}/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/StableDiffusion",
        "modelspec.title": card.name,
        "modelspec.resolution": f"{card.resolution}x{card.resolution}",
        "modelspec.prediction_type": "v" if predicts_v else "epsilon",
        "modelspec.date": datetime.fromtimestamp(card.started_at, UTC).isoformat(timespec="seconds"),
        "modelspec.trigger_phrase": card.trigger_phrase,
        **{f"modelspec.{key}": value for key, value in given.items() if value is not None},
    }


def _architecture(version_2: bool, predicts_v: bool) -> str:
    if not version_2:
        return "stable-diffusion-v1"
    return f"stable-diffusion-v2-{'768-v' if predicts_v else '512'}"


def _tensors_sha256(tensors: dict[str, Tensor]) -> str:
    """The SHA-256 by which programs know an adapter: of a safetensors file with these tensors, its header left out."""
    data = save(tensors)
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()


def tag_frequency(captions: Iterable[str]) -> dict[str, int]:
    """How often each comma-separated tag stands in the captions, most frequent first."""
    tags = (tag.strip() for caption in captions for tag in caption.split(","))
    return dict(Counter(tag for tag in tags if tag).most_common())
