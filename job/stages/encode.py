"""Computes latents and text embeddings once; VAE and text encoder are freed before training starts."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import torch
from safetensors.torch import save
from torch import Tensor

from job.run.cache import ContentCache
from job.run.context import Attempt
from job.run.dataset import Captions, Images
from lora_engine.config.models import DtypeName
from lora_engine.dataset import encode
from lora_engine.dataset.encoded import EMPTY_PROMPT, Encoded, text_name
from lora_engine.dataset.tensor_files import TensorFiles
from lora_engine.images.prepare import pixels_key
from lora_engine.models import stable_diffusion
from lora_engine.models.files import LocalModel
from lora_engine.models.merge import text_encoder_facts
from lora_engine.records import ImageRecord
from lora_engine.system.device import DTYPES

_TITLES = {"latents": "Encoding images", "embeddings": "Encoding captions"}  # of the stages, for people
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
    tokens: bool = False,
) -> Encoded:
    """The latents of every image and the embeddings of every text, from the cache where it has them.

    Args:
        precisions: the dtypes that the base model computes in, over the packs that do not train the text encoder;
            texts are encoded in each of them.
        flips: whether the mirror images of the training images are encoded, too.
        tokens: whether a pack trains the text encoder, and takes the tokens of the texts.
    """
    # Latents are kept as the mean and the standard deviation that the VAE gives: training draws from these anew.
    moments = _latents(attempt, images.used, images, model, device, mirrored=False)
    mirrored = _latents(attempt, images.train, images, model, device, mirrored=True) if flips else {}
    texts = [
        EMPTY_PROMPT,
        *sorted({t for records in captions.values() for r in records for t in r.texts} - {EMPTY_PROMPT}),
    ]
    embeddings = {DTYPES[p]: _embeddings(attempt, texts, model, device, p) for p in dict.fromkeys(precisions)}

    def ids(records: Sequence[ImageRecord]) -> tuple[str, ...]:
        return tuple(record.id for record in records)

    encoded = Encoded(ids(images.train), ids(images.validation), moments, mirrored, tuple(texts), embeddings)
    if not tokens:
        return encoded
    rows = encode.tokens_of(stable_diffusion.load_tokenizer(model), texts)
    return replace(encoded, tokens={text_name(text): row for text, row in zip(texts, rows, strict=True)})


def _latents(
    attempt: Attempt,
    wanted: Sequence[ImageRecord],
    images: Images,
    model: LocalModel,
    device: torch.device,
    *,
    mirrored: bool,
) -> TensorFiles:
    key = _key(model.part("vae").sha256, pixels_key(attempt.manifest.preprocess), *(["mirrored"] if mirrored else []))

    def compute(missing: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        vae = stable_diffusion.load_vae(model)
        squares = ((image, images.prepared.paths[image]) for image in missing)
        yield from encode.encode_latents(vae, squares, device, mirrored=mirrored)

    return _cached(attempt, "latents", key, "images", [record.id for record in wanted], compute)


def _embeddings(
    attempt: Attempt, texts: Sequence[str], model: LocalModel, device: torch.device, precision: DtypeName
) -> TensorFiles:
    dtype = DTYPES[precision]
    skip = model.use.clip_skip
    skipped = [] if skip == 1 else [f"clip_skip {skip}"]
    merged = text_encoder_facts(model)
    key = _key(model.part("text_encoder").sha256, model.part("tokenizer").sha256, precision, *skipped, *merged)
    text_of = {text_name(text): text for text in texts}

    def compute(missing: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
        tokenizer, encoder = stable_diffusion.load_text_encoder(model, dtype)
        wanted = [text_of[name] for name in missing]
        yield from zip(missing, encode.encode_texts(tokenizer, encoder, wanted, device, skip), strict=True)

    return _cached(attempt, "embeddings", key, "texts", list(text_of), compute)


def _cached(attempt: Attempt, kind: str, key: str, unit: str, names: Sequence[str], compute: _Compute) -> TensorFiles:
    """Compute and store the values that the cache lacks, and give its files, which are read when a value is used.

    Args:
        kind: names the cache's folder and the stage.
        key: names the folder within it, and tells apart everything that changes a value but the value's name.
        unit: the word for one value in the log: "images" or "texts".
    """
    cache = ContentCache[Tensor](
        attempt.cache_folder(kind, key),
        attempt.cache_scratch(kind, key),
        attempt.progress.warn,
        lambda values: save(dict(values)),
        lambda path: TensorFiles([path]),
    )
    with (
        attempt.progress.stage(kind, _TITLES[kind], total=len(names), unit=unit) as stage,
        closing(cache.values(names, compute)) as values,
    ):
        for _ in values:
            stage.advance(1)
            attempt.stop.check()
    return TensorFiles(cache.files)


def _key(*facts: str) -> str:
    """The name of a folder of the cache, which differs where any of the facts differs."""
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
