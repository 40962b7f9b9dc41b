"""Generates samples of the same prompts with the base model and every checkpoint of a pack, and measures them."""

import hashlib
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from job import layout
from job.layout import Member
from job.manifest.packs import Pack
from job.run import checkpoints
from job.run.context import Attempt
from job.run.dataset import Images
from job.run.samples import SampleIndex, SampleRow, SampleSettings
from job.threads import Background
from lora_engine.adapters import formats, lora
from lora_engine.adapters.names import DIFFUSERS_NAME
from lora_engine.config.evaluation import SamplesConfig
from lora_engine.evaluation.line_art import measure
from lora_engine.evaluation.sampler import Sample, Sampler
from lora_engine.images.squares import read_square
from lora_engine.models.clip import load_clip
from lora_engine.models.files import LocalModel


def measure_training_images(attempt: Attempt, images: Images) -> None:
    """Measure the training images, with which samples are compared, and write `data/line_art.jsonl`.

    Does nothing where the manifest asks for no samples, or the file is there.
    """
    if attempt.manifest.evaluation.samples is None or attempt.run.exists(layout.TRAINING_MEASURES):
        return
    rows = []
    with attempt.progress.stage("measure", total=len(images.train), unit="images") as stage:
        for record in images.train:
            rows.append({"id": record.id, **asdict(measure(read_square(images.prepared.paths[record.id])))})
            stage.advance(1)
            attempt.stop.check()
    attempt.run.write_jsonl(layout.TRAINING_MEASURES, rows)


def has_samples(attempt: Attempt, pack: Pack, clip_model: LocalModel | None) -> bool:
    """Whether every sample that the manifest asks for is generated and measured."""
    config = attempt.manifest.evaluation.samples
    return config is None or not _missing(attempt, pack, _settings(config, clip_model))


def sample(
    attempt: Attempt,
    pack: Pack,
    model: LocalModel,
    unet: torch.nn.Module,
    device: torch.device,
    clip_model: LocalModel | None,
) -> None:
    """Generate, measure and write the samples of the pack that are missing.

    The images of a step are written first and its index last, so that an index is never without its images.

    Args:
        model: the base model.
        unet: its UNet with the pack's adapters injected, into which the weights of each checkpoint are loaded.
        clip_model: scores the samples; None where the manifest names none.
    """
    config = attempt.manifest.evaluation.samples
    if config is None:
        return
    settings = _settings(config, clip_model)
    missing = _missing(attempt, pack, settings)
    if not missing:
        return
    resolution, images_at_once = attempt.manifest.preprocess.resolution, attempt.manifest.evaluation.batch_size
    sampler = Sampler(model, unet, config, resolution, images_at_once, device)
    clip = load_clip(clip_model, device) if clip_model else None
    total = sum(max(1, len(step.generating)) for step in missing) * len(config.prompts) * len(config.seeds)
    with attempt.progress.stage("sample", total=total, unit="images") as stage, Background("samples") as publishing:
        for step in missing:
            for member in step.generating:
                _load_adapter(attempt, unet, member, step.step)
            rows: dict[str | None, list[SampleRow]] = {adapter: [] for adapter in step.missing}
            for samples in sampler.generate([member.adapter_name for member in step.generating], attempt.stop.check):
                stage.advance(len(samples))
                for adapter, members in step.missing.items():
                    if own := [one for one in samples if one.adapter == adapter]:
                        _warn_of_not_finite(attempt, adapter, step.step, own, config)
                        pictures = [one.image for one in own if one.image is not None]
                        cosines = iter(clip.cosines(pictures, config.prompts).tolist() if clip and pictures else [])
                        publishing.submit(partial(_publish, attempt, members, step.step, own, cosines, rows[adapter]))
                attempt.stop.check()
            for adapter, members in step.missing.items():
                publishing.submit(partial(_publish_index, attempt, members, step.step, settings, rows[adapter]))


@dataclass(frozen=True)
class _Step:
    """A step at which samples are missing."""

    step: int
    # The members whose samples are missing, by the name of the adapter that generates them: their own, or None at step
    # 0, where the base model generates one set of samples for all members.
    missing: Mapping[str | None, Sequence[Member]]
    # The members that generate at once: all that have a checkpoint of this step. Those whose samples are not missing
    # are among them, since the number of images in a pass decides how sums are rounded. Empty at step 0.
    generating: Sequence[Member]


