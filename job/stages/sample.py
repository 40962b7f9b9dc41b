"""Draws the same prompts with the base model and every checkpoint of a pack, and measures what was drawn."""

import hashlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from job import commit, layout
from job.context import Job
from job.handover import Images
from job.progress import Stage
from job.variants import Member, Pack
from lora_engine import adapters, checkpoints, sampling
from lora_engine.clip_score import ClipScorer, load_clip
from lora_engine.config.training import SamplesConfig
from lora_engine.data.squares import read_square
from lora_engine.line_art import measure


@dataclass(frozen=True)
class Scorer:
    """The CLIP model of the manifest: its files and their hash."""

    folder: Path
    sha256: str
    allow_pickle: bool = False


def measure_training_images(job: Job, images: Images) -> None:
    """Write `data/line_art.jsonl`, what samples are compared to, if samples are asked for and it is not there."""
    if job.manifest.evaluation.samples is None or job.run.exists(layout.TRAINING_MEASURES):
        return
    rows = []
    with job.progress.stage("measure", total=len(images.train), unit="images") as stage:
        for record in images.train:
            rows.append({"id": record.id, **asdict(measure(read_square(images.prepared.paths[record.id])))})
            stage.advance(1)
            job.stop.check()
    job.run.write_jsonl(layout.TRAINING_MEASURES, rows)


def has_samples(job: Job, pack: Pack, scorer: Scorer | None) -> bool:
    """Whether all that the manifest asks for is drawn and measured."""
    config = job.manifest.evaluation.samples
    return config is None or not _missing(job, pack, _settings(config, scorer))


def sample(
    job: Job, pack: Pack, model: Path, unet: torch.nn.Module, device: torch.device, scorer: Scorer | None
) -> None:
    """Write the pack's samples, those that are not there yet: the images of a step first, then what they are."""
    config = job.manifest.evaluation.samples
    if config is None:
        return
    settings = _settings(config, scorer)
    missing = _missing(job, pack, settings)
    if not missing:
        return
    pipeline = sampling.load_pipeline(model, unet, device, allow_pickle=job.manifest.base_model.allow_pickle)
    clip = load_clip(scorer.folder, device, allow_pickle=scorer.allow_pickle) if scorer else None
    total = sum(1 if step == 0 else len(members) for step, members in missing.items())
    count = len(config.prompts) * len(config.seeds)
    with job.progress.stage("sample", total=total * count, unit="images") as stage:
        for step, members in missing.items():
            if step == 0:  # the untouched base model: the same images for every member
                adapters.activate(unet, [])
                _publish(job, members, step, settings, list(_draw(job, pipeline, config, stage)), clip)
                continue
            for member in members:
                _load_adapter(job, unet, member, step)
                adapters.activate(unet, [member.adapter_name])
                _publish(job, [member], step, settings, list(_draw(job, pipeline, config, stage)), clip)


def _steps(job: Job, pack: Pack) -> list[int]:
    """The base model's 0 and every evaluation's, or the last one alone."""
    config, last = job.manifest.evaluation, pack.training.steps
    if config.samples is not None and config.samples.when == "end":
        return [last]
    return [*range(0, last, config.every), last]


def _settings(config: SamplesConfig, scorer: Scorer | None) -> dict[str, Any]:
    """All that decides what is drawn with given weights, and who scores it."""
    drawing = config.model_dump(mode="json", exclude={"clip", "when"})
    return drawing | {"clip_sha256": scorer.sha256 if scorer else None}


def _missing(job: Job, pack: Pack, settings: dict[str, Any]) -> dict[int, list[Member]]:
    """Step to the members whose samples of it are not there. A step whose checkpoint was not kept has none."""
    result: dict[int, list[Member]] = {}
    for member in pack.members:
        kept = {0, *commit.committed_steps(job.run, member.variant, member.seed)}
        for step in _steps(job, pack):
            index = job.run.read_json(layout.sample_index(member.variant, member.seed, step)) if step in kept else None
            if step in kept and (index is None or index["settings"] != settings):
                result.setdefault(step, []).append(member)
    return dict(sorted(result.items()))


def _load_adapter(job: Job, unet: torch.nn.Module, member: Member, step: int) -> None:
    committed = commit.read_commit(job.run, member.variant, member.seed, step)
    with tempfile.TemporaryDirectory(dir=job.workdir) as scratch:
        path = Path(scratch) / layout.DIFFUSERS_NAME
        commit.fetch_file(job.run, committed, layout.DIFFUSERS_NAME, path)
        adapters.load(unet, member.adapter_name, checkpoints.read_adapter(path))


def _draw(job: Job, pipeline: Any, config: SamplesConfig, stage: Stage) -> Iterator[tuple[int, int, Image.Image]]:
    resolution, batch_size = job.manifest.preprocess.resolution, job.manifest.evaluation.batch_size
    for drawn in sampling.draw_samples(pipeline, config, resolution, batch_size, job.stop.check):
        yield drawn
        stage.advance(1)
        job.stop.check()


def _publish(
    job: Job,
    members: Sequence[Member],
    step: int,
    settings: dict[str, Any],
    drawn: Sequence[tuple[int, int, Image.Image]],
    clip: ClipScorer | None,
) -> None:
    prompts = settings["prompts"]
    cosines = clip.cosines([image for _, _, image in drawn], prompts).tolist() if clip else [None] * len(drawn)
    files, rows = {}, []
    for (prompt, seed, image), row in zip(drawn, cosines, strict=True):
        data, name = io.BytesIO(), layout.sample_name(prompt, seed)
        image.save(data, "PNG")
        files[name] = data.getvalue()
        rows.append(
            {
                "file": name,
                "sha256": hashlib.sha256(files[name]).hexdigest(),
                "prompt": prompt,
                "seed": seed,
                "line_art": asdict(measure(image)),
                "clip_cosines": row,
            }
        )
    for member in members:
        where = (member.variant, member.seed, step)
        for name, content in files.items():
            job.run.write(f"{layout.samples(*where)}/{name}", content)
        job.run.write_json(layout.sample_index(*where), {"settings": settings, "images": rows})
        listed = {layout.sample_index(*where), *(f"{layout.samples(*where)}/{name}" for name in files)}
        for key in [key for key, _ in job.run.list(layout.samples(*where)) if key not in listed]:
            job.run.delete(key)  # drawn from other prompts
