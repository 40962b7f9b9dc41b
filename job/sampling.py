"""Draws prompts with the checkpoints of a run, or with one adapter's file, as a set of samples of its own."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from job import layout
from job.errors import ExitCode, JobError, no_run
from job.layout import Member
from job.manifest.load import load_manifest
from job.manifest.models import BaseModelConfig, ClipConfig
from job.manifest.packs import Pack, packs_of
from job.manifest.schema import Manifest
from job.process.faults import resource_errors
from job.process.progress import Progress
from job.process.stop import StopFlag
from job.report.sets import publish_set
from job.run import checkpoints
from job.run.checkpoints import BestPointer
from job.run.chosen import local_adapter_file
from job.run.context import Workplace
from job.run.downloads import fetch_object
from job.run.identity import differences, identity, identity_conflicts
from job.run.resolved import Resolved
from job.run.samples import SampleSet, make_sample_set
from job.run.unit import unit_of
from job.run.verify import Depth, is_source_of_report, require_whole
from job.stages.models import fetch_base, fetch_clip
from job.stages.sample import Measuring, SampledStep, has_samples, sample, sample_pack
from job.storage import StorageSettings, is_remote
from job.storage.folder import RunFolder
from job.storage.probe import probe_conditions
from lora_engine.adapters import from_file
from lora_engine.config.captions import CaptionsConfig, ConstantCaptions
from lora_engine.config.evaluation import EvaluationConfig, SamplesConfig, compared_pairs
from lora_engine.config.models import DeviceChoice, DtypeName
from lora_engine.errors import ResourceError
from lora_engine.evaluation.sampler import Sampler
from lora_engine.models import schedule, stable_diffusion
from lora_engine.models.adapted import load_adapted_unet, load_unet_for
from lora_engine.models.files import LocalModel
from lora_engine.records import ImageRecord, used_images
from lora_engine.system.device import DTYPES, find_device, in_words, resolve_precision
from lora_engine.system.malloc import keep_freed_blocks

_LONGEST_TRIGGER = 200  # characters, of what a file calls its trigger phrase; a prompt has room for some 300
_FILE_STEP = 1  # under which the samples of an adapter's file lie; the base model's lie under 0


@dataclass(frozen=True)
class Order:
    """What the user asks for."""

    config: SamplesConfig  # with prompts; what the user left out is as in the run's manifest
    stem: str  # of the set's name, where the user gives none
    name: str | None  # the set's
    best: bool  # the best checkpoints instead of all
    base: bool  # the base model; with `best` beside these
    base_model: str | None  # instead of the run's
    vae: str | None  # instead of the run's; for an adapter's file, instead of the base model's own
    clip: str | None  # instead of the run's
    device: DeviceChoice | None  # instead of the run's
    template: str | None  # how an adapter's file is prompted as it was trained


@dataclass(frozen=True)
class _Study:
    """What a run left that its checkpoints are sampled by."""

    manifest: Manifest
    resolved: Resolved
    images: list[ImageRecord]

    @cached_property
    def packs(self) -> tuple[Pack, ...]:
        """The packs that its adapters were trained in."""
        return packs_of(self.manifest, self.resolved.packing, starts=self.resolved.models.start_settings())


def sample_run(run: RunFolder, order: Order, workdir: Path, stop: StopFlag) -> str:
    """Draw the samples with the checkpoints of a run; give the URI of the set.

    What an earlier start drew of the same set is not drawn again.

    Raises:
        JobError: 42 when there is no run, 46 when it has no checkpoints, another base model, or other samples under
            the set's name.
    """
    study = _read_run(run)
    if run.exists(layout.SUCCESS):
        require_whole(run, Depth.SIZES, stop.check, _is_of_checkpoints)
    manifest, settings, samples = study.manifest, study.manifest.model_storage(), study.manifest.evaluation.samples
    with _workplace(run, workdir, stop) as place:
        device = _set_up_device(place, order.device or manifest.device)
        base = _fetch_base_of(study, place, order)
        clip_config = (samples.clip if samples else None) if order.clip is None else ClipConfig(source=order.clip)
        clip = fetch_clip(place, clip_config, settings)
        adapters = {variant.name: (variant.captions, variant.prompt_template) for variant in manifest.variants}
        config = _config(order.config, samples)
        wanted = _wanted(place, order, config, manifest.preprocess.resolution, adapters, base, clip)
        steps = {pack.index: _steps(place, pack, order) for pack in study.packs}
        if not any(steps.values()):
            raise JobError(
                ExitCode.CONFLICT,
                f"{run.root} has no {'best ' if order.best else ''}checkpoint to sample.",
                "Wait for one, or sample the --base model.",
            )
        pairs = compared_pairs(manifest.evaluation.pairs, tuple(variant.name for variant in manifest.variants))
        members = [member for pack in study.packs for member in pack.members]

        def draw(unit: Workplace) -> None:
            _draw_packs(study, unit, steps, wanted, base, clip, device)
            publish_set(unit.run, study.images, members, pairs, wanted.name, {0: "base model"})

        return _draw_set(place, wanted, draw)


def _is_of_checkpoints(key: str) -> bool:
    """Whether which checkpoints are sampled depends on the file."""
    return key.startswith(f"{layout.VARIANTS}/") and is_source_of_report(key)


def _fetch_base_of(study: _Study, place: Workplace, order: Order) -> LocalModel:
    """The base model that a run was trained on, with the VAE that it was. 46 where another one is there."""
    manifest = study.manifest
    config = manifest.base_model
    if order.base_model is not None:
        config = config.model_copy(update={"source": order.base_model, "revision": None})
    if order.vae is not None:
        config = config.model_copy(update={"vae": order.vae, "vae_revision": None})
    base = fetch_base(place, config, manifest.model_storage())
    if base.sha256 != study.resolved.models.base.sha256:
        raise JobError(
            ExitCode.CONFLICT,
            f"{config.source} is not the base model that {place.run.root} was trained on (SHA-256 "
            f"{study.resolved.models.base.sha256[:12]}... -> {base.sha256[:12]}...).",
            "Name that one: --base-model SOURCE.",
        )
    vae = study.resolved.models.vae
    if config.vae is not None and (vae is None or base.part("vae").sha256 != vae.sha256):
        raise JobError(
            ExitCode.CONFLICT,
            f"{config.vae} is not the VAE that {place.run.root} was trained with.",
            "Leave --vae out: that is the base model's own." if vae is None else "Name that one: --vae SOURCE.",
        )
    if not study.resolved.models.are_merged_into(base):
        raise JobError(
            ExitCode.CONFLICT,
            f"base_model.merge of {place.run.root} names other files than those that it was trained with.",
            "Restore them.",
        )
    return base


def _draw_packs(
    study: _Study,
    unit: Workplace,
    steps: Mapping[int, Sequence[SampledStep]],
    wanted: SampleSet,
    base: LocalModel,
    clip: LocalModel | None,
    device: torch.device,
) -> None:
    """Draw what is missing of every pack.

    Args:
        steps: at which each pack is sampled, by its index.
    """
    measuring = Measuring(clip, used_images(study.images), device)
    for pack in study.packs:
        if has_samples(unit, steps[pack.index], wanted):
            continue
        dtype = DTYPES[_precision(unit, study.resolved.precision(pack), device)]
        members = zip(pack.members, pack.variants, strict=True)
        adapters = [(member.adapter_name, member.seed, variant.lora) for member, variant in members]
        unet = load_adapted_unet(base, adapters, dtype, device)
        at_once = study.manifest.evaluation.batch_size
        sample_pack(unit, steps[pack.index], wanted, base, unet, measuring, at_once)


def sample_file(uri: str, output: RunFolder, order: Order, workdir: Path, stop: StopFlag) -> str:
    """Draw the samples with an adapter's file and its base model, into `output`; give the URI of the set.

    Raises:
        JobError: 2 when no base model is named, 46 when the set's name has other samples.
        ModelError: 43 when the file is no LoRA of that base model.
    """
    if order.base_model is None:
        raise JobError(ExitCode.USAGE, f"{uri} does not say where its base model is.", "Name it: --base-model SOURCE.")
    with _workplace(output, workdir, stop) as place:
        device = _set_up_device(place, order.device or "auto")
        path = _fetch_file(place, uri)
        adapts_text_encoder = from_file.adapts_text_encoder(path)
        use = from_file.base_model_use(path)
        base_config = BaseModelConfig(source=order.base_model, vae=order.vae, **use.model_dump(exclude_defaults=True))
        base = fetch_base(place, base_config, StorageSettings())
        clip = fetch_clip(place, None if order.clip is None else ClipConfig(source=order.clip), StorageSettings())
        member = Member(_variant_of(path.stem), 0)
        trigger = _trigger(place, path)
        if "{trigger}" in (order.template or "") and not trigger:
            raise JobError(ExitCode.USAGE, f"{uri} names no trigger phrase.", "Write it into --template.")
        captions = ConstantCaptions(strategy="constant", text="", trigger=trigger)
        resolution = stable_diffusion.native_resolution(base)
        adapters = {member.variant: (captions, order.template)}
        weights = f"{LocalModel(path).sha256} {base.sha256}"
        weights += "" if base.vae is None else f" {base.part('vae').sha256}"
        wanted = _wanted(place, order, order.config, resolution, adapters, base, clip, weights)
        steps = [SampledStep(0, False, (member,)), SampledStep(_FILE_STEP, False, (member,))]

        def make_sampler() -> Sampler:
            dtype = DTYPES[resolve_precision("auto", device)]
            unet = load_unet_for(base, dtype, device, with_text_encoder=adapts_text_encoder)
            from_file.load_file(unet, path, member.adapter_name)
            at_once = EvaluationConfig().batch_size
            return Sampler(base, unet, wanted.texts, at_once, device, wanted.sampler, from_file.activate)

        def draw(unit: Workplace) -> None:
            sample(unit, steps, wanted, make_sampler, lambda _member, _step: None, Measuring(clip, (), device))
            publish_set(unit.run, (), [member], (), wanted.name, {0: "base model", _FILE_STEP: path.stem})

        return _draw_set(place, wanted, draw)


def _read_run(run: RunFolder) -> _Study:
    """What a run left. 42 when there is none."""
    text = run.read(layout.MANIFEST)
    resolved = run.read_stored(layout.RESOLVED, Resolved)
    images = run.read_rows(layout.IMAGES, ImageRecord)
    if text is None or resolved is None or images is None:
        raise no_run(run.root)
    manifest = load_manifest(text, run.uri(layout.MANIFEST))
    now = identity(
        manifest,
        data_sha256=resolved.data_sha256,
        models=resolved.models.hashes(),
        own_captions=resolved.identity.own_captions,
        starts=resolved.models.start_settings(),
    )
    if conflicts := identity_conflicts(resolved.identity, now):
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.uri(layout.MANIFEST)} is not the run's: it has other values of "
            f"{differences(conflicts, resolved.identity, now)}.",
            "Restore it.",
        )
    return _Study(manifest, resolved, images)


@contextmanager
def _workplace(folder: RunFolder, workdir: Path, stop: StopFlag) -> Iterator[Workplace]:
    """The workplace of this process, which shows its progress on standard error."""
    fenced = probe_conditions(folder.storage, folder.root)
    with Progress(sys.stderr) as progress, resource_errors():
        yield Workplace(run=folder, workdir=workdir, progress=progress, stop=stop, fenced=fenced)


def _set_up_device(place: Workplace, choice: DeviceChoice) -> torch.device:
    """The device that samples are drawn on. 44 where `cuda` is asked for and not there."""
    device = find_device(choice)
    words = in_words(device)
    place.progress.say("device", f"Drawing on {words}", device=words)
    if device.type == "cpu":
        keep_freed_blocks()
    return device


def _precision(place: Workplace, trained_in: DtypeName, device: torch.device) -> DtypeName:
    """The run's precision, or another where this device cannot compute in it."""
    try:
        return resolve_precision(trained_in, device)
    except ResourceError:
        other = resolve_precision("auto", device)
        place.progress.warn(f"The run was trained in {trained_in}; samples are drawn in {other}, as this device can")
        return other


