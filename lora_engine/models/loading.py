"""How the libraries load a part of a base model, and what goes wrong there."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lora_engine.errors import EngineError, ModelError
from lora_engine.system.limits import raise_if_limit


@contextmanager
def model_errors(folder: Path, component: str) -> Iterator[None]:
    """Turn the block's errors into a ModelError about that component, but for those that say themselves what to do."""
    try:
        yield
    except EngineError:
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
            return CLIPTextModel(CLIPTextConfig.from_dict(json_object(folder / "config.json")))
        kind = UNet2DConditionModel if part == "unet" else AutoencoderKL
        return kind.from_config(json_object(folder / "config.json"))


def json_object(path: Path) -> dict[str, Any]:
    """What a file of a model holds.

    Raises:
        OSError, ValueError: the file cannot be read, or holds anything else than a JSON object.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is no JSON") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is no JSON object")
    return found
