"""Brings the models that a run loads to this machine, and refuses those that cannot serve."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

from job.errors import ExitCode, JobError
from job.manifest.models import BaseModelConfig, CaptionerModelConfig, ClipConfig
from job.run.context import Attempt
from job.run.downloads import fetch_object, fetch_prefix, folder_of, require_path
from job.storage import is_remote
from job.storage.hub import fetch_hub
from job.storage.uris import local_path
from job.threads import wait_for
from lora_engine.models import stable_diffusion
from lora_engine.models.captioner import FILE_PATTERNS as CAPTIONER_PATTERNS
from lora_engine.models.captioner import require_captioner
from lora_engine.models.clip import FILE_PATTERNS as CLIP_PATTERNS
from lora_engine.models.clip import require_clip
from lora_engine.models.files import WITH_WEIGHTS, LocalModel, hash_ahead, pickled_weights, with_pickles


@dataclass(frozen=True)
class Models:
    """The models that the run loads: they are on this machine and their files are fit for use."""

    base: LocalModel
    captioner: LocalModel | None  # None where no caption strategy needs one
    clip: LocalModel | None  # scores samples; None where the manifest names none


def fetch_models(attempt: Attempt) -> Models:
    """Fetch and check all models that the manifest names, before anything is computed.

    Raises:
        JobError, ModelError: 43 where a model cannot be used, 42 or 50 where it cannot be fetched.
    """
    manifest = attempt.manifest
    base = fetch_base(attempt)
    hash_ahead(base)  # Hashing gigabytes takes a while, and the hash is needed only once the images are prepared.
    for pack in attempt.packs:
        stable_diffusion.require_trainable(base, pack.lora)
    captioner = None
    if manifest.captioner is not None:
        captioner = fetch_weights(attempt, "captioner.source", manifest.captioner, CAPTIONER_PATTERNS)
        require_captioner(captioner)
    return Models(base, captioner, _fetch_clip(attempt))


def fetch_base(attempt: Attempt) -> LocalModel:
    """Fetch the base model and give it as a folder in diffusers layout, into which a single-file one is converted."""
    config = attempt.manifest.base_model
    model = fetch_weights(attempt, "base_model.source", config, stable_diffusion.FILE_PATTERNS)
    if model.path.is_dir():
        stable_diffusion.require_weights(model)
        return model
    components = fetch_model(
        attempt, "base_model.components", config.components, None, stable_diffusion.CONFIG_PATTERNS
    )
    folder = attempt.workdir / "models" / f"{model.path.stem}-{model.sha256[:16]}"
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as scratch:
            stable_diffusion.convert_single_file(model.path, components, Path(scratch) / folder.name)
            try:
                (Path(scratch) / folder.name).rename(folder)
            except OSError:
                if not folder.exists():  # If it exists, another process on this machine has converted the same file.
                    raise
    return LocalModel(folder)


def _fetch_clip(attempt: Attempt) -> LocalModel | None:
    samples = attempt.manifest.evaluation.samples
    if samples is None or samples.clip is None:
        return None
    model = fetch_weights(attempt, "evaluation.samples.clip.source", samples.clip, CLIP_PATTERNS)
    require_clip(model)
    return model


def fetch_model(attempt: Attempt, what: str, source: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Fetch a model's files, and give the local folder that holds them, or the path of a single `.safetensors` file.

    Args:
        what: the manifest's key of the model, for messages.
        revision: the commit or branch of a hub's model; None for its main branch, or where the source is no hub.
        patterns: glob patterns of the files that are needed.

    Raises:
        JobError: 43 when the model is not there, 42 or 50 when it cannot be reached.
    """
    if source.startswith("hf://"):
        repository = source.removeprefix("hf://")
        return wait_for(
            lambda: fetch_hub(what, repository, revision, patterns, attempt.progress.moved), attempt.stop.check
        )
    if not is_remote(source):
        path = local_path(source)
        require_path(path, what, ExitCode.MODEL)
        return path
    folder = folder_of(attempt, "models", source)
    if source.endswith(".safetensors"):
        return fetch_object(attempt, source, attempt.manifest.model_storage(), folder)

    def wanted(key: str) -> bool:
        return any(fnmatch(key, pattern) for pattern in patterns)

    if not fetch_prefix(attempt, source, attempt.manifest.model_storage(), folder, wanted):
        raise JobError(ExitCode.MODEL, f"{what}: there is no model at {source}.", f"Correct {what}.")
    return folder


def fetch_weights(
    attempt: Attempt, what: str, config: BaseModelConfig | CaptionerModelConfig | ClipConfig, patterns: Sequence[str]
) -> LocalModel:
    """Fetch a model with its weights: pickles, too, where the manifest allows them, with a warning if any will be read.

    Takes `what` and `patterns`, and raises, as `fetch_model` does.
    """
    wanted = with_pickles(patterns, allow_pickle=config.allow_pickle)
    path = fetch_model(attempt, what, config.source, config.revision, wanted)
    folders = (path, *(path / part for part in WITH_WEIGHTS))
    pickles = [file.relative_to(path).as_posix() for folder in folders for file in pickled_weights(folder)]
    if config.allow_pickle and pickles:
        attempt.progress.warn(
            f"{what}: {', '.join(pickles)}: pickles can hold code; since allow_pickle is true, their weights are read"
        )
    return LocalModel(path, config.allow_pickle)