def _config(given: SamplesConfig, of_run: SamplesConfig | None) -> SamplesConfig:
    """The settings that the user gives, and for the rest those of the run's own samples."""
    if of_run is None:
        return given
    own = of_run.model_dump(include=SamplesConfig.model_fields.keys() - given.model_fields_set)
    return given.model_copy(update=own)


def _wanted(
    place: Workplace,
    order: Order,
    config: SamplesConfig,
    resolution: int,
    adapters: Mapping[str, tuple[CaptionsConfig, str | None]],
    base: LocalModel,
    clip: LocalModel | None,
    weights: str | None = None,
) -> SampleSet:
    """The set of samples, under its name. Without a name from the user, other samples have another name."""
    tokenizer = stable_diffusion.load_tokenizer(base)

    def count_tokens(text: str) -> int:
        return len(tokenizer(text).input_ids)

    try:
        wanted = make_sample_set(
            "", config, resolution, adapters, tuple, count_tokens, clip.sha256 if clip else None, place.progress.warn
        )
    except ValueError as error:
        raise JobError(ExitCode.USAGE, f"{error}.", "Shorten the template or the trigger.") from error
    schedule.require_sampler(base, wanted.sampler, (setting.steps for setting in wanted.settings))
    wanted = wanted.model_copy(update={"weights": weights})
    return wanted.model_copy(update={"name": order.name or f"{_variant_of(order.stem)}-{wanted.key[:8]}"})


