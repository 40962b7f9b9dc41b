"""Scores with a CLIP model how well pictures fit texts."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from lora_engine.errors import ModelError
from lora_engine.models.files import LocalModel, how_to_load
from lora_engine.models.image_text import load_processor, load_whole, read_config

FILE_PATTERNS = ("*.json", "*.txt", "*.safetensors")
_AT_ONCE = 32  # pictures or texts in a pass


class ClipScorer:
    """A loaded CLIP model, in fp32."""

    def __init__(self, model: Any, processor: Any, device: torch.device) -> None:
        self._model, self._processor, self._device = model, processor, device

    def cosines(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """The cosine of each picture's and each text's embedding, [pictures, texts]. Texts are cut to CLIP's length."""
        embeddings = self.image_embeddings(pictures).astype(np.float64), self.text_embeddings(texts).astype(np.float64)
        return embeddings[0] @ embeddings[1].T

    def image_embeddings(self, pictures: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        """The embedding of each picture, of length 1: [pictures, D]. At least one picture."""
        return self._normalised(
            self._model.get_image_features(**self._inputs(images=list(some))) for some in _parts(pictures)
        )

    def text_embeddings(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """The embedding of each text, of length 1: [texts, D]. At least one text."""
        return self._normalised(
            self._model.get_text_features(**self._inputs(text=list(some), padding=True, truncation=True))
            for some in _parts(texts)
        )

    def _inputs(self, **of: Any) -> Any:
        return self._processor(return_tensors="pt", **of).to(self._device)

    @torch.inference_mode()
    def _normalised(self, features: Iterable[Any]) -> npt.NDArray[np.float32]:
        found = torch.cat([each.pooler_output.float().cpu() for each in features])
        if not found.isfinite().all():
            raise ModelError(
                "evaluation.samples.clip.source: the CLIP model's embeddings are not finite, though its weights are.",
                "Check its processor's configuration, or name another CLIP model.",
            )
        return torch.nn.functional.normalize(found, dim=-1).numpy()


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (values[start : start + _AT_ONCE] for start in range(0, len(values), _AT_ONCE))


def require_clip(model: LocalModel) -> dict[str, Any]:
    """Refuse a model that is no CLIP model, without loading its weights; return how the library is to load these.

    Raises:
        ModelError: the weights are pickles that are not allowed, the model is of another kind, or it has no words.
    """
    from transformers import CLIPConfig

    options = how_to_load(model, "evaluation.samples.clip.source")
    try:
        config = read_config(model.path)
    except ValueError as error:
        raise _not_loadable(model.path, error) from error
    if not isinstance(config, CLIPConfig):
        raise _not_loadable(model.path, f"its model type is {config.model_type}")
    try:
        load_processor(model.path, config)
    except ValueError as error:
        raise _not_loadable(model.path, error) from error
    return options


def load_clip(model: LocalModel, device: torch.device) -> ClipScorer:
    """Load a CLIP model.

    Raises:
        ModelError: the weights are pickles that are not allowed, damaged or incomplete, or of another kind of model.
    """
    from transformers import CLIPModel

    options = require_clip(model)
    try:
        loaded, processor = load_whole(CLIPModel, model.path, torch.float32, **options)
    except ValueError as error:
        raise _not_loadable(model.path, error) from error
    return ClipScorer(loaded.to(device), processor, device)


def _not_loadable(folder: Path, reason: object) -> ModelError:
    return ModelError(
        f"evaluation.samples.clip.source: {folder} cannot be loaded as a CLIP model: {reason}.",
        "Use a CLIP model of the transformers library, such as openai/clip-vit-base-patch32.",
    )
