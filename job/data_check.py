"""Finds what a run would say of a dataset, from the headers of its files, their names and the captions beside them."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from job.errors import ExitCode, JobError
from job.init.choose import Base, base_of
from job.init.look import Found, look_through
from job.manifest.packs import ResolvedVariant, caption_sets, resolve_variants
from job.manifest.schema import Manifest
from job.plan import remote_keys
from job.process.progress import Progress
from job.process.stop import StopFlag
from job.run.context import new_attempt
from job.run.own_captions import find_own_captions, require_captions
from job.stages.fetch import fetch_dataset
from job.storage import is_remote
from job.storage.uris import local_path
from lora_engine.captions.strategies import needs_sidecars
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.captions import ExistingCaptions, plain_parts
from lora_engine.config.lr_schedule import CosineRestartsLrSchedule
from lora_engine.config.training import MOST_STEPS, TrainingConfig
from lora_engine.errors import DataError
from lora_engine.images.fates import data_warnings, fates_of, folder_warnings, said_because
from lora_engine.images.kinds import claims_image, why_left_out
from lora_engine.images.prepare import check_rejected
from lora_engine.images.sidecars import split_sidecars, without_captions
from lora_engine.images.sources import is_archive
from lora_engine.records import ImageRecord, SourceFile
from lora_engine.text import shortened

_FEW = 20  # images, below which an adapter mostly learns these images


def check_data(manifest: Manifest, workdir: Path, progress: Progress, stop: StopFlag) -> Iterator[str]:
    """Say in a line what is in the dataset, then what a person should look at, a line each.

    What lies behind a network is listed, not fetched.

    Args:
        workdir: the folder for scratch files, into which a local archive is unpacked, as by a run.

    Raises:
        JobError, DataError, ModelError, UnsafeError: a run would end with the same.
    """
    source = manifest.dataset.source
    if not is_remote(source):
        yield from _local(manifest, workdir, progress, stop)
    elif not is_archive(source):
        yield from _remote(manifest)
    else:
        yield f"Data: {source} is there; what is in it, the run will say."
        yield from _setting_warnings(manifest, None)


def _local(manifest: Manifest, workdir: Path, progress: Progress, stop: StopFlag) -> Iterator[str]:
    attempt, resolution = new_attempt(manifest, workdir, progress, stop), manifest.preprocess.resolution
    files = fetch_dataset(attempt)
    found = look_through(attempt, files, dict)
    records = _records(found, manifest)
    images = sum(record.used for record in records)
    if images < 2:
        raise JobError(
            ExitCode.DATA,
            f"{manifest.dataset.source} holds one image alone, in {len(found.pictures)} copies.",
            "Name a folder or archive of pictures, two at least: one to train on, another to hold out.",
        )
    parts = [
        f"Data: {images} images, of which about {manifest.dataset.expected_held_out(images)} will be held out",
        said_because("ignored", [(file.source, file.ignored) for file in found.ignored]),
        said_because("rejected", [(file.source, file.rejected) for file in found.rejected]),
        f"{len(found.pictures) - images} with the bytes of others" if len(found.pictures) > images else "",
    ]
    yield f"{'; '.join(filter(None, parts))}. Of images, only headers were decoded."
    yield from (f"warning: {each}" for each in data_warnings(records, fates_of(records, resolution)))
    yield from _setting_warnings(manifest, images)
    errors: list[DataError] = []
    try:
        check_rejected([*found.pictures, *found.ignored, *found.rejected], manifest.preprocess.max_rejected_fraction)
    except DataError as error:
        errors.append(error)
    try:
        yield from _captions(manifest, files, records)
    except DataError as error:
        errors.append(error)
    yield from (f"error: {error}" for error in errors[:-1])
    if errors:
        raise errors[-1]


def _captions(manifest: Manifest, files: Sequence[SourceFile], records: Sequence[ImageRecord]) -> Iterator[str]:
    """What there is to say of the captions that came with the images, if any are to be used.

    Raises:
        DataError: files cannot be read, or captions are missing.
    """
    configs = caption_sets(manifest).values()
    if not needs_sidecars(configs):
        return
    own = find_own_captions(files, records)
    yield f"Captions: {own.facts.text}."
    yield from (f"warning: Captions of the dataset: {each}." for each in own.facts.warnings)
    plain = [part for config in configs for _, part in plain_parts(config)]
    if own.facts.several and any(isinstance(part, ExistingCaptions) and part.lines == "first" for part in plain):
        yield (
            f"warning: Captions of the dataset: {own.facts.several} images have several lines or rows, of which the "
            "first is used (captions.lines)."
        )
    require_captions(own, configs)


def _remote(manifest: Manifest) -> Iterator[str]:
    keys = list(remote_keys(manifest))
    candidates, sidecars = split_sidecars([SourceFile(key, "") for key in keys])
    images = [file.key for file in candidates if claims_image(file.key)]
    others = [(f.key, why_left_out(f.key) or "not named like an image") for f in candidates if not claims_image(f.key)]
    possible = sum(why_left_out(file.key) is None for file in candidates)
    if possible < 2:
        raise JobError(
            ExitCode.DATA,
            f"{manifest.dataset.source} holds {possible} files that could be images.",
            "Name a folder or archive of pictures, two at least: one to train on, another to hold out.",
        )
    parts = [
        f"Data: {len(images)} files named like images, of which about "
        f"{manifest.dataset.expected_held_out(len(images))} will be held out",
        said_because("others", others),
        f"{len(sidecars)} files of captions",
    ]
    lacking = without_captions(images, [file.key for file in sidecars])
    if lacking and needs_sidecars(caption_sets(manifest).values()):
        parts.append(f"{len(lacking)} of {len(images)} have none beside them, such as {shortened(lacking[0], 40)}")
    yield f"{'; '.join(filter(None, parts))}. None was read."
    yield from (f"warning: {each}" for each in folder_warnings(keys))
    yield from _setting_warnings(manifest, len(images))


def _records(found: Found, manifest: Manifest) -> tuple[ImageRecord, ...]:
    """What a run will record, as far as headers and copies tell: all that can be used is trained on."""
    kept: dict[str, str] = {}  # hash to the key of the first file of these bytes
    sizes = Counter(file.size_bytes for file in found.pictures)
    paths = {file.key: Path(file.path) for file in found.files}
    records = []
    for at, file in enumerate(sorted((*found.pictures, *found.rejected, *found.ignored), key=lambda file: file.source)):
        usable, original = file.rejected is None and file.ignored is None, None
        if usable and sizes[file.size_bytes] > 1 and manifest.preprocess.deduplicate == "exact":
            original = kept.setdefault(_sha256(paths[file.source]), file.source)
        double = original is not None and original != file.source
        records.append(
            ImageRecord(
                id=f"{at:08d}",
                source=file.source,
                size_bytes=file.size_bytes,
                width=file.width,
                height=file.height,
                group=f"{at:08d}" if usable and not double else None,
                split="train" if usable and not double else None,
                duplicate_of=original if double else None,
                ignored=file.ignored is not None,
                rejected=file.rejected,
                why_ignored=file.ignored,
            )
        )
    return tuple(records)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _setting_warnings(manifest: Manifest, images: int | None) -> Iterator[str]:
    """What of the settings does not suit each other, the base model, or so many images; None where they are unknown."""
    source, resolution = manifest.base_model.source, manifest.preprocess.resolution
    base = _trained_base(source)
    if base is not None and not base.reduced <= resolution <= base.resolution:
        yield f"warning: preprocess.resolution is {resolution}, and the base model's own is {base.resolution}."
    if images is not None and images < _FEW:
        yield f"warning: {images} images are few: an adapter learns these by heart. Have {_FEW} at least."
    train = None if images is None else images - manifest.dataset.expected_held_out(images)
    yield from _adapter_warnings(resolve_variants(manifest, train))
    trainings = [variant.training for variant in resolve_variants(manifest)]
    yield from dict.fromkeys(line for training in trainings for line in _training_warnings(training, train))


def _training_warnings(training: TrainingConfig, train: int | None) -> Iterator[str]:
    """What of one variant's training does not suit itself, or so many images that it trains on."""
    yield from _schedule_warnings(training if train is None else training.counted(train))
    if train is None:
        return
    if training.is_cut_short(train):
        yield (
            f"warning: training.epochs {training.epochs:g} of about {train} images are more than {MOST_STEPS} "
            "updates, which is where training ends."
        )
    if training.batch_size > train:
        yield (
            f"warning: training.batch_size is {training.batch_size}, but only about {train} images are "
            "trained on: each update sees some of them more than once."
        )


