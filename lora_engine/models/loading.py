"""How the libraries load a part of a base model, and what goes wrong there."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora_engine.errors import ModelError
from lora_engine.system.limits import raise_if_limit


@contextmanager
def model_errors(folder: Path, component: str) -> Iterator[None]:
    """Turn the block's errors into a ModelError about that component."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # diffusers and transformers raise almost any where something is wrong with a file.
        raise_if_limit(error)
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"The base model's {component} cannot be loaded from {folder}: {reason}.",
            "Give a Stable Diffusion 1.x or 2.x pipeline in diffusers layout with safetensors weights.",
        ) from error


def empty_part(folder: Path, part: str) -> Any:
    """The layers of a UNet, VAE or text encoder on the meta device: they have shapes but no values, and no memory.

    Args:
        folder: the part's own, with its `config.json`.
    """
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with init_empty_weights(), model_errors(folder, part):
        if part == "text_encoder":
            return CLIPTextModel(CLIPTextConfig.from_pretrained(folder, local_files_only=True))
        kind = UNet2DConditionModel if part == "unet" else AutoencoderKL
        return kind.from_config(json.loads((folder / "config.json").read_bytes()))
