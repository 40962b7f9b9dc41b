"""Draws the same prompts with the base model and every checkpoint of a pack, and measures what was drawn."""

import hashlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from job import layout
from job.manifest.packs import Member, Pack
from job.run import checkpoints
from job.run.context import Attempt
from job.run.dataset import Images
from job.threads import Background
from lora_engine.adapters import formats, lora
from lora_engine.adapters.names import DIFFUSERS_NAME
from lora_engine.config.evaluation import SamplesConfig
from lora_engine.evaluation.line_art import measure
from lora_engine.evaluation.sampler import Sample, Sampler
from lora_engine.images.squares import read_square
from lora_engine.models.clip import Scorer, load_clip


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


def has_samples(attempt: Attempt, pack: Pack, scorer: Scorer | None) -> bool:
    """Whether all that the manifest asks for is drawn and measured."""
    config = attempt.manifest.evaluation.samples
    return config is None or not _missing(attempt, pack, _settings(config, scorer))


def sample(
    attempt: Attempt, pack: Pack, model: Path, unet: torch.nn.Module, device: torch.device, scorer: Scorer | None
) -> None:
    """Write the pack's samples, those that are not there yet: the images of a step first, then what they are."""
    config = attempt.manifest.evaluation.samples
    if config is None:
        return
    settings = _settings(config, scorer)
    missing = _missing(attempt, pack, settings)
    if not missing:
        return
    resolution, images_at_once = attempt.manifest.preprocess.resolution, attempt.manifest.evaluation.batch_size
    allow_pickle = attempt.manifest.base_model.allow_pickle
    sampler = Sampler(model, unet, config, resolution, images_at_once, device, allow_pickle=allow_pickle)
    clip = load_clip(scorer.folder, device, allow_pickle=scorer.allow_pickle) if scorer else None
    total = sum(max(1, len(step.drawing)) for step in missing) * len(config.prompts) * len(config.seeds)
    with attempt.progress.stage("sample", total=total, unit="images") as stage, Background("samples") as publishing:
        for step in missing:
            for member in step.drawing:
                _load_adapter(attempt, unet, member, step.step)
            rows: dict[str | None, list[dict[str, Any]]] = {adapter: [] for adapter in step.missing}
            for samples in sampler.generate([member.adapter_name for member in step.drawing], attempt.stop.check):
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
    missing: Mapping[str | None, Sequence[Member]]  # whose they are, by the adapter that draws; None: the base model
    # All that have a checkpoint of this step, in one pass; also those whose samples are there, since the number of
    # images in a pass decides how sums are rounded. None at step 0.
    drawing: Sequence[Member]


def _steps(attempt: Attempt, pack: Pack) -> list[int]:
    """The base model's 0 and every evaluation's, or the last one alone."""
    config, last = attempt.manifest.evaluation, pack.training.steps
    if config.samples is not None and config.samples.when == "end":
        return [last]
    return [*range(0, last, config.every), last]


def _settings(config: SamplesConfig, scorer: Scorer | None) -> dict[str, Any]:
    """All that decides what is drawn with given weights, and who scores it."""
    drawing = config.model_dump(mode="json", exclude={"clip", "when"})
    return drawing | {"clip_sha256": scorer.sha256 if scorer else None}


def _missing(attempt: Attempt, pack: Pack, settings: dict[str, Any]) -> list[_Step]:
    """The steps that lack samples, ascending. A step whose checkpoint was not kept has none."""
    kept = {m: {0, *checkpoints.committed_steps(attempt.run, *m)} for m in pack.members}
    result = []
    for step in _steps(attempt, pack):
        able = [member for member in pack.members if step in kept[member]]
        missing: dict[str | None, list[Member]] = {}
        for member in able:
            if not _is_drawn(attempt, member, step, settings):
                missing.setdefault(member.adapter_name if step else None, []).append(member)
        if missing:
            result.append(_Step(step, missing, able if step else ()))
    return result


def _is_drawn(attempt: Attempt, member: Member, step: int, settings: dict[str, Any]) -> bool:
    index = attempt.run.read_json(layout.sample_index(*member, step))
    return index is not None and bool(index["settings"] == settings)


def _load_adapter(attempt: Attempt, unet: torch.nn.Module, member: Member, step: int) -> None:
    committed = checkpoints.read_commit(attempt.run, *member, step)
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
    rows: list[dict[str, Any]],
) -> None:
    """Write images, and add what they are to `rows`."""
    for at, one in enumerate(samples):
        data, name = io.BytesIO(), layout.sample_name(one.prompt, one.seed)
        one.image.save(data, "PNG")
        for member in members:
            attempt.run.write(f"{layout.samples(*member, step)}/{name}", data.getvalue())
        rows.append(
            {
                "file": name,
                "sha256": hashlib.sha256(data.getvalue()).hexdigest(),
                "prompt": one.prompt,
                "seed": one.seed,
                "line_art": asdict(measure(one.image)),
                "clip_cosines": cosines[at] if cosines is not None else None,
            }
        )


def _publish_index(
    attempt: Attempt, members: Sequence[Member], step: int, settings: dict[str, Any], rows: Sequence[dict[str, Any]]
) -> None:
    """Say what was drawn, after the images, and delete what was drawn from other prompts."""
    for member in members:
        index, folder = layout.sample_index(*member, step), layout.samples(*member, step)
        attempt.run.write_json(index, {"settings": settings, "images": rows})
        listed = {index, *(f"{folder}/{row['file']}" for row in rows)}
        for key in [key for key, _ in attempt.run.list(folder) if key not in listed]:
            attempt.run.delete(key)
