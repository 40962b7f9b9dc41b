"""The models that a run loads: brought to this machine and refused where they cannot serve."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from job.context import Job
from job.stages.fetch import fetch_model, fetch_weights
from job.stages.sample import Scorer
from job.variants import packs_of
from lora_engine import base_model
from lora_engine.captions.vision import FILE_PATTERNS as CAPTIONER_PATTERNS
from lora_engine.captions.vision import require_captioner
from lora_engine.clip_score import FILE_PATTERNS as CLIP_PATTERNS
from lora_engine.clip_score import require_clip
from lora_engine.model_files import hash_ahead, model_sha256


@dataclass(frozen=True)
class Models:
    """What the run loads, on this machine and fit for it."""

    base: Path
    captioner: Path | None
    scorer: Scorer | None


def fetch_models(job: Job) -> Models:
    """All of them, before anything is computed.

    Raises:
        JobError, ModelError: 43 where one cannot be used, 50 where it cannot be fetched.
    """
    manifest = job.manifest
    base = fetch_base(job)
    hash_ahead(base)  # gigabytes, while the images are prepared
    for pack in packs_of(manifest):
        base_model.require_trainable(base, pack.lora)
    captioner = None
    if manifest.captioner is not None:
        captioner = fetch_weights(job, "captioner.source", manifest.captioner, CAPTIONER_PATTERNS)
        require_captioner(captioner, allow_pickle=manifest.captioner.allow_pickle)
    return Models(base, captioner, _fetch_scorer(job))


def fetch_base(job: Job) -> Path:
    """The base model alone, as a folder in diffusers layout; a checkpoint in one file is converted."""
    config = job.manifest.base_model
    model = fetch_weights(job, "base_model.source", config, base_model.FILE_PATTERNS)
    if model.is_dir():
        base_model.require_weights(model, allow_pickle=config.allow_pickle)
        return model
    components = fetch_model(job, "base_model.components", config.components, None, base_model.CONFIG_PATTERNS)
    folder = job.workdir / "models" / f"{model.stem}-{model_sha256(model)[:16]}"
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as scratch:
            base_model.convert_single_file(model, components, Path(scratch) / folder.name)
            try:
                (Path(scratch) / folder.name).rename(folder)
            except OSError:
                if not folder.exists():  # otherwise another process on this machine was as fast
                    raise
    return folder


def _fetch_scorer(job: Job) -> Scorer | None:
    samples = job.manifest.evaluation.samples
    if samples is None or samples.clip is None:
        return None
    source = samples.clip
    folder = fetch_weights(job, "evaluation.samples.clip.source", source, CLIP_PATTERNS)
    require_clip(folder, allow_pickle=source.allow_pickle)
    return Scorer(folder, model_sha256(folder), source.allow_pickle)