def _schedule_warnings(training: TrainingConfig) -> Iterator[str]:
    """What of the schedule has no room in the updates that there are, if it is known how many."""
    schedule, steps = training.schedule, training.last_step
    if schedule.warmup_steps >= steps > 0:
        yield (
            f"warning: the learning rate rises for schedule.warmup_steps ({schedule.warmup_steps}) and "
            f"never arrives, since training.steps is {steps}."
        )
    left = steps - schedule.warmup(steps)
    if isinstance(schedule, CosineRestartsLrSchedule) and 2 * schedule.cycles > left > 0:
        yield (
            f"warning: the learning rate is to fall schedule.cycles ({schedule.cycles}) times in {left} updates, of "
            "which a fall needs two at least: it does not fall as asked for."
        )


def _adapter_warnings(variants: Sequence[ResolvedVariant]) -> Iterator[str]:
    """What of the adapters' settings has no effect, or none in some program that loads their files."""
    if doras := [variant.name for variant in variants if variant.lora.kind == "dora"]:
        yield (
            f"warning: lora.kind of {', '.join(doras)} is dora: of a file in kohya's format diffusers leaves out the "
            "magnitudes, and A1111 and ComfyUI divide by other norms than it was trained with. diffusers computes as "
            "it was trained with the file of adapters/diffusers, and every program does with a checkpoint that "
            "`lora-job export --merge` made."
        )
    if blocks := [variant.name for variant in variants if _has_alphas_of_blocks(variant.lora)]:
        yield (
            f"warning: lora.patterns of {', '.join(blocks)} has alphas of its own: of a file in kohya's format "
            "diffusers takes that of all for attention layers. Load it there from adapters/diffusers; A1111 and "
            "ComfyUI read each."
        )
    for variant in variants:
        text, last = variant.lora.text_encoder, variant.training.last_step
        if text is not None and text.stop_after is not None and text.stop_after >= last > 0:
            yield (
                f"warning: lora.text_encoder.stop_after of {variant.name} is {text.stop_after}, and there are {last} "
                "updates, so the text encoder trains to the end."
            )


def _has_alphas_of_blocks(lora: LoraConfig) -> bool:
    """Whether the alpha that a file says is another in some block than in others."""
    usual = lora.file_alpha(lora.rank, lora.alpha)
    sizes = ((block.rank or lora.rank, block.alpha or lora.alpha) for block in lora.patterns.values())
    return any(lora.file_alpha(rank, alpha) != usual for rank, alpha in sizes)


def _trained_base(source: str) -> Base | None:
    """The base model with the resolution that it was trained at; None where neither its files nor its name tell."""
    base = base_of(source)
    if base.known:
        return base
    if not is_remote(source):
        try:
            side = json.loads((local_path(source) / "unet" / "config.json").read_bytes()).get("sample_size")
        except (OSError, ValueError, AttributeError, RecursionError):  # what is wrong with a model, others say
            side = None
        if type(side) is int:
            return replace(base, resolution=side * 8)
    return None
