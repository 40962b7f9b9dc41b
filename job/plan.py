"""Computes what a run would do and need from the manifest and, where that needs no download, the dataset's listing."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from job.manifest.overrides import OVERRIDABLE, flat
from job.manifest.packs import NO_STARTS, Pack, Starts, caption_sets, packs_of, resolve_variants
from job.manifest.schema import Manifest
from job.manifest.trackers import with_defaults
from job.odd_settings import odd_settings
from job.prospect import Prospect, RatingProspect, foresee, foresee_pictures, foresee_rating, more_seeds_advised
from job.run.lora_files import pipelines_at_hand, starts_at_hand
from job.storage import is_remote, open_storage
from job.storage.uris import as_folder, local_path
from job.trackers.installed import lacking
from lora_engine.images.fates import folder_warnings
from lora_engine.images.kinds import claims_image, why_ignored
from lora_engine.images.sidecars import split_sidecars
from lora_engine.images.sources import is_archive, list_files
from lora_engine.models.files import LocalModel
from lora_engine.training import estimate

_WHOLE = ("patterns", "text_encoder")
_MANY_EPOCHS = 100  # above these a warning says that images may be memorised
_DEVICES = {"T4": 18e12, "A10G": 35e12, "H100": 300e12}  # FLOP/s that half-precision training reaches, roughly


@dataclass(frozen=True)
class PackPlan:
    """The work that one pack would be."""

    members: tuple[str, ...]
    rank: int  # of its adapters, the largest
    # The most; 0 where that is epochs of images that cannot be counted without a download, and so are what rests on it.
    steps: int
    fewest_steps: int  # of a member; 0 in the same way
    images_per_step: int  # of each member
    epochs: float | None  # of the member with most steps; None where the images cannot be counted without a download
    checkpoints: int  # of the member with most steps
    fewest_checkpoints: int  # of a member
    differs: tuple[str, ...]  # dotted fields in which the pack is not like pack 0


@dataclass(frozen=True)
class VariantPlan:
    """One variant, as it is written or as a sweep makes it."""

    name: str
    settings: dict[str, Any]  # dotted key of `lora` or `training`, in which not all variants are alike, to its value
    own: tuple[str, ...]  # those of these keys that the variant or its sweep sets, and what comes with them


@dataclass(frozen=True)
class Plan:
    """The work that a run would be, and what it would need."""

    name: str
    device: str  # as the manifest names it
    images: int | None  # of the dataset, should none be broken; None where they cannot be counted without a download
    validation_images: int | None  # roughly
    caption_sets: tuple[str, ...]
    variants: tuple[VariantPlan, ...]
    merged: tuple[str, ...]  # LoRAs that are merged into the base model first, each with its strength
    starts: dict[str, str]  # variant to the LoRA's file that it starts from, of those that do
    packs: tuple[PackPlan, ...]
    files: int  # that the run would write, roughly
    checkpoint_bytes: int  # of all checkpoints, for SD 1.5
    scratch_bytes: int | None  # on this machine's disk, beside downloads; None where images cannot be counted
    memory_bytes: int  # that the largest pack needs, for SD 1.5; in fp32 if the manifest says that or a CPU, else half
    training_hours: dict[str, float]  # device to hours, for SD 1.5, training alone
    pictures: int  # samples that are drawn, roughly where held-out captions are the prompts
    picture_hours: dict[str, float]  # device to hours, for SD 1.5
    comparison: Prospect
    rating: RatingProspect | None  # None where there will be nothing to rate
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The plan as a value that JSON can hold."""
        return asdict(self)


