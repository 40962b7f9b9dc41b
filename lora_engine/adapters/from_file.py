"""One adapter from a file of its own, in kohya's or diffusers' format, as PEFT computes with it."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from lora_engine.adapters.formats import Layers, diffusers_tensors, parts_of, peft_settings
from lora_engine.adapters.layer_names import OF_TEXT_ENCODER, TEXT_ENCODER
from lora_engine.adapters.lora_file import LoraLayer, read_lora, read_metadata
from lora_engine.config.models import BaseModelUse
from lora_engine.errors import ModelError

_REMEDY = "Name the base model that it was made for."


def load_file(unet: nn.Module, path: Path, name: str) -> None:
    """Give the UNet the adapter in a file, under that name. `activate` lets it compute with it.

    Args:
        unet: with the text encoder as its part `text_encoder`, where the file has weights for that.

    Raises:
        ModelError: the file is damaged, no LoRA of this UNet, or holds weights for layers that are not there.
    """
    file = read_lora(path)
    for layers, model, prefix in zip(
        parts_of(file.layers), (unet, getattr(unet, TEXT_ENCODER, None)), ("", OF_TEXT_ENCODER), strict=True
    ):
        if not layers:
            continue
        if model is None:
            raise ModelError(f"{path.name} has weights for a text encoder, which is not there.", _REMEDY)
        try:
            _inject(model, {key.removeprefix(prefix): layer for key, layer in layers.items()}, name)
        except MemoryError:
            raise
        except Exception as error:  # The library raises almost any exception where weights do not fit.
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"{path.name} cannot be loaded into the base model: {reason}.", _REMEDY) from error
    found = sum(name in getattr(module, "lora_A", ()) for module in unet.modules())
    if found != len(file.layers):
        raise ModelError(
            f"{path.name} has weights for {len(file.layers)} layers, of which {found} are in the base model.", _REMEDY
        )


def _inject(model: nn.Module, layers: Layers, name: str) -> None:
    import peft

    modules = dict(model.named_modules())
    layers = {key: _shaped_for(modules.get(key), layer) for key, layer in layers.items()}
    peft.inject_adapter_in_model(peft.LoraConfig(**peft_settings(layers)), model, adapter_name=name)
    weights = {key.removeprefix("unet."): value for key, value in diffusers_tensors(layers).items()}
    peft.set_peft_model_state_dict(model, weights, adapter_name=name)


def _shaped_for(module: nn.Module | None, layer: LoraLayer) -> LoraLayer:
    """The layer's weights as those of the module: a convolution of one pixel may be stored as linear, or otherwise."""
    weight = getattr(module, "weight", None)
    if weight is None or any(tensor.shape[2:].numel() != 1 for tensor in (weight, layer.down)):
        return layer
    down, up = (part.view(*part.shape[:2], *weight.shape[2:]) for part in (layer.down, layer.up))
    return replace(layer, down=down, up=up)


def activate(unet: nn.Module, names: Sequence[str], strength: float = 1.0) -> None:
    """Let the UNet compute with the adapter that `load_file` gave it, or as the base model where no name is given.

    A strength multiplies what the adapter adds to each weight; DoRA scales the sum to its norms whatever the strength,
    and is left out at 0.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in unet.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.enable_adapters(enabled=bool(names) and strength != 0)
            for name in set(names):
                layer.set_adapter(name)
                layer.set_scale(name, strength)


def trigger_phrase(path: Path) -> str:
    """The text that calls the adapter up, as the file says; empty where it says nothing."""
    return read_metadata(path).get("modelspec.trigger_phrase", "")


def base_model_use(path: Path) -> BaseModelUse:
    """How the base model was used that the adapter was trained on, as the file says; else as its own files say."""
    said = read_metadata(path)
    skip = said.get("ss_clip_skip", "")
    predicts_v = said.get("ss_v_parameterization") == "True" or said.get("modelspec.prediction_type") == "v"
    return BaseModelUse(
        prediction_type="v_prediction" if predicts_v else "auto",
        zero_terminal_snr=True if predicts_v and said.get("ss_zero_terminal_snr") == "True" else "auto",
        clip_skip=int(skip) if re.fullmatch(r"[1-9]|1[0-2]", skip) else 1,
    )


def adapts_text_encoder(path: Path) -> bool:
    """Whether a file has weights for the text encoder.

    Raises:
        ModelError: it is damaged, or no LoRA that can be read.
    """
    return bool(parts_of(read_lora(path).layers)[1])
