"""Captions images with an image-to-text model of the transformers library, such as BLIP."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from lora_engine.config.models import CaptionerConfig
from lora_engine.errors import ModelError
from lora_engine.images.squares import read_square
from lora_engine.models.files import LocalModel, holds_safetensors
from lora_engine.models.image_text import load_whole, read_config
from lora_engine.system.device import DTYPES, DtypeName, resolve_precision
from lora_engine.system.prefetch import prefetch

FILE_PATTERNS = ("*.json", "*.txt", "*.safetensors", "*.model")


class Captioner:
    """A loaded captioner. It searches greedily or by beams and uses no random numbers: an image has one caption."""

    def __init__(self, model: Any, processor: Any, config: CaptionerConfig, device: torch.device) -> None:
        self._model, self._processor, self._config, self._device = model, processor, config, device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the model computes in."""
        dtype: torch.dtype = self._model.dtype
        return dtype

    def caption(self, images: Iterable[tuple[str, Path]]) -> Iterator[tuple[str, str]]:
        """Yield each image's id with its caption.

        The last batch is filled up with its last image, since the size of a batch can change its results.

        Args:
            images: ids and files of square RGB images.
        """
        with closing(prefetch(self._read, _in_batches(images, self._config.batch_size))) as batches:
            for ids, inputs in batches:
                yield from zip(ids, self._generate(inputs), strict=False)

    def _read(self, batch: Sequence[tuple[str, Path]]) -> tuple[list[str], Any]:
        """The ids of a batch and the model's inputs, in which the last image is repeated until the batch is full."""
        pictures = [read_square(path) for _, path in batch]
        pictures += pictures[-1:] * (self._config.batch_size - len(pictures))
        prompt = self._config.prompt
        text = {"text": [prompt] * len(pictures)} if prompt else {}
        return [image_id for image_id, _ in batch], self._processor(images=pictures, return_tensors="pt", **text)

    def _generate(self, inputs: Any) -> list[str]:
        inputs = inputs.to(self._device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self._model.dtype)
        with torch.inference_mode():
            tokens = self._model.generate(
                **inputs, do_sample=False, num_beams=self._config.beams, max_new_tokens=self._config.max_new_tokens
            )
        texts, prompt = self._processor.batch_decode(tokens, skip_special_tokens=True), self._config.prompt
        return [text.strip().removeprefix(prompt.lower()).removeprefix(prompt).strip() for text in texts]


def _in_batches(images: Iterable[tuple[str, Path]], size: int) -> Iterator[list[tuple[str, Path]]]:
    """Yield the images in lists of that size; the last one may be shorter."""
    remaining = iter(images)
    while batch := list(islice(remaining, size)):
        yield batch


def require_captioner(model: LocalModel) -> None:
    """Refuse a model that is no image-to-text model, without loading its weights.

    Raises:
        ModelError: the weights are pickles that are not allowed, or the model is of another kind.
    """
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    holds_safetensors(model, "captioner.source")
    try:
        config = read_config(model.path)
    except ValueError as error:
        raise _not_loadable(model.path, error) from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise _not_loadable(model.path, f"its model type is {config.model_type}")


def load_captioner(model: LocalModel, config: CaptionerConfig, device: torch.device) -> Captioner:
    """Load a captioner through transformers' image-to-text classes. No code from the model's repository runs.

    Raises:
        ModelError: the weights are pickles that are not allowed or are incomplete, or the model cannot caption.
    """
    from transformers import AutoModelForImageTextToText

    use_safetensors = holds_safetensors(model, "captioner.source")
    dtype = DTYPES[captioner_precision(config, device)]
    try:
        loaded, processor = load_whole(AutoModelForImageTextToText, model.path, dtype, use_safetensors=use_safetensors)
    except ValueError as error:
        raise _not_loadable(model.path, error) from error
    return Captioner(loaded.to(device), processor, config, device)


def _not_loadable(folder: Path, reason: object) -> ModelError:
    return ModelError(
        f"The captioner in {folder} cannot be loaded: {reason}.",
        "Use an image-to-text model of the transformers library, such as BLIP.",
    )


def captioner_precision(config: CaptionerConfig, device: torch.device) -> DtypeName:
    """The dtype that the captioner computes in. On a CPU `auto` is fp32, since bf16 would change captions."""
    automatic = config.precision == "auto" and device.type == "cpu"
    return "fp32" if automatic else resolve_precision(config.precision, device)


def captioner_key(model_sha256: str, config: CaptionerConfig, precision: DtypeName, preprocess: str) -> str:
    """A name for all that decides an image's caption but the image: model, search, precision and preprocessing.

    Args:
        preprocess: names all that decides the pixels of a prepared image, as `pixels_key` does.
    """
    settings = config.model_dump_json(exclude={"source", "revision", "allow_pickle", "precision"})
    return hashlib.sha256("\n".join((model_sha256, settings, precision, preprocess)).encode()).hexdigest()[:32]
