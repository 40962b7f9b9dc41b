"""Captions images with an image-to-text model of the transformers library: BLIP and its like, or one that answers."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from lora_engine.config.models import CaptionerConfig, DtypeName
from lora_engine.errors import ModelError
from lora_engine.images.squares import read_square
from lora_engine.models.captioner_kind import QUESTION, Kind, captioner_kind, not_a_captioner, reader_of
from lora_engine.models.files import LocalModel, holds_safetensors, how_to_load
from lora_engine.models.image_text import load_processor, load_whole, read_config
from lora_engine.models.wording import Wording, require_words, wordings
from lora_engine.system.device import DTYPES, resolve_precision
from lora_engine.system.limits import raise_if_limit
from lora_engine.system.prefetch import prefetch

FILE_PATTERNS = ("*.json", "*.txt", "*.safetensors", "*.model", "chat_template.jinja")
_KEY = "captioner.source"  # the manifest's key of the model, where none is given
_PLAIN = re.compile(r"[A-Za-z0-9]+( [A-Za-z0-9]+)*")
# What a model's own settings of generation may ask for otherwise.
_ONE_ANSWER = {"num_return_sequences": 1, "return_dict_in_generate": False, "stop_strings": None}


class Captioner:
    """A loaded captioner. It searches greedily or by beams and uses no random numbers: an image has one caption."""

    def __init__(self, model: Any, wording: Wording, config: CaptionerConfig, device: torch.device) -> None:
        self._model, self._wording, self._config, self._device = model, wording, config, device

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

    def try_out(self) -> None:
        """Caption a grey square, which fails where the model is not to be asked in these words."""
        self._generate(self._wording.inputs([Image.new("RGB", (224, 224), "grey")]))

    def _read(self, batch: Sequence[tuple[str, Path]]) -> tuple[list[str], Any]:
        """The ids of a batch and the model's inputs, in which the last image is repeated until the batch is full."""
        pictures = [read_square(path) for _, path in batch]
        pictures += pictures[-1:] * (self._config.batch_size - len(pictures))
        return [image_id for image_id, _ in batch], self._wording.inputs(pictures)

    def _generate(self, inputs: Any) -> list[str]:
        inputs = inputs.to(self._device)
        for name, value in inputs.items():
            if torch.is_tensor(value) and value.is_floating_point():
                inputs[name] = value.to(self._model.dtype)
        with torch.inference_mode():
            tokens_BL = self._model.generate(
                **inputs,
                do_sample=False,
                num_beams=self._config.beams,
                max_new_tokens=self._config.max_new_tokens,
                **_ONE_ANSWER,
            )
        return self._wording.captions(tokens_BL, inputs)


def _in_batches(images: Iterable[tuple[str, Path]], size: int) -> Iterator[list[tuple[str, Path]]]:
    """Yield the images in lists of that size; the last one may be shorter."""
    remaining = iter(images)
    while batch := list(islice(remaining, size)):
        yield batch


def require_captioner(model: LocalModel, config: CaptionerConfig, what: str = _KEY) -> None:
    """Refuse a model that cannot caption, or cannot be asked in its words, without loading its weights.

    Args:
        what: the manifest's key of the model, for messages.

    Raises:
        ModelError: the weights are pickles that are not allowed, or the model cannot caption.
    """
    holds_safetensors(model, what)
    kind = kind_of(model, config, what)
    try:
        processor = load_processor(model.path, read_config(model.path))
    except ValueError as error:
        raise _not_loadable(model.path, what, error) from error
    try:
        require_words(processor, kind, config.prompt)
    except ValueError as error:
        raise not_a_captioner(what, error) from error


def kind_of(model: LocalModel, config: CaptionerConfig, what: str = _KEY) -> Kind:
    """How the model is asked for captions. Takes `what`, and raises, as `captioner_kind` does."""
    return captioner_kind(reader_of(model.path), config.prompt, what)


def load_captioner(model: LocalModel, config: CaptionerConfig, device: torch.device, what: str = _KEY) -> Captioner:
    """Load a captioner through transformers' image-to-text classes. No code from the model's repository runs.

    Args:
        what: the manifest's key of the model, for messages.

    Raises:
        ModelError: the weights are pickles that are not allowed or are incomplete, or the model cannot caption.
    """
    from transformers import AutoModelForImageTextToText

    options, kind = how_to_load(model, what), kind_of(model, config, what)
    dtype = DTYPES[captioner_precision(config, device)]
    try:
        loaded, processor = load_whole(AutoModelForImageTextToText, model.path, dtype, **options)
    except ValueError as error:
        raise _not_loadable(model.path, what, error) from error
    loaded = loaded.to(device)
    try:
        ways = wordings(processor, kind, config.prompt)
        return _first_that_works(Captioner(loaded, wording, config, device) for wording in ways)
    except ValueError as error:
        raise not_a_captioner(what, error) from error


def _not_loadable(folder: Path, what: str, reason: object) -> ModelError:
    return ModelError(
        f"{what}: the captioner in {folder} cannot be loaded: {reason}.",
        "Use an image-to-text model of the transformers library, such as BLIP.",
    )


def _first_that_works(captioners: Iterable[Captioner]) -> Captioner:
    """The first captioner that gets through a trial.

    Raises:
        ValueError: none does, for the reason of the first.
    """
    reasons: list[str] = []
    for captioner in captioners:
        try:
            captioner.try_out()
        except Exception as error:  # noqa: BLE001 - the library raises almost any where words and image do not fit
            raise_if_limit(error)
            reasons.append(" ".join(str(error).split())[:300] or type(error).__name__)
        else:
            return captioner
    raise ValueError(reasons[0] if reasons else "it cannot be asked")


def captioner_precision(config: CaptionerConfig, device: torch.device) -> DtypeName:
    """The dtype that the captioner computes in. On a CPU `auto` is fp32, since bf16 would change captions."""
    automatic = config.precision == "auto" and device.type == "cpu"
    return "fp32" if automatic else resolve_precision(config.precision, device)


def captioner_key(
    model_sha256: str, config: CaptionerConfig, precision: DtypeName, preprocess: str, kind: Kind = "continues"
) -> str:
    """A name for all that decides an image's caption but the image: model, search, precision and preprocessing.

    Args:
        preprocess: names all that decides the pixels of a prepared image, as `pixels_key` does.
        kind: how the model is asked.
    """
    settings = config.model_dump_json(exclude={"source", "revision", "allow_pickle", "precision"})
    parts = [model_sha256, settings, precision, preprocess]
    if kind == "answers":
        parts.append(config.prompt or QUESTION)
    elif config.prompt and not _PLAIN.fullmatch(config.prompt):
        parts.append("without the prompt")  # Version 0.1.0 left all but plain words in the captions.
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
