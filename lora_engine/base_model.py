"""Loads the parts of a Stable Diffusion pipeline, one at a time, from a folder in diffusers layout."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_engine.diffusion import NoiseSchedule
from lora_engine.errors import ModelError

COMPONENTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")

# What of a pipeline the job reads; a hub download or a prefix needs no more.
FILE_PATTERNS = (
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/*",
    "scheduler/*",
)
# What a single-file checkpoint lacks.
CONFIG_PATTERNS = ("model_index.json", "*/config.json", "tokenizer/*", "scheduler/*")


def _load(folder: Path, component: str, model_class: Any, **options: Any) -> Any:
    try:
        return model_class.from_pretrained(folder, subfolder=component, local_files_only=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        # diffusers and transformers report missing, pickled and unreadable files by all of these
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"The base model's {component} cannot be loaded from {folder}: {reason}.",
            "Give a Stable Diffusion 1.x or 2.x pipeline in diffusers layout with safetensors weights.",
        ) from error


def load_unet(folder: Path, dtype: torch.dtype) -> nn.Module:
    """The UNet, in `dtype`, on the CPU, in evaluation mode."""
    from diffusers import UNet2DConditionModel

    unet = _load(folder, "unet", UNet2DConditionModel, torch_dtype=dtype, use_safetensors=True)
    return unet.eval()  # type: ignore[no-any-return]


def load_vae(folder: Path) -> Any:
    """The autoencoder in fp32, whose encoder overflows in fp16."""
    from diffusers import AutoencoderKL

    return _load(folder, "vae", AutoencoderKL, torch_dtype=torch.float32, use_safetensors=True).eval()


def load_text_encoder(folder: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The CLIP tokenizer and text encoder."""
    from transformers import CLIPTextModel

    encoder = _load(folder, "text_encoder", CLIPTextModel, dtype=dtype, use_safetensors=True)
    return load_tokenizer(folder), encoder.eval()


def load_tokenizer(folder: Path) -> Any:
    """The CLIP tokenizer alone."""
    from transformers import CLIPTokenizer

    return _load(folder, "tokenizer", CLIPTokenizer)


def load_noise_schedule(folder: Path) -> NoiseSchedule:
    """The noise levels and the prediction type that the base model was trained with.

    Raises:
        ModelError: the scheduler predicts something other than the noise or v.
    """
    from diffusers import DDPMScheduler

    scheduler = _load(folder, "scheduler", DDPMScheduler)
    prediction_type = scheduler.config.prediction_type
    if prediction_type not in ("epsilon", "v_prediction"):
        raise ModelError(
            f"The base model predicts {prediction_type!r}.", "Only epsilon and v_prediction models can be trained."
        )
    return NoiseSchedule(scheduler.alphas_cumprod.double(), prediction_type)


def load_sampler(folder: Path) -> Any:
    """The scheduler that the pipeline draws samples with."""
    from diffusers import DiffusionPipeline, PNDMScheduler

    try:
        index = DiffusionPipeline.load_config(folder, local_files_only=True)
    except OSError:
        index = {}
    import diffusers

    name = index.get("scheduler", ("diffusers", "PNDMScheduler"))[1]
    return _load(folder, "scheduler", getattr(diffusers, name, PNDMScheduler))


def convert_single_file(checkpoint: Path, components: Path, folder: Path) -> None:
    """Turn one `.safetensors` checkpoint into a pipeline folder; `components` holds configuration and tokenizer."""
    from diffusers import StableDiffusionPipeline
    from diffusers.loaders.single_file_utils import SingleFileComponentError

    try:
        pipeline = StableDiffusionPipeline.from_single_file(
            str(checkpoint), config=str(components), local_files_only=True, safety_checker=None
        )
    except (SingleFileComponentError, OSError, ValueError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{checkpoint.name} is not a Stable Diffusion checkpoint that matches {components}: {reason}.",
            "Check base_model.source and base_model.components.",
        ) from error
    pipeline.save_pretrained(folder)
