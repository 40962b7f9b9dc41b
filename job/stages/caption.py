"""Gives every image its captions under every strategy of the manifest."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import torch

from job import layout
from job.manifest.packs import caption_sets
from job.run.cache import text_cache
from job.run.context import Attempt
from job.run.dataset import Captions, Images
from lora_engine.captions.lint import lint
from lora_engine.captions.strategies import caption_record, captioners_of, needs_sidecars
from lora_engine.config.captions import CAPTIONER, CaptionsConfig, ConstantCaptions, plain_parts
from lora_engine.images.prepare import pixels_key
from lora_engine.images.sidecars import read_sidecars
from lora_engine.models.captioner import captioner_key, captioner_precision, kind_of, load_captioner
from lora_engine.models.files import LocalModel
from lora_engine.records import CaptionRecord


def caption(
    attempt: Attempt, images: Images, captioners: Mapping[str, LocalModel], tokenizer: Any, device: torch.device
) -> Captions:
    """The captions of every set, of which those that no earlier attempt wrote are made and written now.

    What lint finds in the new ones is logged as a warning.

    Args:
        captioners: the models that generate captions, by their names; none where all sets are written.
        tokenizer: the base model's, to count what its text encoder reads.

    Raises:
        DataError: an image lacks the caption that its strategy needs.
    """
    stored = {name: _stored(attempt, name, config, images) for name, config in caption_sets(attempt.manifest).items()}
    missing = {name: config for name, config in caption_sets(attempt.manifest).items() if stored[name] is None}
    asked = [name for name in captioners_of(missing.values()) if name in captioners]
    generated = {name: _generate(attempt, images, name, captioners[name], device) for name in asked}
    existing = read_sidecars(images.prepared.files) if needs_sidecars(missing.values()) else {}

    def count_tokens(text: str) -> int:
        return len(tokenizer(text).input_ids)

    result: Captions = {name: records for name, records in stored.items() if records is not None}
    for name, config in missing.items():
        result[name] = tuple(
            caption_record(
                record.id,
                record.source,
                config,
                generated={name: texts[record.id] for name, texts in generated.items()},
                existing=existing.get(record.source),
                count_tokens=count_tokens,
            )
            for record in images.used
        )
        attempt.run.write_jsonl(layout.captions(name), (asdict(record) for record in result[name]))
        for warning in lint(result[name], may_repeat=isinstance(config, ConstantCaptions)).warnings:
            attempt.progress.warn(f"Captions of {name}: {warning}")
    return {name: result[name] for name in stored}


def _stored(attempt: Attempt, name: str, config: CaptionsConfig, images: Images) -> tuple[CaptionRecord, ...] | None:
    """The captions of a set as an earlier attempt wrote them; None where they are not there, or of something else."""
    captions, texts = attempt.run.read_rows(layout.captions(name), CaptionRecord), len(plain_parts(config))
    wanted = [(image.id, texts) for image in images.used]
    if captions is None or [(caption.id, len(caption.texts)) for caption in captions] != wanted:
        return None
    return tuple(captions)


def _generate(attempt: Attempt, images: Images, name: str, model: LocalModel, device: torch.device) -> dict[str, str]:
    """The text of the captioner of that name for every image, by the image's id, from the cache where it has it."""
    config, what = attempt.manifest.named_captioners()[name], f"{attempt.manifest.captioner_key(name)}.source"
    precision, kind = captioner_precision(config, device), kind_of(model, config, what)
    key = captioner_key(model.sha256, config, precision, pixels_key(attempt.manifest.preprocess), kind)

    def compute(missing: Sequence[str]) -> Iterator[tuple[str, str]]:
        captioner = load_captioner(model, config, device, what)
        for image_id, text in captioner.caption((image_id, images.prepared.paths[image_id]) for image_id in missing):
            yield image_id, text
            attempt.stop.check()

    result: dict[str, str] = {}
    title = "Captioning images" + ("" if name == CAPTIONER else f" by {name}")
    ids = [record.id for record in images.used]
    cache = text_cache(
        attempt.cache_folder("captions", key), attempt.cache_scratch("captions", key), attempt.progress.warn
    )
    with (
        attempt.progress.stage("caption", title, total=len(ids), unit="images") as stage,
        closing(cache.values(ids, compute)) as found,
    ):
        for image_id, text in found:
            result[image_id] = text
            stage.advance(1)
    return result
