"""What goes wrong where a library loads a part of a base model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
