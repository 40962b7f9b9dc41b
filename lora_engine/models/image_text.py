"""Reads models of images and texts from their folders; no code from a model's repository runs."""

from pathlib import Path
from typing import Any

import torch

_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def read_config(folder: Path) -> Any:
    """What kind of model it is, and of what size.

    Raises:
        ValueError: why it cannot be read.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, **_LOCAL)
    except Exception as error:  # the library reports what is wrong with a file by almost any of them
        raise ValueError(_line(error)) from error


def load_whole(model_class: Any, folder: Path, dtype: torch.dtype, *, use_safetensors: bool) -> tuple[Any, Any]:
    """The model, for inference, and the processor that prepares its input.

    Raises:
        ValueError: why it cannot be loaded. Also where the files lack weights, which the library would draw at random.
    """
    from transformers import AutoProcessor

    options = {"use_safetensors": use_safetensors, "weights_only": True, "dtype": dtype, **_LOCAL}
    try:
        model, loaded = model_class.from_pretrained(folder, output_loading_info=True, **options)
        processor = AutoProcessor.from_pretrained(folder, **_LOCAL)
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise ValueError(_line(error)) from error
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(f"its weights lack {', '.join(missing[:3])}")
    return model.eval(), processor


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
