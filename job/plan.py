"""Computes what a run would do and need from the manifest and, where that needs no download, the dataset's listing."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from job.manifest.overrides import OVERRIDABLE, flat
from job.manifest.packs import Pack, caption_sets, packs_of, resolve_variants
from job.manifest.schema import Manifest
from job.prospect import Prospect, foresee, foresee_pictures, more_seeds_advised
from job.storage import is_remote, open_storage
from job.storage.uris import as_folder, local_path
from lora_engine.config.adapter import LoraConfig
from lora_engine.images.fates import folder_warnings
from lora_engine.images.kinds import claims_image, why_ignored
from lora_engine.images.sidecars import split_sidecars
from lora_engine.images.sources import is_archive, list_files
from lora_engine.training import estimate

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
    packs: tuple[PackPlan, ...]
    files: int  # that the run would write, roughly
    checkpoint_bytes: int  # of all checkpoints, for SD 1.5
    scratch_bytes: int | None  # on this machine's disk, beside downloads; None where images cannot be counted
    memory_bytes: int  # that the largest pack needs, for SD 1.5; in fp32 if the manifest says that or a CPU, else half
    training_hours: dict[str, float]  # device to hours, for SD 1.5, training alone
    pictures: int  # samples that are drawn, roughly where held-out captions are the prompts
    picture_hours: dict[str, float]  # device to hours, for SD 1.5
    comparison: Prospect
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
    trained = packs_of(manifest, images=train)
    packs = tuple(_plan_pack(manifest, pack, train) for pack in trained)
    every = manifest.evaluation.every
    counts = [(_checkpoints(pack, every, v.training.last_step), v) for pack in trained for v in pack.variants]
    checkpoints = sum(count for count, _ in counts)
    checkpoint_bytes = sum(
        count * (estimate.state_bytes(each.lora.rank, each.training) + estimate.file_bytes(each.lora.rank))
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
    warnings += [*_alphas(manifest, trained), *_odd_schedules(trained)]
    if manifest.device == "cpu":
        warnings.append("device is cpu, which takes many times the hours that are said of GPUs")
    return Plan(
        name=manifest.name,
        device=manifest.device,
        images=images,
        validation_images=held_out,
        caption_sets=tuple(caption_sets(manifest)),
        variants=_plan_variants(manifest),
        packs=packs,
        files=4 * checkpoints + other_files + (images or 0) + len(caption_sets(manifest)) + 8,
        checkpoint_bytes=checkpoint_bytes,
        scratch_bytes=None if images is None else images * 3 * manifest.preprocess.resolution**2,
        memory_bytes=max(_memory(manifest, pack) for pack in trained),
        training_hours=_hours(_training_flops(manifest, trained)),
        pictures=pictures.pictures,
        picture_hours=_hours(pictures.flops),
        comparison=foresee(manifest, trained, held_out),
        warnings=tuple(warnings),
    )


def _plan_variants(manifest: Manifest) -> tuple[VariantPlan, ...]:
    usual = {"lora": manifest.lora, "training": manifest.training}
    base = _flat({name: each.model_dump(mode="json") for name, each in usual.items()})
    settings = [
        _flat({name: getattr(variant, name).model_dump(mode="json") for name, _ in OVERRIDABLE})
        for variant in resolve_variants(manifest)
    ]
    keys = dict.fromkeys(key for each in settings for key in each)
    unlike = [key for key in keys if any(key not in each or each[key] != settings[0].get(key) for each in settings)]
    return tuple(
        VariantPlan(
            variant.name,
            {key: each[key] for key in unlike if key in each},
            _own(_flat({name: getattr(variant, name) for name, _ in OVERRIDABLE}), each, base, unlike),
        )
        for variant, each in zip(manifest.variants, settings, strict=True)
    )


def _flat(sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {key: value for name, section in sections.items() for key, value in flat(section, name).items()}


def _own(
    written: Mapping[str, Any], settings: Mapping[str, Any], base: Mapping[str, Any], unlike: Sequence[str]
) -> tuple[str, ...]:
    """The keys of `unlike` that a variant writes. Where it names another optimizer, that one's rate is among them."""
    rate, optimizer = "training.optimizer.learning_rate", "training.optimizer.name"
    replaced = settings[optimizer] != base[optimizer]
    return tuple(key for key in unlike if key in settings and (key in written or (replaced and key == rate)))


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


def _alphas(manifest: Manifest, packs: Sequence[Pack]) -> Iterator[str]:
    """A warning for each alpha that was hardly chosen for its rank.

    One that adapters of several ranks share scales them unlike; where one was left at its default and a rank was set,
    other trainers would take the rank.
    """
    default = LoraConfig()
    set_alpha = {v.name for v in manifest.variants if "alpha" in v.lora or "alpha" in manifest.lora.model_fields_set}
    plain = [v for pack in packs for v in pack.variants if not v.lora.rank_stabilized]
    for alpha in sorted({each.lora.alpha for each in plain}):
        ranks = sorted({each.lora.rank for each in plain if each.lora.alpha == alpha})
        if len(ranks) > 1:
            scales = ", ".join(f"{alpha / rank:g} at rank {rank}" for rank in ranks)
            yield (
                f"lora.alpha {alpha:g} scales updates by {scales}, so that not ranks alone are compared; "
                "lora.rank_stabilized: true keeps updates about as large"
            )
        elif ranks != [default.rank] and any(v.lora.alpha == alpha and v.name not in set_alpha for v in plain):
            yield (
                f"lora.alpha {alpha:g} at lora.rank {ranks[0]} scales the update by {alpha / ranks[0]:g}; "
                f"an alpha of {ranks[0]} scales it by 1"
            )


def _odd_schedules(packs: Sequence[Pack]) -> Iterator[str]:
    """A warning for each kind of schedule that can hardly have been meant."""
    variants = {variant.name: variant.training for pack in packs for variant in pack.variants}
    lengths = {name: (each.schedule.warmup(each.last_step), each.last_step) for name, each in variants.items()}
    for warmup, steps in sorted({each for each in lengths.values() if each[0] >= each[1] > 0}):
        names = [name for name, each in lengths.items() if each == (warmup, steps)]
        yield f"{', '.join(names)}: a warm-up of {warmup} updates is not over when all {steps} steps are done"
    falling = [
        name
        for name, each in variants.items()
        if each.optimizer.name == "schedule_free_adamw" and each.schedule.name != "constant"
    ]
    if falling:
        yield (
            f"{', '.join(falling)}: schedule_free_adamw averages in place of a rate that falls; it is made for "
            "training.schedule constant, with a warm-up"
        )


def _memory(manifest: Manifest, pack: Pack) -> int:
    """The bytes of memory that training the pack needs, the libraries' included."""
    precision = pack.shared.precision
    value_bytes = 4 if precision == "fp32" or (precision == "auto" and manifest.device == "cpu") else 2
    images = len(pack.members) * pack.shared.batch_size
    adapters = sum(estimate.adapter_bytes(pack.rank, each.training) for each in pack.variants)
    training = estimate.training_bytes(manifest.preprocess.resolution, value_bytes, images, adapters)
    return estimate.LIBRARIES_BYTES + training


def _training_flops(manifest: Manifest, packs: Sequence[Pack]) -> float:
    """Floating-point operations of training all packs."""
    return sum(pack.image_count for pack in packs) * estimate.image_flops(manifest.preprocess.resolution)


def _hours(flops: float) -> dict[str, float]:
    """The hours that so many floating-point operations take, by device."""
    return {device: round(flops / rate / 3600, 2) for device, rate in _DEVICES.items()}
