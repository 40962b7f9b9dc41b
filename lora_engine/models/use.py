"""Whether a base model can be used as a manifest says, by headers and configurations. It does not import torch."""

import re
from pathlib import Path
from typing import get_args

from lora_engine.config.evaluation import SamplerName
from lora_engine.config.models import BaseModelUse
from lora_engine.errors import ModelError
from lora_engine.models.accepted import refuse_pickle
from lora_engine.models.checkpoint import CLIP, OPEN_CLIP, VAES, Header, read_header
from lora_engine.models.files import LocalModel, weight_files
from lora_engine.models.loading import json_object, model_errors

UNABLE: tuple[SamplerName, ...] = ("pndm", "lms", "heun")  # samplers that cannot begin at a timestep of noise alone
_LAYER = re.compile(r".*\.(?:layers|resblocks)\.(\d+)\.")  # in the name of a text encoder's tensor
_PREFIX = re.compile(f"^({'|'.join(map(re.escape, VAES))})")
_ENCODES, _DECODES = "encoder.conv_out.weight", "decoder.conv_in.weight"  # the layers before latents, and after them
A_VAE = "Name the VAE of a Stable Diffusion 1.x or 2.x model: a folder in diffusers layout, or a .safetensors file."


def require_use(header: Header, use: BaseModelUse, sampler: SamplerName | None) -> None:
    """Refuse a use of a checkpoint that a run would refuse, as far as its header tells, without its components.

    Args:
        sampler: that samples are drawn with; None for the base model's own.

    Raises:
        ModelError: naming the manifest's key.
    """
    use = header.used_as(use)
    names = (name for name in header.shapes if name.startswith((*CLIP, *OPEN_CLIP)))
    layers = {int(match[1]) + 1 for name in names if (match := _LAYER.match(name))}
    require_layers(use, max(layers, default=use.clip_skip))
    rescales = use.zero_terminal_snr is True
    require_picture(use, use.prediction_type, rescales=rescales)
    require_able(sampler, rescales=rescales)


def require_layers(use: BaseModelUse, layers: int) -> None:
    """Refuse to leave out more layers than the text encoder has. Raises ModelError."""
    if use.clip_skip > layers:
        raise ModelError(
            f"base_model.clip_skip is {use.clip_skip}, but the text encoder has {layers} layers.",
            f"Let it be {layers} at most; 1 is the last layer, and 2 the one before it.",
        )


def require_picture(use: BaseModelUse, predicts: str, *, rescales: bool) -> None:
    """Refuse a last timestep of noise alone for a model that predicts the noise.

    Args:
        predicts: what the model does, by the manifest or its files.
        rescales: whether the last timestep is to be noise alone, by the manifest or its files.

    Raises:
        ModelError: it is, and the model predicts the noise.
    """
    if predicts == "epsilon" and rescales:
        said = "base_model.zero_terminal_snr" if use.zero_terminal_snr is True else "rescale_betas_zero_snr"
        raise ModelError(
            f"{said} is true, but the base model predicts the noise: where there is nothing but noise, that says "
            "nothing of the picture.",
            "Set base_model.zero_terminal_snr: false; or base_model.prediction_type: v_prediction, if the model was "
            "trained so.",
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


def latent_channels(base: Path) -> int | None:
    """The channels of the latents that a base model's UNet draws, by its configuration or header; None without them.

    Args:
        base: a pipeline's folder, or a checkpoint.
    """
    if base.is_dir():
        with model_errors(base, "unet"):
            channels = json_object(base / "unet" / "config.json").get("out_channels")
            return channels if isinstance(channels, int) else None
    return read_header(base, "base_model.source").channels or None


def require_vae(path: Path, channels: int | None, *, allow_pickle: bool = False) -> Header:
    """Refuse weights that are no autoencoder of pictures, or one of latents that the base model does not draw.

    Args:
        path: of a file, which may be a checkpoint, or of the VAE's own folder in diffusers layout.
        channels: of the latents that the base model draws; None where it is not known.

    Returns:
        The file's header, or those of the folder's files as one; without shapes where they are pickles that are
        allowed.

    Raises:
        ModelError: naming `base_model.vae`; or a file is damaged, or a pickle that is not allowed.
    """
    if path.is_dir():
        files = weight_files(LocalModel(path, allow_pickle), "base_model.vae")
    else:
        refuse_pickle(path.name, "base_model.vae")
        files = (path,)
    shapes = {name: shape for file in files for name, shape in read_header(file, "base_model.vae").shapes.items()}
    found = {_PREFIX.sub("", name, count=1): shape for name, shape in shapes.items()}
    lacking = [name for name in (_ENCODES, _DECODES) if len(found.get(name, ())) != 4]  # A video's has 5 dimensions.
    if files and lacking:
        raise ModelError(f"base_model.vae: {path.name} is no VAE of pictures: it lacks {lacking[0]}.", A_VAE)
    if files and channels is not None and found[_DECODES][1] != channels:
        raise ModelError(
            f"base_model.vae: {path.name} is for latents of {found[_DECODES][1]} channels, not of {channels}.", A_VAE
        )
    return Header(shapes, {})