def _variant_of(stem: str) -> str:
    """A name for files and folders like that of a file, without what not all stores take."""
    return re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:50] or "adapter"


def _steps(place: Workplace, pack: Pack, order: Order) -> list[SampledStep]:
    """The steps at which a pack's adapters are sampled, ascending."""
    members_at: dict[int, list[Member]] = {}
    if order.base or not order.best:
        members_at[0] = list(pack.members)
    for member in pack.members:
        best = place.run.read_stored(layout.best(member), BestPointer) if order.best else None
        steps = set(checkpoints.committed_steps(place.run, member))
        if order.best:
            if best is not None and best.step not in steps:
                text = f"{place.run.uri(layout.best(member))} names step {best.step}, of which there is no checkpoint."
                raise JobError(ExitCode.CONFLICT, text, checkpoints.RESTORE)
            steps &= set() if best is None else {best.step}
            if not steps:
                place.progress.warn(f"{member.adapter_name} has no best checkpoint; no samples of it are drawn")
        elif order.base:
            steps = set()
        for step in steps:
            members_at.setdefault(step, []).append(member)
    if not order.base and members_at.keys() <= {0}:
        return []
    return [SampledStep(step, False, tuple(members_at[step])) for step in sorted(members_at)]


def _draw_set(place: Workplace, wanted: SampleSet, draw: Callable[[Workplace], None]) -> str:
    """Draw and measure a set while its unit is held; give its URI.

    Raises:
        JobError: 46 when there are other samples under its name, which are never drawn over.
    """
    with unit_of(place, layout.set_unit(wanted.name), place.limits.lease_wait) as unit:
        key = layout.set_settings(wanted.name)
        before = unit.run.read_stored(key, SampleSet)
        is_other = any(unit.run.list(layout.sample_set(wanted.name))) if before is None else before != wanted
        if is_other:
            raise JobError(
                ExitCode.CONFLICT,
                f"{unit.run.uri(layout.sample_set(wanted.name))} holds other samples.",
                "Give these another name: --name NAME.",
            )
        unit.run.write_stored(key, wanted)
        draw(unit)
        place.progress.say("done", samples=unit.run.uri(layout.set_grid(wanted.name)))
        return unit.run.uri(layout.sample_set(wanted.name))


def _trigger(place: Workplace, path: Path) -> str:
    """The trigger phrase that an adapter's file names; empty where it names none, or one that is no prompt."""
    phrase = from_file.trigger_phrase(path)
    if len(phrase) > _LONGEST_TRIGGER:
        place.progress.warn(f"{path.name} names a trigger phrase of {len(phrase)} characters, which is left out")
        return ""
    return phrase


def _fetch_file(place: Workplace, uri: str) -> Path:
    """An adapter's file on this machine."""
    if is_remote(uri):
        folder = place.workdir / "adapters"
        return fetch_object(place, uri, StorageSettings(), folder)
    return local_adapter_file(uri)