def _steps(attempt: Attempt, pack: Pack) -> list[int]:
    """The steps at which samples are generated: 0 and those of all evaluations, or the last one alone."""
    config, last = attempt.manifest.evaluation, pack.training.steps
    if config.samples is not None and config.samples.when == "end":
        return [last]
    return [*range(0, last, config.every), last]


def _settings(config: SamplesConfig, clip_model: LocalModel | None) -> SampleSettings:
    generation = config.model_dump(mode="json", exclude={"clip", "when"})
    return SampleSettings.model_validate(generation | {"clip_sha256": clip_model.sha256 if clip_model else None})


def _missing(attempt: Attempt, pack: Pack, settings: SampleSettings) -> list[_Step]:
    """The steps at which samples are missing, ascending. None can be missing where no checkpoint was kept."""
    kept = {m: {0, *checkpoints.committed_steps(attempt.run, m)} for m in pack.members}
    result = []
    for step in _steps(attempt, pack):
        with_checkpoint = [member for member in pack.members if step in kept[member]]
        missing: dict[str | None, list[Member]] = {}
        for member in with_checkpoint:
            if not _has_samples(attempt, member, step, settings):
                missing.setdefault(member.adapter_name if step else None, []).append(member)
        if missing:
            result.append(_Step(step, missing, with_checkpoint if step else ()))
    return result


def _has_samples(attempt: Attempt, member: Member, step: int, settings: SampleSettings) -> bool:
    index = attempt.run.read_stored(layout.sample_index(member, step), SampleIndex)
    return index is not None and index.settings == settings


def _load_adapter(attempt: Attempt, unet: torch.nn.Module, member: Member, step: int) -> None:
    """Load the weights of a member's checkpoint into its adapter of the UNet."""
    committed = checkpoints.read_commit(attempt.run, member, step)
    with tempfile.TemporaryDirectory(dir=attempt.workdir) as scratch:
        path = Path(scratch) / DIFFUSERS_NAME
        checkpoints.fetch_file(attempt.run, committed, DIFFUSERS_NAME, path)
        lora.load(unet, member.adapter_name, formats.read_adapter(path))


def _warn_of_not_finite(
    attempt: Attempt, adapter: str | None, step: int, samples: Sequence[Sample], config: SamplesConfig
) -> None:
    for one in samples:
        if one.image is None:
            attempt.progress.warn(
                f"{adapter or 'the base model'}, step {step}: the sample of {config.prompts[one.prompt]!r}, seed "
                f"{one.seed}, is not finite; it has no picture and no scores"
            )


def _publish(
    attempt: Attempt,
    members: Sequence[Member],
    step: int,
    samples: Sequence[Sample],
    cosines: Iterator[Sequence[float]],
    rows: list[SampleRow],
) -> None:
    """Write the samples for each of the members, measure them, and add a row for each to `rows`.

    Args:
        cosines: of each sample that has a picture and each prompt, by the CLIP model; none without one.
    """
    for one in samples:
        if one.image is None:
            rows.append(SampleRow(file=None, prompt=one.prompt, seed=one.seed, line_art=None))
            continue
        data, name = io.BytesIO(), layout.sample_name(one.prompt, one.seed)
        one.image.save(data, "PNG")
        for member in members:
            attempt.run.write(f"{layout.samples(member, step)}/{name}", data.getvalue())
        row = SampleRow(
            file=name,
            sha256=hashlib.sha256(data.getvalue()).hexdigest(),
            prompt=one.prompt,
            seed=one.seed,
            line_art=measure(one.image),
            clip_cosines=tuple(found) if (found := next(cosines, None)) is not None else None,
        )
        rows.append(row)


def _publish_index(
    attempt: Attempt, members: Sequence[Member], step: int, settings: SampleSettings, rows: Sequence[SampleRow]
) -> None:
    """Write the index of a step's samples, after their images, and delete files of earlier settings that it lacks."""
    for member in members:
        index, folder = layout.sample_index(member, step), layout.samples(member, step)
        attempt.run.write_stored(index, SampleIndex(settings=settings, images=tuple(rows)))
        listed = {index, *(f"{folder}/{row.file}" for row in rows if row.file is not None)}
        for key in [key for key, _ in attempt.run.list(folder) if key not in listed]:
            attempt.run.delete(key)
