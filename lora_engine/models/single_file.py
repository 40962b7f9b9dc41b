"""Turns a checkpoint in one file into a pipeline's folder in diffusers layout, with the library's own converters."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lora_engine.errors import ModelError
from lora_engine.models.accepted import WITH_WEIGHTS
from lora_engine.models.checkpoint import (
    CLIP,
    OPEN_CLIP,
    VAES,
    Header,
    clip_names,
    current_name,
    require_checkpoint,
    require_tensors,
)
from lora_engine.models.loading import empty_part, json_object, model_errors
from lora_engine.models.schedule import pipeline_index
from lora_engine.models.use import A_VAE, require_vae
from lora_engine.system.limits import raise_if_limit

_LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)  # the libraries whose classes a pipeline may name
_FITS = "Check base_model.components, which says how large the parts are: for SD 2.x, name a pipeline of SD 2.x there."


def require_fitting(checkpoint: Path, components: Path, *, has_vae: bool = False) -> Header:
    """Refuse a checkpoint that cannot become a pipeline with those components, without loading its weights.

    Args:
        components: the folder with the configurations and the tokenizer, which the checkpoint lacks.
        has_vae: whether the manifest names a VAE, so that the checkpoint needs none.

    Raises:
        ModelError: the file is a pickle, damaged, of another kind of model, or lacks a tensor; or the components name
            other libraries.
    """
    for name, entry in pipeline_index(components).items():
        if isinstance(entry, list) and entry[:1] and entry[0] not in _LIBRARIES:
            raise ModelError(
                f"base_model.components: model_index.json takes {name} from {entry[0]!r}, no model library.",
                "Name a Stable Diffusion pipeline of the diffusers library.",
            )
    header = require_checkpoint(checkpoint, has_vae=has_vae)
    for part in WITH_WEIGHTS:
        if not (components / part / "config.json").is_file():
            raise ModelError(
                f"base_model.components: there is no {part}/config.json in {components}.",
                "Name the folder of a Stable Diffusion pipeline in diffusers layout.",
            )
    for part, found in _converted_shapes(header, components).items():
        wanted = {
            name: tuple(tensor.shape) for name, tensor in empty_part(components / part, part).state_dict().items()
        }
        require_tensors(found, wanted, f"base_model.source: the {part} of {checkpoint.name}", _FITS)
    return header


def _converted_shapes(header: Header, components: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """The shapes of the tensors of UNet, text encoder and VAE, if it is there, by diffusers' names."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    tensors = {name: torch.empty(shape, device="meta") for name, shape in header.shapes.items()}
    with model_errors(components, "unet, VAE or text encoder"):
        converted = {"unet": convert_ldm_unet_checkpoint(tensors, config=_config(components, "unet"))}
        if header.has(*VAES):
            converted["vae"] = convert_ldm_vae_checkpoint(tensors, config=_config(components, "vae"))
        encoder = empty_part(components / "text_encoder", "text_encoder")
        converted["text_encoder"] = _text_tensors(header, tensors, encoder)
    return {part: {name: tuple(t.shape) for name, t in found.items()} for part, found in converted.items()}


