"""Gives every image its captions under every strategy of the manifest."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any

import torch

from job import layout
from job.errors import ExitCode, JobError
from job.manifest.packs import caption_sets
from job.run.cache import text_cache
from job.run.checkpoints import RESTORE, run_id_of
from job.run.context import Attempt
from job.run.dataset import Captions, Images
from job.run.hashes import CaptionHashes, captions_hash
from job.run.own_captions import FoundCaptions, require_captions
from lora_engine.captions.lint import CaptionLint, lint
from lora_engine.captions.strategies import caption_record, captioners_of, needs_sidecars
from lora_engine.config.captions import CAPTIONER, CaptionsConfig, ConstantCaptions, plain_parts
from lora_engine.images.prepare import pixels_key
from lora_engine.models.captioner import captioner_key, captioner_precision, kind_of, load_captioner
from lora_engine.models.files import LocalModel
from lora_engine.records import CaptionRecord


def caption(
    attempt: Attempt, images: Images, captioners: Mapping[str, LocalModel], tokenizer: Any, device: torch.device
) -> Captions:
    """The captions of every set, of which those that no earlier attempt wrote are made and written now.

    A line says where the new ones are from, and what lint finds in them is logged as a warning. Captions that came with
    the images are read first, so that what is wrong with them is said before a captioner starts.

    Args:
        captioners: the models that generate captions, by their names; none where all sets are written.
        tokenizer: the base model's, to count what its text encoder reads.

    Raises:
        DataError: images lack the caption that a strategy needs, or it cannot be read.
        JobError: 46 when captions are no longer those that an earlier attempt wrote.
    """
    stored = {name: _stored(attempt, name, config, images) for name, config in caption_sets(attempt.manifest).items()}
    missing = {name: config for name, config in caption_sets(attempt.manifest).items() if stored[name] is None}
    own = _read_own(attempt, images, missing.values()) if needs_sidecars(missing.values()) else None
    asked = [name for name in captioners_of(missing.values()) if name in captioners]
    generated = {name: _generate(attempt, images, name, captioners[name], device) for name in asked}

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
                existing=() if own is None else own.of.get(record.source, ()),
                count_tokens=count_tokens,
            )
            for record in images.used
        )
    _write(attempt, {name: result[name] for name in missing})
    found = {
        name: lint(result[name], may_repeat=isinstance(config, ConstantCaptions)) for name, config in missing.items()
    }
    if found:
        _say(attempt, own, found)
    return {name: result[name] for name in stored}


def _write(attempt: Attempt, made: Captions) -> None:
    """Write the captions of these sets, and before them their hashes, by which an edit is noticed."""
    if not made:
        return
    before = attempt.run.read_stored(layout.CAPTION_HASHES, CaptionHashes)
    hashes = {name: captions_hash(records) for name, records in made.items()}
    attempt.run.write_stored(
        layout.CAPTION_HASHES, CaptionHashes(sha256=(before.sha256 if before is not None else {}) | hashes)
    )
    for name, records in made.items():
        attempt.run.write_jsonl(layout.captions(name), (asdict(record) for record in records))


def _read_own(attempt: Attempt, images: Images, configs: Iterable[CaptionsConfig]) -> FoundCaptions:
    """Read the captions that came with the images, say what is odd about them, and keep that for the report.

    Raises:
        DataError: some cannot be read, or images have none and no strategy says what they get instead.
    """
    own = images.prepared.own
    for warning in own.facts.warnings:
        attempt.progress.warn(f"Captions of the dataset: {warning}")
    require_captions(own, configs)
    attempt.run.write_stored(layout.OWN_CAPTIONS, own.facts)
    return own


def _say(attempt: Attempt, own: FoundCaptions | None, found: Mapping[str, CaptionLint]) -> None:
    """Say in a line what became of the captions, and warn of what is odd about a set.

    Args:
        found: what lint says of each set that is new.
    """
    facts = {} if own is None else own.facts.model_dump(mode="json", exclude={"warnings"})
    dropped = {name: lint.lines_dropped for name, lint in found.items() if lint.lines_dropped}
    cut = {name: lint.truncated for name, lint in found.items() if lint.truncated}
    said = [] if own is None else [own.facts.text]
    for counts, what in ((dropped, "lines or rows left out"), (cut, "cut at 77 tokens or 2000 characters")):
        said += [f"{count} {what} in {name}" for name, count in counts.items()]
    text = f"Captions of {', '.join(found)}: {'; '.join(said) or 'none is cut'}"
    attempt.progress.say("captions read", text, **facts, lines_dropped=dropped, cut=cut)
    for name, each in found.items():
        for warning in each.warnings:
            attempt.progress.warn(f"Captions of {name}: {warning}")


def _stored(attempt: Attempt, name: str, config: CaptionsConfig, images: Images) -> tuple[CaptionRecord, ...] | None:
    """The captions of a set as an earlier attempt wrote them; None where they are not there, or of something else.

    Raises:
        JobError: 46 when they were changed since.
    """
    captions, parts = attempt.run.read_rows(layout.captions(name), CaptionRecord), len(plain_parts(config))
    wanted = [(image.id, parts) for image in images.used]
    if captions is None or [(caption.id, len(caption.places)) for caption in captions] != wanted:
        return None
    hashes = attempt.run.read_stored(layout.CAPTION_HASHES, CaptionHashes)
    then, now = None if hashes is None else hashes.sha256.get(name), captions_hash(captions)
    if then is None and run_id_of(attempt.run) is not None:  # an earlier version kept no hashes
        raise JobError(
            ExitCode.CONFLICT,
            f"{attempt.run.uri(layout.CAPTION_HASHES)} is missing or has no hash of {layout.captions(name)}.",
            RESTORE,
        )
    if then not in (None, now):
        raise JobError(
            ExitCode.CONFLICT,
            f"{attempt.run.uri(layout.captions(name))} was altered: its rows had SHA-256 {then}, and have {now}.",
            "Restore it from a copy, or give this run another name and its captions in the dataset: --set name=...",
        )
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
