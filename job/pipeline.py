"""The order of a run: fetch, preprocess, caption, encode, train, sample, report."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from job import layout
from job.env import Shard
from job.errors import ExitCode, JobError
from job.manifest.packs import Pack, caption_sets, set_of_variant
from job.process.faults import resource_errors
from job.prospect import forward_passes, passes_of_a_picture
from job.report.notes import copies_found
from job.report.publish import publish_report
from job.run.context import Attempt
from job.run.converged import require_converged
from job.run.dataset import Captions, Images, fingerprint_of, list_source
from job.run.decisions import is_prepared, resolve
from job.run.held_out import held_out
from job.run.resolved import Resolved, read_resolved, with_counted_steps, with_packs_as_begun, with_starts
from job.run.samples import SampleSet, make_sample_set, require_room
from job.run.success import write_success
from job.run.unit import unit_of
from job.run.unverified import write_unverified
from job.run.verify import Depth, require_whole
from job.sharding import distribute_packs
from job.stages.caption import caption
from job.stages.encode import encode_all
from job.stages.fetch import fetch_dataset
from job.stages.models import Models, decide_starts, fetch_base, fetch_models, fetch_starts
from job.stages.preprocess import images_of
from job.stages.references import measure_references
from job.stages.sample import Measuring, has_samples, sample_pack, sampled_steps
from job.stages.train.build import Study, TrainablePack, make_trainable
from job.stages.train.followers import Followers, Read, Start, Train, broadcasts
from job.stages.train.pack_run import PackRun, is_finished
from job.storage import ObjectInfo
from lora_engine.captions.prompts import held_out_prompts
from lora_engine.config.captions import CaptionsConfig
from lora_engine.models import stable_diffusion
from lora_engine.models.files import LocalModel
from lora_engine.models.schedule import load_noise_schedule
from lora_engine.records import ImageRecord
from lora_engine.system.device import find_device
from lora_engine.system.distributed import Processes
from lora_engine.system.malloc import keep_freed_blocks


def run(attempt: Attempt, shard: Shard | None, followers: Followers) -> bool:
    """Do all of a run that is not done yet and that no other process works on; True if the run is finished then.

    Args:
        shard: the place of this process among those that share the run, each of which begins with packs of its own.
        followers: the processes that train each pack together with this one.

    Raises:
        DivergedError: adapters diverged, or were never updated; all else is done.
        HeldError: 52 when another process works on what is left, and this one was told of no other.
        JobError: 46 when the run is finished, and not whole.
    """
    device = _set_up_device(attempt)
    with resource_errors():
        with attempt.progress.doing("Looking at the dataset"):
            listed = list_source(attempt)
        fingerprint = fingerprint_of(attempt, listed)
        models, resolved, study, used = _prepare(attempt, listed, fingerprint, device)
        attempt = with_counted_steps(attempt, resolved, len(study.encoded.train_ids))
        packs = attempt.packs
        if attempt.run.exists(layout.SUCCESS):  # Files of the dataset or of a model are new, and nothing is to be done.
            require_whole(attempt.run, Depth.RECORDS, attempt.stop.check, scratch=attempt.workdir)
        wanted = _sample_set(attempt, study, resolved, models)
        followers.read(fingerprint)

    def train(pack: Pack, wait_minutes: float) -> None:
        with unit_of(attempt, pack.unit, wait_minutes) as unit:
            if not is_trained(pack):
                with attempt.progress.part(pack.unit):
                    with attempt.progress.doing("Loading the base model"):
                        pack_run = PackRun(unit, study, pack, device, resolved.precision(pack), followers)
                    pack_run.run()
                    if wanted is not None:
                        steps, at_once = sampled_steps(unit, pack), attempt.manifest.evaluation.batch_size
                        passes = passes_of_a_picture(attempt.manifest, pack, len(study.held_out.image_ids))
                        measuring = Measuring(models.clip, used, device)
                        sample_pack(unit, steps, wanted, study.model, pack_run.unet, measuring, at_once, passes)

    def is_trained(pack: Pack) -> bool:
        if not is_finished(attempt, pack, resolved.run_id):
            return False
        return wanted is None or has_samples(attempt, sampled_steps(attempt, pack), wanted)

    own = [pack for pack in packs if shard is None or shard.owns(pack, packs)]
    _expect(attempt, [pack for pack in own if not is_trained(pack)], study, is_all=len(own) == len(packs))
    distribute_packs(attempt, packs, shard, train)
    left = [pack for pack in packs if not is_trained(pack)]
    if shard is not None and left:
        _require_converged(attempt, own)
        units = [pack.unit for pack in left]
        text = f"This process has done its share; other processes have {', '.join(units)} to train"
        attempt.progress.say("this shard is done; the rest is with other processes", text, packs=units)
        return False
    _report(attempt, packs)
    return True


def _expect(attempt: Attempt, packs: Sequence[Pack], study: Study, *, is_all: bool) -> None:
    """Show from now on how far these packs, which are all that this process has, are trained, scored and sampled."""
    held_out = len(study.held_out.image_ids)
    work = {pack.unit: forward_passes(attempt.manifest, pack, held_out) for pack in packs}
    if work:
        attempt.progress.expect(work, "Whole run" if is_all else "This process's share")


def follow(attempt: Attempt, processes: Processes) -> None:
    """Train every pack that rank 0 trains, together with it, and write nothing.

    Raises:
        JobError: the error that rank 0 ended with, or 46 when this process was started with something else.
        LostPeerError: rank 0 is gone.
    """
    device = _set_up_device(attempt)
    with resource_errors():
        for message in broadcasts(processes, attempt.stop):
            match message:
                case Read(fingerprint):
                    attempt = with_packs_as_begun(attempt)
                    resolved, study = _read_preparation(attempt, fingerprint, device)
                    attempt = with_counted_steps(attempt, resolved, len(study.encoded.train_ids))
                case Start(index, micro_batches, states):
                    trainable: TrainablePack | None = None  # frees the last pack's UNet before another is loaded
                    pack = attempt.packs[index]
                    trainable = make_trainable(attempt, study, pack, device, resolved.precision(pack), processes)
                    trainable.trainer.restore(states)
                    trainable.trainer.use_micro_batches(micro_batches)
                case Train(until, frozen):
                    assert trainable is not None
                    for name in set(frozen) - trainable.trainer.frozen_at.keys():
                        trainable.trainer.freeze(name)
                    for _ in trainable.trainer.run(until, attempt.stop):
                        pass


def _set_up_device(attempt: Attempt) -> torch.device:
    """The device that everything is computed on, with the memory allocator set up for it."""
    device = find_device(attempt.manifest.device)
    if device.type == "cpu":
        keep_freed_blocks()
    return device


def _prepare(
    attempt: Attempt, listed: Sequence[ObjectInfo], fingerprint: str, device: torch.device
) -> tuple[Models, Resolved, Study, tuple[ImageRecord, ...]]:
    """Make or read all that training needs: models, decisions, captions, latents, text embeddings, the images used.

    Args:
        listed: the dataset's source, see `list_source`.
        fingerprint: of it, see `fingerprint_of`.
    """
    # Of several packs, this process can find one to train once another process has prepared the run, so it waits for
    # that without a limit. A single pack is trained by whoever prepares the run, and nothing would be left to do here.
    wait_minutes = attempt.manifest.limits.lease_wait if len(attempt.packs) == 1 else math.inf
    with _preparing(attempt, fingerprint, wait_minutes) as unit:
        with attempt.progress.doing("Looking at the models' files"):
            models = fetch_models(unit)
            starts = decide_starts(unit, models)
            prepare = with_starts(unit, {variant: start.lora for variant, start in starts.items()})
            _require_room(prepare, models.base)
        images = images_of(prepare, fingerprint, lambda: fetch_dataset(prepare, listed))
        resolved = resolve(
            prepare,
            images,
            models.base,
            models.captioners,
            models.clip,
            device,
            load_noise_schedule(models.base),
            starts,
        )
        captions = caption(prepare, images, models.captioners, stable_diffusion.load_tokenizer(models.base), device)
        study = _study(prepare, images, captions, models.base, resolved, device, models.starts)
        measure_references(prepare, images, models.clip, device)
        write_unverified(prepare.run, prepare.unverified)  # again, since what is fetched late is noted late
    return models, resolved, study, images.used


def _adapters(attempt: Attempt) -> dict[str, tuple[CaptionsConfig, str | None]]:
    """Each variant's captions, and the template by which its adapters are prompted."""
    return {variant.name: (variant.captions, variant.prompt_template) for variant in attempt.manifest.variants}