def _text_tensors(header: Header, tensors: Mapping[str, Tensor], encoder: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint's text encoder by the model's own names; none where it has others than are known.

    Args:
        encoder: the model, which may be empty.
    """
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    if clip := clip_names(header):
        return {name: tensors[stored] for name, stored in clip.items()}
    for prefix in OPEN_CLIP:
        # With this tensor, which belongs to no part of the pipeline, the library would take its size for the encoder's.
        names = [name for name in header.shapes if name.startswith(prefix) and name != f"{prefix}text_projection"]
        if any(name.startswith(f"{prefix}transformer.resblocks.") for name in names):
            found = convert_open_clip_checkpoint(encoder, {name: tensors[name] for name in names}, prefix)
            return {current_name(name): tensor for name, tensor in found.items()}
    return {}


def _config(components: Path, part: str) -> dict[str, Any]:
    return json_object(components / part / "config.json")


def convert_single_file(checkpoint: Path, components: Path, folder: Path, *, has_vae: bool = False) -> None:
    """Turn a single `.safetensors` checkpoint into a pipeline's folder in diffusers layout.

    What the checkpoint says of its UNet's predictions goes into the scheduler's configuration.

    Args:
        folder: the pipeline's, which is made.

    Takes the rest, and raises, as `require_fitting` does.
    """
    header = require_fitting(checkpoint, components, has_vae=has_vae)
    from diffusers import StableDiffusionPipeline

    given: dict[str, Any] = {"safety_checker": None}
    if not header.has(*VAES):
        given["vae"] = None
    try:
        given["text_encoder"] = _text_encoder(checkpoint, header, components)
        with _with_plain_suffix(checkpoint, folder.parent) as path:
            pipeline = StableDiffusionPipeline.from_single_file(
                str(path), config=str(components), local_files_only=True, **given
            )
        _require_whole(pipeline)
    except Exception as error:  # As in `model_errors`, it can be almost any.
        raise_if_limit(error)
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{checkpoint.name} is not a Stable Diffusion checkpoint that matches {components}: {reason}.",
            "Check base_model.source and base_model.components.",
        ) from error
    pipeline.save_pretrained(folder)
    _write_what_it_says(header, folder / "scheduler" / "scheduler_config.json")


def require_fitting_vae(checkpoint: Path, components: Path) -> dict[str, str] | None:
    """Refuse a file that holds no VAE of that configuration, without loading its weights.

    Args:
        components: the pipeline's folder that holds the VAE's configuration.

    Returns:
        The names of its tensors in the file by the model's own; None where these are original ones, to be converted.

    Raises:
        ModelError: the file is a pickle, damaged, or no VAE of that configuration.
    """
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    vae = empty_part(components / "vae", "vae")
    header = require_vae(checkpoint, vae.config["latent_channels"])
    tensors = {name: torch.empty(shape, device="meta") for name, shape in header.shapes.items()}
    stored = {current_name(name): name for name in tensors}
    is_original = any("encoder.down." in name for name in tensors)
    found = {name: tensors[old] for name, old in stored.items()}
    if is_original:
        with model_errors(components, "vae"):
            found = convert_ldm_vae_checkpoint(tensors, config=_config(components, "vae"))
    wanted = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    require_tensors(shapes, wanted, f"base_model.vae: {checkpoint.name}", A_VAE)
    return None if is_original else stored


def convert_vae(checkpoint: Path, components: Path, folder: Path) -> None:
    """Turn a VAE in a single `.safetensors` file, or the one in a checkpoint, into a folder in diffusers layout.

    Args:
        folder: the VAE's, which is made.

    Takes the rest, and raises, as `require_fitting_vae` does.
    """
    from diffusers import AutoencoderKL

    stored = require_fitting_vae(checkpoint, components)
    if stored is None:
        options = {"config": str(components), "subfolder": "vae", "local_files_only": True}
        with model_errors(components, "vae"), _with_plain_suffix(checkpoint, folder.parent) as path:
            vae = AutoencoderKL.from_single_file(str(path), **options)
    else:
        vae = empty_part(components / "vae", "vae")
        _fill(vae, checkpoint, stored)
    vae.save_pretrained(folder)


def _text_encoder(checkpoint: Path, header: Header, components: Path) -> Any:
    """The text encoder of a checkpoint, in fp32.

    The library knows its names in part, and of two text encoders it may take the other.
    """
    encoder = empty_part(components / "text_encoder", "text_encoder")
    with safe_open(checkpoint, framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in header.shapes if name.startswith((*CLIP, *OPEN_CLIP))}
    found = _text_tensors(header, stored, encoder)
    encoder.load_state_dict({name: found[name].float() for name in encoder.state_dict()}, assign=True)
    return encoder.eval()


def _fill(part: Any, checkpoint: Path, stored: Mapping[str, str]) -> None:
    """Give an empty part the tensors of a checkpoint, which has them all, in fp32.

    Args:
        stored: the names in the checkpoint by the part's own.
    """
    with safe_open(checkpoint, framework="pt") as file:
        weights = {name: file.get_tensor(stored[name]).float() for name in part.state_dict()}
    part.load_state_dict(weights, assign=True)


@contextmanager
def _with_plain_suffix(checkpoint: Path, scratch: Path) -> Iterator[Path]:
    """A path of the checkpoint by which the library takes it for safetensors: it knows the suffix in one spelling."""
    if checkpoint.suffix == ".safetensors":
        yield checkpoint
        return
    with TemporaryDirectory(dir=scratch) as links:
        link = Path(links) / f"{checkpoint.stem}.safetensors"
        link.symlink_to(checkpoint.absolute())
        yield link


def _write_what_it_says(header: Header, path: Path) -> None:
    """Put what the checkpoint says of its UNet's predictions into the scheduler's configuration at that path."""
    says: dict[str, Any] = {} if header.predicts is None else {"prediction_type": header.predicts}
    if header.zero_terminal_snr:
        says |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    settings = json.loads(path.read_bytes())
    if settings | says != settings:
        path.write_text(json.dumps(settings | says, indent=2, sort_keys=True) + "\n")


def _require_whole(pipeline: Any) -> None:
    """Raise ValueError if weights have no values, since the checkpoint lacked them."""
    parts = (part for name in WITH_WEIGHTS if (part := getattr(pipeline, name)) is not None)
    lacking = [name for part in parts for name, weight in part.named_parameters() if weight.is_meta]
    if lacking:
        raise ValueError(f"its weights lack {', '.join(lacking[:3])}")
