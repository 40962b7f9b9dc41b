"""Computes latents and text embeddings once; VAE and text encoder are gone before training starts."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing

import torch
from safetensors.torch import save
from torch import Tensor

from job.run.cache import ContentCache
from job.run.context import Attempt
from job.run.dataset import Captions, Images
from lora_engine.dataset import encode
from lora_engine.dataset.encoded import EMPTY_PROMPT, Encoded, text_name
from lora_engine.dataset.tensor_files import TensorFiles
from lora_engine.images.prepare import pixels_key
from lora_engine.models import stable_diffusion
from lora_engine.models.files import LocalModel
from lora_engine.records import ImageRecord
from lora_engine.system.device import DTYPES, DtypeName

_Compute = Callable[[Sequence[str]], Iterable[tuple[str, Tensor]]]


def encode_all(
    attempt: Attempt,
    images: Images,
    captions: Captions,
    model: LocalModel,
    device: torch.device,
    precisions: Collection[DtypeName],
    *,
    flips: bool,
) -> Encoded:
    """Latents of every image and embeddings of every text, from the cache where it has them.

    Args:
        precisions: what the packs' bases compute in; texts are encoded in each of them.
        flips: whether latents of the training images' mirror images are wanted, too.
    """
    moments = _latents(attempt, images.used, images, model, device, mirrored=False)
    mirrored = _latents(attempt, images.train, images, model, device, mirrored=True) if flips else {}
    texts = [
        EMPTY_PROMPT,
        *sorted({t for records in captions.values() for r in records for t in r.texts} - {EMPTY_PROMPT}),
    ]
    embeddings = {DTYPES[p]: _embeddings(attempt, texts, model, device, p) for p in dict.fromkeys(precisions)}

    def ids(records: Sequence[ImageRecord]) -> tuple[str, ...]:
        return tuple(record.id for record in records)

    return Encoded(ids(images.train), ids(images.validation), moments, mirrored, tuple(texts), embeddings)


def _latents(
    attempt: Attempt,
    wanted: Sequence[ImageRecord],
    images: Images,
    model: LocalModel,
    device: torch.device,
    *,
    mirrored: bool,
) -> TensorFiles:
    parts = (model.part("vae").sha256, pixels_key(attempt.manifest.preprocess), *(["mirrored"] if mirrored else []))

    def compute(missing: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        vae = stable_diffusion.load_vae(model)
        squares = ((image, images.prepared.paths[image]) for image in missing)
        yield from encode.encode_latents(vae, squares, device, mirrored=mirrored)

    return _cached(attempt, "latents", _key(*parts), "images", [record.id for record in wanted], compute)


def _embeddings(
    attempt: Attempt, texts: Sequence[str], model: LocalModel, device: torch.device, precision: DtypeName
) -> TensorFiles:
    dtype = DTYPES[precision]
    key = _key(model.part("text_encoder").sha256, model.part("tokenizer").sha256, precision)
    text_of = {text_name(text): text for text in texts}

    def compute(missing: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        tokenizer, encoder = stable_diffusion.load_text_encoder(model, dtype)
        wanted = [text_of[name] for name in missing]
        yield from zip(missing, encode.encode_texts(tokenizer, encoder, wanted, device), strict=True)

    return _cached(attempt, "embeddings", key, "texts", list(text_of), compute)


def _cached(attempt: Attempt, kind: str, key: str, unit: str, names: Sequence[str], compute: _Compute) -> TensorFiles:
    """The values, in files that are read when a value is used."""
    cache = ContentCache[Tensor](
        attempt.cache_folder(kind, key),
        attempt.cache_scratch(kind, key),
        attempt.progress.warn,
        lambda values: save(dict(values)),
        lambda path: TensorFiles([path]),
    )
    with (
        attempt.progress.stage(kind, total=len(names), unit=unit) as stage,
        closing(cache.values(names, compute)) as values,
    ):
        for _ in values:
            stage.advance(1)
            attempt.stop.check()
    return TensorFiles(cache.files)


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
