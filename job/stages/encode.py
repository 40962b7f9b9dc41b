"""Computes latents and text embeddings once; VAE and text encoder are gone before training starts."""

import gc
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from job.cache import ShardCache
from job.context import Job
from job.handover import Captions, Images
from lora_engine import base_model, encode
from lora_engine.data.preprocess import pixels_key
from lora_engine.device import DTYPES, Resolved
from lora_engine.encoded import EMPTY_PROMPT, Encoded
from lora_engine.model_files import model_sha256
from lora_engine.records import ImageRecord

_LATENT_BATCH = 4
_TEXT_BATCH = 32

_Compute = Callable[[Sequence[str]], Iterable[tuple[str, Tensor]]]


def encode_all(
    job: Job, images: Images, captions: Captions, model: Path, device: torch.device, precision: Resolved
) -> Encoded:
    """Latents of every image and embeddings of every text, from the cache where it has them."""
    moments = _latents(job, images, model, device)
    texts = [
        EMPTY_PROMPT,
        *sorted({t for records in captions.values() for r in records for t in r.texts} - {EMPTY_PROMPT}),
    ]
    embeddings = _embeddings(job, texts, model, device, precision)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()

    def ids(records: Sequence[ImageRecord]) -> tuple[str, ...]:
        return tuple(record.id for record in records)

    return Encoded(
        ids(images.train),
        ids(images.validation),
        moments,
        torch.stack([embeddings[text] for text in texts]),
        {text: row for row, text in enumerate(texts)},
    )


def _latents(job: Job, images: Images, model: Path, device: torch.device) -> dict[str, Tensor]:
    key = _key(model_sha256(model / "vae"), pixels_key(job.manifest.preprocess))

    def compute(missing: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        vae = base_model.load_vae(model, allow_pickle=job.manifest.base_model.allow_pickle)
        yield from encode.encode_latents(vae, [(i, images.prepared.paths[i]) for i in missing], _LATENT_BATCH, device)

    return _cached(job, "latents", key, "images", [record.id for record in images.used], compute)


def _embeddings(
    job: Job, texts: Sequence[str], model: Path, device: torch.device, precision: Resolved
) -> dict[str, Tensor]:
    dtype = DTYPES[precision]
    key = _key(model_sha256(model / "text_encoder"), model_sha256(model / "tokenizer"), precision)
    text_of = {hashlib.sha256(text.encode()).hexdigest(): text for text in texts}

    def compute(missing: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        allow_pickle = job.manifest.base_model.allow_pickle
        tokenizer, encoder = base_model.load_text_encoder(model, dtype, allow_pickle=allow_pickle)
        wanted = [text_of[name] for name in missing]
        encoded = encode.encode_texts(tokenizer, encoder, wanted, _TEXT_BATCH, device)
        yield from zip(missing, (embedding for _, embedding in encoded), strict=True)

    found = _cached(job, "embeddings", key, "texts", list(text_of), compute)
    return {text_of[name]: value for name, value in found.items()}


def _cached(job: Job, kind: str, key: str, unit: str, names: Sequence[str], compute: _Compute) -> dict[str, Tensor]:
    cache = ShardCache[Tensor](job.cache_folder(kind, key), lambda shard: save(dict(shard)), load)
    result: dict[str, Tensor] = {}
    with (
        job.progress.stage(kind, total=len(names), unit=unit) as stage,
        closing(cache.values(names, compute)) as values,
    ):
        for name, value in values:
            result[name] = value
            stage.advance(1)
            job.stop.check()
    return result


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
