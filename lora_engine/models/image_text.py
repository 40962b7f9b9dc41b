"""Loads models of images and texts with the transformers library; no code from a model's repository runs."""

from pathlib import Path
from typing import Any

import torch

from lora_engine.models.finite import why_not_finite
from lora_engine.system.limits import raise_if_limit

_LOCAL = {"local_files_only": True, "trust_remote_code": False}


def read_config(folder: Path) -> Any:
    """The configuration of the model in that folder, which tells its kind and its size.

    Raises:
        ValueError: it cannot be read, for the reason that the message gives.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, **_LOCAL)
    except Exception as error:  # The library raises almost any exception where something is wrong with a file.
        raise_if_limit(error)
        raise ValueError(_line(error)) from error


def load_whole(model_class: Any, folder: Path, dtype: torch.dtype, **weights: Any) -> tuple[Any, Any]:
    """The model, ready for inference, and the processor that prepares its input.

    Args:
        weights: which files hold the weights, as `how_to_load` gives it.

    Raises:
        ValueError: the model cannot be loaded, for the reason that the message gives; or its files lack weights, which
            the library would fill with random numbers, or hold some that are not finite.
    """
    options = {**weights, "weights_only": True, "dtype": dtype, **_LOCAL}
    try:
        model, loaded = model_class.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:  # As in `read_config`, it can be almost any.
        raise_if_limit(error)
        raise ValueError(_line(error)) from error
    processor = load_processor(folder, model.config)
    if missing := sorted(loaded["missing_keys"]):
        raise ValueError(f"its weights lack {', '.join(missing[:3])}")
    if reason := why_not_finite(model.state_dict().items()):
        raise ValueError(reason)
    return model.eval(), processor


def load_processor(folder: Path, config: Any) -> Any:
    """The processor of the model in that folder, of that configuration.

    Of one that takes videos, too, it is all but the part for videos, which alone would need torchvision.

    Raises:
        ValueError: it cannot be loaded, for the reason that the message gives; or its files lack the vocabulary, and
            the library has made one without words.
    """
    processor = _load_processor(folder, type(config))
    words, known = getattr(processor, "tokenizer", None), getattr(config, "text_config", config)
    if words is not None and 2 * len(words) < (size := getattr(known, "vocab_size", 0)):
        raise ValueError(f"its tokenizer has {len(words)} tokens, and the model {size}")
    return processor


def _load_processor(folder: Path, config_class: type[Any]) -> Any:
    from transformers import PROCESSOR_MAPPING, AutoProcessor

    try:
        processor_class: Any = PROCESSOR_MAPPING.get(config_class, None)
        parts = [] if processor_class is None else processor_class.get_attributes()
        if "video_processor" not in parts:
            return AutoProcessor.from_pretrained(folder, **_LOCAL)
        kept = classmethod(lambda _: [part for part in parts if part != "video_processor"])
        without: Any = type(processor_class.__name__, (processor_class,), {"get_attributes": kept})
        return without.from_pretrained(folder, **_LOCAL)
    except Exception as error:  # As in `read_config`, it can be almost any.
        raise_if_limit(error)
        raise ValueError(_line(error)) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