def _require_room(attempt: Attempt, base: LocalModel) -> None:
    """Raise JobError 40 where the texts around captions or prompts are more than the text encoder reads."""
    tokenizer = stable_diffusion.load_tokenizer(base)
    try:
        require_room(_adapters(attempt), lambda text: len(tokenizer(text).input_ids))
    except ValueError as error:
        raise JobError(ExitCode.MANIFEST, f"variants: {error}.", "Shorten it.") from error


def _sample_set(attempt: Attempt, study: Study, resolved: Resolved, models: Models) -> SampleSet | None:
    """The samples that the manifest asks for; None where it asks for none."""
    config = attempt.manifest.evaluation.samples
    if config is None:
        return None
    tokenizer = stable_diffusion.load_tokenizer(models.base)
    return make_sample_set(
        resolved.sample_set,
        config,
        attempt.manifest.preprocess.resolution,
        _adapters(attempt),
        lambda: held_out_prompts(
            study.captions, caption_sets(attempt.manifest), study.held_out.image_ids, attempt.manifest.seeds[0]
        ),
        lambda text: len(tokenizer(text).input_ids),
        models.clip.sha256 if models.clip else None,
        attempt.progress.warn,
    )


@contextmanager
def _preparing(attempt: Attempt, fingerprint: str, wait_minutes: float) -> Iterator[Attempt]:
    """Hold the unit `prepare` until the run is prepared. A prepared run is only read, by any number of processes."""
    if not is_prepared(attempt, fingerprint):
        with unit_of(attempt, "prepare", wait_minutes) as unit:
            if not is_prepared(attempt, fingerprint):
                yield unit
                return
    yield attempt