def make_plan(manifest: Manifest) -> Plan:
    """Count what a run of the manifest would do. Reads the dataset's listing, nothing else.

    Raises:
        JobError: the dataset's storage cannot be listed.
    """
    listed = _listed(manifest)
    images = None if listed is None else sum(listed.values())
    held_out = None if images is None else manifest.dataset.expected_held_out(images)
    train = None if images is None or held_out is None else max(1, images - held_out)
    starts = _starts(manifest)
    trained = packs_of(manifest, images=train, starts=starts)
    packs = tuple(_plan_pack(manifest, pack, train) for pack in trained)
    every = manifest.evaluation.every
    counts = [(_checkpoints(pack, every, v.training.last_step), v) for pack in trained for v in pack.variants]
    checkpoints = sum(count for count, _ in counts)
    checkpoint_bytes = sum(
        count * (estimate.state_bytes(each.lora, each.training) + estimate.file_bytes(each.lora))
        for count, each in counts
    )
    pictures = foresee_pictures(manifest, trained, held_out)
    other_files = pictures.pictures + sum(3 * count + 6 for count, _ in counts)
    warnings = [
        f"{', '.join(p.members)}: {p.epochs:.0f} epochs over the training images invite memorisation"
        for p in packs
        if p.epochs is not None and p.epochs > _MANY_EPOCHS
    ]
    if (advice := more_seeds_advised(manifest)) is not None:
        warnings.append(advice)
    warnings += folder_warnings(listed or ())
    warnings += odd_settings(trained)
    warnings += lacking(with_defaults(manifest.trackers), os.environ)
    if manifest.device == "cpu":
        warnings.append("device is cpu, which takes many times the hours that are said of GPUs")
    return Plan(
        name=manifest.name,
        device=manifest.device,
        images=images,
        validation_images=held_out,
        caption_sets=tuple(caption_sets(manifest)),
        variants=_plan_variants(manifest, starts),
        merged=tuple(f"{each.source} at {each.strength:g}" for each in manifest.base_model.merge),
        starts=manifest.starts(),
        packs=packs,
        files=4 * checkpoints + other_files + (images or 0) + len(caption_sets(manifest)) + 8,
        checkpoint_bytes=checkpoint_bytes,
        scratch_bytes=None if images is None else images * 3 * manifest.preprocess.resolution**2,
        memory_bytes=max(_memory(manifest, pack) for pack in trained),
        training_hours=_hours(_training_flops(manifest, trained)),
        pictures=pictures.pictures,
        picture_hours=_hours(pictures.flops),
        comparison=foresee(manifest, trained, held_out),
        rating=foresee_rating(manifest, trained, held_out),
        warnings=tuple(warnings),
    )


def _starts(manifest: Manifest) -> Starts:
    """What files decide that variants start from, of those that are on this machine with the base model."""
    files, pipelines = starts_at_hand(manifest), pipelines_at_hand(manifest.base_model)
    if not files or not pipelines:
        return NO_STARTS
    from job.run.starts import read_starts  # it imports torch, which takes seconds
    from lora_engine.system.quiet import quiet_libraries

    quiet_libraries()
    return read_starts(manifest, files, LocalModel(pipelines[0]))


def _plan_variants(manifest: Manifest, starts: Starts) -> tuple[VariantPlan, ...]:
    usual = {"lora": manifest.lora, "training": manifest.training}
    base = _flat({name: each.model_dump(mode="json") for name, each in usual.items()})
    settings = [
        _flat({name: getattr(variant, name).model_dump(mode="json") for name, _ in OVERRIDABLE})
        for variant in resolve_variants(manifest, starts=starts)
    ]
    keys = dict.fromkeys(key for each in settings for key in each)
    unlike = [key for key in keys if any(key not in each or each[key] != settings[0].get(key) for each in settings)]
    result = []
    for variant, each in zip(manifest.variants, settings, strict=True):
        written = _flat({name: getattr(variant, name) for name, _ in OVERRIDABLE})
        written |= _flat({"lora": starts.get(variant.name, {})})  # which comes with the file's name
        differing = {key: each[key] for key in unlike if key in each}
        result.append(VariantPlan(variant.name, differing, _own(written, each, base, unlike)))
    return tuple(result)


