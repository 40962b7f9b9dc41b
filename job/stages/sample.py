"""Samples of the same prompts by the base model and every checkpoint of a pack, and how they measure."""

import hashlib
import io
import tempfile
from collections.abc import Mapping, Sequence
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
    """Write `data/line_art.jsonl`, what samples are compared to, if samples are asked for and it is not there."""
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
    """Generate the samples of the pack that are missing: the images of a step first, then what they are."""
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
    total = sum(max(1, len(step.able)) for step in missing) * len(config.prompts) * len(config.seeds)
    with attempt.progress.stage("sample", total=total, unit="images") as stage, Background("samples") as publishing:
        for step in missing:
            for member in step.able:
                _load_adapter(attempt, unet, member, step.step)
            rows: dict[str | None, list[SampleRow]] = {adapter: [] for adapter in step.missing}
            for samples in sampler.generate([member.adapter_name for member in step.able], attempt.stop.check):
                stage.advance(len(samples))
                for adapter, members in step.missing.items():
                    if own := [one for one in samples if one.adapter == adapter]:
                        cosines = clip.cosines([one.image for one in own], config.prompts).tolist() if clip else None
                        publishing.submit(partial(_publish, attempt, members, step.step, own, cosines, rows[adapter]))
                attempt.stop.check()
            for adapter, members in step.missing.items():
                publishing.submit(partial(_publish_index, attempt, members, step.step, settings, rows[adapter]))


@dataclass(frozen=True)
class _Step:
    """A step of which samples are missing."""

    step: int
    missing: Mapping[str | None, Sequence[Member]]  # of the adapter that generates them, None for the base model
    # All that have a checkpoint of this step, in one pass; also those whose samples are there, since the number of
    # images in a pass decides how sums are rounded. None at step 0.
    able: Sequence[Member]


def _steps(attempt: Attempt, pack: Pack) -> list[int]:
    """The base model's 0 and every evaluation's, or the last one alone."""
    config, last = attempt.manifest.evaluation, pack.training.steps
    if config.samples is not None and config.samples.when == "end":
        return [last]
    return [*range(0, last, config.every), last]


def _settings(config: SamplesConfig, clip_model: LocalModel | None) -> SampleSettings:
    generation = config.model_dump(mode="json", exclude={"clip", "when"})
    return SampleSettings.model_validate(generation | {"clip_sha256": clip_model.sha256 if clip_model else None})


def _missing(attempt: Attempt, pack: Pack, settings: SampleSettings) -> list[_Step]:
    """The steps that lack samples, ascending. A step whose checkpoint was not kept has none."""
    kept = {m: {0, *checkpoints.committed_steps(attempt.run, m)} for m in pack.members}
    result = []
    for step in _steps(attempt, pack):
        able = [member for member in pack.members if step in kept[member]]
        missing: dict[str | None, list[Member]] = {}
        for member in able:
            if not _has_samples(attempt, member, step, settings):
                missing.setdefault(member.adapter_name if step else None, []).append(member)
        if missing:
            result.append(_Step(step, missing, able if step else ()))
    return result


def _has_samples(attempt: Attempt, member: Member, step: int, settings: SampleSettings) -> bool:
    index = attempt.run.read_stored(layout.sample_index(member, step), SampleIndex)
    return index is not None and index.settings == settings


def _load_adapter(attempt: Attempt, unet: torch.nn.Module, member: Member, step: int) -> None:
    committed = checkpoints.read_commit(attempt.run, member, step)
    with tempfile.TemporaryDirectory(dir=attempt.workdir) as scratch:
        path = Path(scratch) / DIFFUSERS_NAME
        checkpoints.fetch_file(attempt.run, committed, DIFFUSERS_NAME, path)
        lora.load(unet, member.adapter_name, formats.read_adapter(path))


def _publish(
    attempt: Attempt,
    members: Sequence[Member],
    step: int,
    samples: Sequence[Sample],
    cosines: Sequence[Sequence[float]] | None,
    rows: list[SampleRow],
) -> None:
    """Write images, and add what they are to `rows`."""
    for at, one in enumerate(samples):
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
            clip_cosines=tuple(cosines[at]) if cosines is not None else None,
        )
        rows.append(row)


def _publish_index(
    attempt: Attempt, members: Sequence[Member], step: int, settings: SampleSettings, rows: Sequence[SampleRow]
) -> None:
    """Write what the samples are, after their images, and delete the samples of other prompts."""
    for member in members:
        index, folder = layout.sample_index(member, step), layout.samples(member, step)
        attempt.run.write_stored(index, SampleIndex(settings=settings, images=tuple(rows)))
        listed = {index, *(f"{folder}/{row.file}" for row in rows)}
        for key in [key for key, _ in attempt.run.list(folder) if key not in listed]:
            attempt.run.delete(key)
