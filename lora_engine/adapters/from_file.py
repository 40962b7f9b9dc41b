"""One adapter from a file of its own, in kohya's or diffusers' format, as diffusers loads it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from lora_engine.config.models import BaseModelUse
from lora_engine.errors import ModelError

_ENDS = (".lora_down.weight", ".lora_up.weight", ".alpha", ".lora_A.weight", ".lora_B.weight")


def load_file(unet: nn.Module, path: Path, name: str) -> None:
    """Give the UNet the adapter in a file, under that name. `activate` lets it compute with it.

    Raises:
        ModelError: the file is damaged, is no LoRA of this UNet, or holds weights that would be left out.
    """
    from diffusers import StableDiffusionPipeline

    require_unet_alone(path)
    wanted = _layers_of(path)
    try:
        state, alphas, metadata = StableDiffusionPipeline.lora_state_dict(
            str(path.parent), weight_name=path.name, return_lora_metadata=True
        )
        StableDiffusionPipeline.load_lora_into_unet(
            state, network_alphas=alphas, unet=unet, adapter_name=name, metadata=metadata
        )
    except MemoryError:
        raise
    except Exception as error:  # The libraries raise almost any exception where weights do not fit.
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{path.name} cannot be loaded into the base model: {reason}.", "Name the base model that it was made for."
        ) from error
    found = sum(name in getattr(module, "lora_A", ()) for module in unet.modules())
    if found != wanted:
        raise ModelError(
            f"{path.name} has weights for {wanted} layers, of which {found} are in the base model.",
            "Name the base model that it was made for.",
        )


def _layers_of(path: Path) -> int:
    """The number of layers that a file has weights for. Raises ModelError without any that are floats."""
    downs = [key for key in _keys(path) if key.endswith((".lora_down.weight", ".lora_A.weight"))]
    with safe_open(path, framework="pt") as file:
        kinds = {file.get_slice(key).get_dtype() for key in downs}
    if not downs or not kinds <= {"F16", "BF16", "F32", "F64"}:
        what = f"weights of type {', '.join(sorted(kinds))}" if downs else "no weights"
        raise ModelError(f"{path.name} holds {what}.", "Name a LoRA of the UNet, in kohya's or diffusers' format.")
    return len(downs)


def activate(unet: nn.Module, names: Sequence[str], strength: float = 1.0) -> None:
    """Let the UNet compute with the adapter that `load_file` gave it, or as the base model where no name is given."""
    model: Any = unet
    if not names:
        model.disable_lora()
        return
    model.enable_lora()
    model.set_adapters(sorted(set(names)), strength)


def trigger_phrase(path: Path) -> str:
    """The text that calls the adapter up, as the file says; empty where it says nothing."""
    return _metadata(path).get("modelspec.trigger_phrase", "")


def base_model_use(path: Path) -> BaseModelUse:
    """How the base model was used that the adapter was trained on, as the file says; else as its own files say."""
    said = _metadata(path)
    skip = said.get("ss_clip_skip", "")
    predicts_v = said.get("ss_v_parameterization") == "True" or said.get("modelspec.prediction_type") == "v"
    return BaseModelUse(
        prediction_type="v_prediction" if predicts_v else "auto",
        zero_terminal_snr=True if predicts_v and said.get("ss_zero_terminal_snr") == "True" else "auto",
        clip_skip=int(skip) if re.fullmatch(r"[1-9]|1[0-2]", skip) else 1,
    )


def require_unet_alone(path: Path) -> None:
    """Refuse a file with other weights than low-rank ones of the UNet, which would be left out without a word.

    Raises:
        ModelError: it holds some, or is damaged.
    """
    for key in _keys(path):
        if key.startswith(("lora_te", "text_encoder")):
            what = "weights of the text encoder, which samples would be drawn without"
        elif not key.startswith(("lora_unet_", "unet.")) or not key.endswith(_ENDS):
            what = f"{key[:100]!r}, which is no low-rank weight of a UNet"
        else:
            continue
        raise ModelError(
            f"{path.name} holds {what}.", "Name a LoRA of the UNet alone, in kohya's or diffusers' format."
        )


def _keys(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path.name} is no safetensors file: {error}.", "Fetch it again.") from error


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata() or {}