def _flat(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {key: value for name, section in sections.items() for key, value in _dotted(section, name).items()}


def _own(
    written: Mapping[str, Any], settings: Mapping[str, Any], base: Mapping[str, Any], unlike: Sequence[str]
) -> tuple[str, ...]:
    """The keys of `unlike` that a variant writes, and those of a section that it has at its defaults, `ema: {}`.

    Where it names another optimizer, that one's rate is among them.
    """
    rate, optimizer = "training.optimizer.learning_rate", "training.optimizer.name"
    whole = tuple(f"{key}." for key, value in written.items() if value == {} and key in base and key not in settings)
    came = [key for key in unlike if key.startswith(whole) or (key == rate and settings[optimizer] != base[optimizer])]
    return tuple(key for key in unlike if key in settings and (key in written or key in came))


def _dotted(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Dotted key to value; sections that need not be there are one value, of what is said in them."""
    whole = {key: settings[key] for key in _WHOLE if isinstance(settings.get(key), Mapping)}
    result = flat({key: value for key, value in settings.items() if key not in whole}, name)
    return result | {f"{name}.{key}": _said(value) for key, value in whole.items()}


def _said(section: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _said(value) if isinstance(value, Mapping) else value
        for key, value in section.items()
        if value is not None
    }


def _plan_pack(manifest: Manifest, pack: Pack, train: int | None) -> PackPlan:
    images_per_step = pack.shared.images_per_step
    return PackPlan(
        members=tuple(f"{member.variant}/seed-{member.seed}" for member in pack.members),
        rank=pack.rank,
        steps=pack.steps,
        fewest_steps=min(pack.ends.values()),
        images_per_step=images_per_step,
        epochs=None if train is None else pack.steps * images_per_step / train,
        checkpoints=_checkpoints(pack, manifest.evaluation.every, pack.steps),
        fewest_checkpoints=_checkpoints(pack, manifest.evaluation.every, min(pack.ends.values())),
        differs=pack.differs,
    )


def _checkpoints(pack: Pack, every: int, steps: int) -> int:
    """How many checkpoints an adapter of the pack leaves that is trained for so many steps.

    Where one ends, the others have a checkpoint, too, so that all can go on from there.
    """
    return steps // every + len({end for end in pack.ends.values() if end <= steps and end % every})


def remote_keys(manifest: Manifest) -> Iterator[str]:
    """The keys of the files of a dataset behind a network, which is no archive.

    Raises:
        JobError: its storage cannot be listed.
    """
    source = manifest.dataset.source
    start = len(as_folder(source))
    return (info.uri[start:] for info in open_storage(source, manifest.dataset_storage()).list(source))


def _listed(manifest: Manifest) -> dict[str, bool] | None:
    """The keys of the dataset's files, and whether each is one of its images; None for an archive, which stays closed.

    Files behind a network are told by their names alone.
    """
    source = manifest.dataset.source
    if is_archive(source):
        return None
    if is_remote(source):
        return {key: claims_image(key) for key in remote_keys(manifest)}
    files, _ = split_sidecars(list(list_files(local_path(source))))
    return {file.key: why_ignored(file) is None for file in files}


def _memory(manifest: Manifest, pack: Pack) -> int:
    """The bytes of memory that training the pack needs, the libraries' included."""
    precision = pack.shared.precision
    value_bytes = 4 if precision == "fp32" or (precision == "auto" and manifest.device == "cpu") else 2
    images = len(pack.members) * pack.shared.batch_size
    members = [(each.lora, each.training) for each in pack.variants]
    return estimate.LIBRARIES_BYTES + estimate.training_bytes(
        manifest.preprocess.resolution, value_bytes, images, members
    )


def _training_flops(manifest: Manifest, packs: Sequence[Pack]) -> float:
    """Floating-point operations of training all packs."""
    resolution = manifest.preprocess.resolution
    return sum(
        variant.training.last_step
        * variant.training.images_per_step
        * estimate.training_flops(resolution, variant.lora)
        for pack in packs
        for variant in pack.variants
    )


def _hours(flops: float) -> dict[str, float]:
    """The hours that so many floating-point operations take, by device."""
    return {device: round(flops / rate / 3600, 2) for device, rate in _DEVICES.items()}
