"""Whether a base model can be used as a manifest says, by headers and configurations. It does not import torch."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from lora_engine.config.evaluation import SamplerName
from lora_engine.config.models import BaseModelUse
from lora_engine.errors import ModelError
from lora_engine.models.checkpoint import TEXTS, VAES, Header

UNABLE: tuple[SamplerName, ...] = ("pndm", "lms", "heun")  # samplers that cannot begin at a timestep of noise alone
_LAYER = re.compile(r".*\.(?:layers|resblocks)\.(\d+)\.")  # in the name of a text encoder's tensor
_PREFIX = re.compile(f"^({'|'.join(map(re.escape, VAES))})")
_ENCODES, _DECODES = "encoder.conv_out.weight", "decoder.conv_in.weight"  # the layers before latents, and after them


def require_use(header: Header, use: BaseModelUse, sampler: SamplerName | None, components: Path | None) -> None:
    """Refuse a use of a checkpoint that a run would refuse, as far as is known without its weights.

    Args:
        sampler: that samples are drawn with; None for the base model's own.
        components: the folder with the configurations that the checkpoint lacks; None where it is not on this machine.

    Raises:
        ModelError: naming the manifest's key.
    """
    text, scheduler = (_settings(components, part) for part in ("text_encoder/config", "scheduler/scheduler_config"))
    require_layers(use, min(_layers(header, text), default=use.clip_skip))
    predicts = header.predicts or scheduler.get("prediction_type")
    require_picture(use, predicts if use.prediction_type == "auto" else use.prediction_type)
    rescales = header.zero_terminal_snr or scheduler.get("rescale_betas_zero_snr") is True
    require_able(sampler, rescales=rescales if use.zero_terminal_snr == "auto" else use.zero_terminal_snr)


def _layers(header: Header, text: Mapping[str, Any]) -> list[int]:
    """As many layers as the text encoder has at most, by the checkpoint, and by a configuration."""
    numbers = [int(match[1]) for name in header.shapes if name.startswith(TEXTS) and (match := _LAYER.match(name))]
    said = text.get("num_hidden_layers")
    return [*([max(numbers) + 1] if numbers else []), *([said] if isinstance(said, int) else [])]


def _settings(components: Path | None, name: str) -> dict[str, Any]:
    """A configuration among the components; empty where it is not at hand, or is none, which others say."""
    try:
        found = json.loads((components / f"{name}.json").read_bytes()) if components is not None else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def require_layers(use: BaseModelUse, layers: int) -> None:
    """Refuse to leave out more layers than the text encoder has. Raises ModelError."""
    if use.clip_skip > layers:
        raise ModelError(
            f"base_model.clip_skip is {use.clip_skip}, but the text encoder has {layers} layers.",
            f"Let it be {layers} at most; 1 is the last layer, and 2 the one before it.",
        )


def require_picture(use: BaseModelUse, predicts: str | None) -> None:
    """Refuse a last timestep of noise alone for a model that predicts the noise; None is one of which nothing is known.

    Raises:
        ModelError: it is asked for.
    """
    if predicts == "epsilon" and use.zero_terminal_snr is True:
        raise ModelError(
            "base_model.zero_terminal_snr is true, but the base model predicts the noise: where there is nothing but "
            "noise, that says nothing of the picture.",
            "Leave it out; or set base_model.prediction_type: v_prediction, if the model was trained so.",
        )


def require_able(sampler: SamplerName | None, *, rescales: bool) -> None:
    """Refuse a sampler that cannot begin where the last timestep is noise alone. Raises ModelError."""
    if rescales and sampler in UNABLE:
        able = [name for name in get_args(SamplerName) if name not in UNABLE]
        raise ModelError(
            f"evaluation.samples.sampler: {sampler} cannot begin at a timestep that is noise alone, as this base model "
            "has one (zero terminal SNR).",
            f"Choose {', '.join(able[:-1])} or {able[-1]}, or leave the sampler out.",
        )


def require_vae(shapes: Mapping[str, tuple[int, ...]], name: str, channels: int) -> None:
    """Refuse weights that are no autoencoder of pictures, or one of latents that the base model does not draw.

    Args:
        shapes: of the weights, by their names in a checkpoint or in diffusers layout.
        name: of the file or folder, for messages.
        channels: of the latents that the base model's UNet takes.

    Raises:
        ModelError: naming `base_model.vae`.
    """
    remedy = (
        "Name the VAE of a Stable Diffusion 1.x or 2.x model: a folder in diffusers layout, or a .safetensors file."
    )
    found = {_PREFIX.sub("", key, count=1): shape for key, shape in shapes.items()}
    lacking = [key for key in (_ENCODES, _DECODES) if len(found.get(key, ())) != 4]  # A video's has 5 dimensions.
    if lacking:
        raise ModelError(f"base_model.vae: {name} is no VAE of pictures: it lacks {lacking[0]}.", remedy)
    if found[_DECODES][1] != channels:
        raise ModelError(
            f"base_model.vae: {name} is for latents of {found[_DECODES][1]} channels, not of {channels}.",
            remedy,
        )