def _read_preparation(attempt: Attempt, fingerprint: str, device: torch.device) -> tuple[Resolved, Study]:
    """Read the decisions, and all that training needs, of a run that rank 0 has prepared.

    Raises:
        JobError: 46 when this process has another manifest, dataset, base model or VAE than rank 0.
    """
    manifest = attempt.manifest
    base = fetch_base(attempt, manifest.base_model, manifest.model_storage())
    resolved = read_resolved(attempt)
    starts = fetch_starts(attempt)
    if resolved is None or not is_prepared(attempt, fingerprint) or not resolved.models.are_of(base, starts):
        raise JobError(
            ExitCode.CONFLICT,
            "This process has another manifest, base model, VAE or LoRA to start from than the first, with which it "
            "is to train.",
            "Start all of them with the same; pin base_model.revision and base_model.vae_revision.",
        )
    images = images_of(attempt, fingerprint, lambda: fetch_dataset(attempt))
    captions = caption(attempt, images, {}, stable_diffusion.load_tokenizer(base), device)
    return resolved, _study(attempt, images, captions, base, resolved, device, starts)


def _study(
    attempt: Attempt,
    images: Images,
    captions: Captions,
    model: LocalModel,
    resolved: Resolved,
    device: torch.device,
    starts: Mapping[str, Path],
) -> Study:
    precisions = [resolved.precision(pack) for pack in attempt.packs if not pack.trains_text_encoder]
    tokens = any(pack.trains_text_encoder for pack in attempt.packs)
    flips = any(pack.shared.random_flip for pack in attempt.packs)
    return Study(
        variants={variant.name: variant for variant in attempt.variants},
        set_of_variant=set_of_variant(attempt.manifest),
        captions=captions,
        encoded=encode_all(attempt, images, captions, model, device, precisions, flips=flips, tokens=tokens),
        held_out=held_out(attempt.run, resolved, images.records, captions),
        model=model,
        starts=starts,
        started_at=resolved.started_at,
        run_id=resolved.run_id,
    )


def _report(attempt: Attempt, packs: Sequence[Pack]) -> None:
    """Write the report, the adapters to use and then `_SUCCESS`, unless another process has just finished the run."""
    with unit_of(attempt, "report", attempt.manifest.limits.lease_wait) as report:
        if report.run.exists(layout.SUCCESS):
            return

        def alive() -> None:
            report.stop.check()
            report.progress.moved()

        with attempt.progress.doing("Writing the report"):
            comparison = publish_report(report.run, report.workdir, alive)
        report.tracking.reported(report.run, comparison.verdict.sentence)
        _require_converged(report, packs)
        write_success(report.run, alive)
        for note in copies_found(comparison.members):
            report.progress.warn(note)


def _require_converged(attempt: Attempt, packs: Sequence[Pack]) -> None:
    """Raise DivergedError if a member of the packs has diverged, or was never updated."""
    require_converged(attempt.run, [member for pack in packs for member in pack.members])
