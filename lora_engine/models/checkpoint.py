"""Checkpoints in one file, as the original Stable Diffusion code names its tensors: what their headers say.

It does not import torch.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open

from lora_engine.config.models import BaseModelUse, PredictionType
from lora_engine.errors import ModelError
from lora_engine.models.accepted import refuse_pickle
from lora_engine.models.files import check_safetensors

UNET = "model.diffusion_model."
NAME_A_VAE = (
    "Name one that goes with it: base_model.vae: hf://stabilityai/sd-vae-ft-mse, a folder or a .safetensors file."
)
_FIRST = f"{UNET}input_blocks.0.0.weight"  # the UNet's first layer, whose shape tells what it takes
EMA = "model_ema."
VAES = ("first_stage_model.", "vae.")
# The prefixes of a text encoder of SD 1.x and of SD 2.x, each as programs write it that came with SDXL, too.
CLIP = ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer.")
OPEN_CLIP = ("cond_stage_model.model.", "conditioner.embedders.0.model.")
_OF_INPUTS = {5: "depth", 7: "upscaling", 8: "editing by instructions", 9: "inpainting"}  # by channels that go in
_OLDER_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_A_MODEL = "Name a text-to-image checkpoint of Stable Diffusion 1.x or 2.x."
# Names that tell what else a file is: a pattern, what it is, and what to do.
_OTHERS = (
    (
        r"(lora|lycoris)_|.*lora[._](down|up|A|B)\.",
        "is an adapter (LoRA), not a base model",
        "Name the base model that it is for.",
    ),
    (r"(model\.diffusion_model\.)?control_model\.", "is a ControlNet, not a base model", _A_MODEL),
    (r"conditioner\.embedders\.1\.", "is a Stable Diffusion XL checkpoint", _A_MODEL),
    (r"(.*\.)?(joint|double|single)_blocks\.", "is of a later family than Stable Diffusion 2.x", _A_MODEL),
    (r".*\.(time_stack|motion_modules)\.", "is for video", _A_MODEL),
    (rf"{re.escape(UNET)}label_emb\.", "takes more than a text (Stable Diffusion XL, unCLIP)", _A_MODEL),
    (r"(down|up)_blocks\.|unet\.", "is a part of a pipeline in diffusers layout", "Name the pipeline's folder."),
    (r"(emb_params|string_to_param)", "is a textual inversion, not a base model", _A_MODEL),
)


@dataclass(frozen=True)
class Header:
    """What a file of safetensors says of itself."""

    shapes: Mapping[str, tuple[int, ...]]  # of the tensors, by their names
    metadata: Mapping[str, str]

    def has(self, *prefixes: str) -> bool:
        """Whether a tensor's name begins with one of these."""
        return any(name.startswith(prefixes) for name in self.shapes)

    @property
    def channels(self) -> int:
        """Of the latents that the UNet takes; 0 where there is none."""
        shape = self.shapes.get(_FIRST, ())
        return shape[1] if len(shape) > 1 else 0

    @property
    def predicts(self) -> PredictionType | None:
        """What the file says that its UNet predicts; None where it says nothing of it."""
        said = self.metadata.get("modelspec.prediction_type", "").lower()
        if "v_pred" in self.shapes or said.startswith("v") or self._is_set("ss_v_parameterization"):
            return "v_prediction"
        return "epsilon" if said.startswith("eps") else None

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether the file says that its last timestep is noise alone, which only a model of v can learn from."""
        return self.predicts == "v_prediction" and ("ztsnr" in self.shapes or self._is_set("ss_zero_terminal_snr"))

    def used_as(self, use: BaseModelUse) -> BaseModelUse:
        """The use with what the file says of its predictions, where that is left open."""
        predicts = self.predicts or "auto" if use.prediction_type == "auto" else use.prediction_type
        terminal = use.zero_terminal_snr
        if terminal == "auto" and self.zero_terminal_snr:
            terminal = predicts == "v_prediction"
        return use.model_copy(update={"prediction_type": predicts, "zero_terminal_snr": terminal})

    def _is_set(self, key: str) -> bool:
        return self.metadata.get(key, "").lower() == "true"


def read_header(path: Path, what: str) -> Header:
    """The header of a file of safetensors.

    Args:
        what: the manifest's key of the model, for messages.

    Raises:
        ModelError: it is damaged, no file of safetensors, or cannot be read.
    """
    check_safetensors(path, what)
    with safe_open(path, framework="numpy") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
        return Header(shapes, file.metadata() or {})


def require_checkpoint(path: Path, *, has_vae: bool = False) -> Header:
    """The header of a checkpoint that can be used as a base model, as far as the header alone can tell.

    Args:
        has_vae: whether the manifest names a VAE.

    Raises:
        ModelError: the file is a pickle, damaged, of another kind of model, or lacks a part.
    """
    refuse_pickle(path.name, "base_model.source")
    header = read_header(path, "base_model.source")
    wrong, remedy = _what_is_wrong(header, has_vae=has_vae)
    if wrong:
        raise ModelError(f"base_model.source: {path.name} {wrong}.", remedy)
    return header


def _what_is_wrong(header: Header, *, has_vae: bool) -> tuple[str, str]:
    """Why a checkpoint cannot be used, and what to do; empty texts where it can."""
    for pattern, what, remedy in _OTHERS:
        if any(re.match(pattern, name) for name in header.shapes):
            return what, remedy
    if not header.has(UNET):
        return _without_unet(header)
    if _FIRST not in header.shapes:
        return f"lacks {_FIRST}, so its UNet is not that of Stable Diffusion 1.x or 2.x, or not whole", _A_MODEL
    if header.channels in _OF_INPUTS:
        return f"is a model for {_OF_INPUTS[header.channels]}: its UNet takes {header.channels} channels", _A_MODEL
    if not _has_text_encoder(header):
        return f"has no text encoder ({CLIP[0]}*)", "Name a whole checkpoint: UNet, text encoder and VAE in one file."
    if not has_vae and not header.has(*VAES):
        return f"has no VAE ({VAES[0]}*)", NAME_A_VAE
    return "", ""


def clip_names(header: Header) -> dict[str, str]:
    """The names of a CLIP text encoder's tensors, as they are stored, by the model's own; none in SD 2.x.

    Of two text encoders, as mergers leave them, it is the one with the first of the prefixes.
    """
    for prefix in (f"{start}{middle}" for start in CLIP for middle in ("text_model.", "")):  # NovelAI's have no middle
        if header.has(f"{prefix}embeddings."):
            return {name.removeprefix(prefix): name for name in header.shapes if name.startswith(prefix)}
    return {}


def _has_text_encoder(header: Header) -> bool:
    return bool(clip_names(header)) or header.has(*OPEN_CLIP)


def _without_unet(header: Header) -> tuple[str, str]:
    if header.has(EMA):
        remedy = "Name the version with the weights to use, or one that was converted to have them under that name."
        return f"has only a moving average of the UNet's weights ({EMA}*), and no {UNET}*", remedy
    if header.has(*VAES, "encoder.conv_in.", "decoder.conv_in.") and not _has_text_encoder(header):
        return "is a VAE alone", f"Name it as base_model.vae, and as base_model.source a checkpoint. {_A_MODEL}"
    return f"holds no UNet ({UNET}*), so it is no Stable Diffusion checkpoint", _A_MODEL


def require_tensors(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], what: str, remedy: str
) -> None:
    """Refuse weights that lack a tensor, or hold one of another shape.

    Args:
        found: the shapes of the tensors that are there, by their names; more than are wanted may be.
        wanted: those of the model's.
        what: the manifest's key and the file, for the message.

    Raises:
        ModelError: naming the first such tensor.
    """
    lacking = [name for name in wanted if name not in found]
    if lacking:
        raise ModelError(
            f"{what} lacks {_some(lacking)}: {len(lacking)} of {len(wanted)} tensors.",
            f"Fetch it again, or name a version that is whole. {remedy}",
        )
    other = [name for name, shape in wanted.items() if found[name] != shape]
    if other:
        name = other[0]
        raise ModelError(
            f"{what} does not fit its configuration: {name} is {list(found[name])}, and not {list(wanted[name])}.",
            remedy,
        )


def current_name(name: str) -> str:
    """The name that the libraries have today for a tensor of a VAE or text encoder in diffusers layout.

    A VAE's attention had others in diffusers before 0.13, as in sd-vae-ft-mse, and a text encoder has a prefix in most
    files.
    """
    parts = name.removeprefix("text_model.").split(".")
    if len(parts) > 1 and "attentions" in parts:
        parts[-2] = _OLDER_ATTENTION.get(parts[-2], parts[-2])
    return ".".join(parts)


def _some(names: Collection[str]) -> str:
    first = ", ".join(sorted(names)[:3])
    return first if len(names) <= 3 else f"{first}, ..."
