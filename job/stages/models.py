"""Brings the models that a run loads to this machine, and refuses those that cannot serve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory

from job.errors import ExitCode, JobError
from job.manifest.models import BaseModelConfig, CaptionerModelConfig, ClipConfig
from job.run.context import Attempt, Workplace
from job.run.downloads import fetch_object, fetch_prefix, folder_of, require_path
from job.run.unverified import note_unverified
from job.storage import StorageSettings, is_remote
from job.storage.hub import fetch_hub, is_hub, repository_of, unverified_in
from job.storage.uris import local_path
from job.threads import wait_for
from lora_engine.models import stable_diffusion
from lora_engine.models.captioner import FILE_PATTERNS as CAPTIONER_PATTERNS
from lora_engine.models.captioner import require_captioner
from lora_engine.models.clip import FILE_PATTERNS as CLIP_PATTERNS
from lora_engine.models.clip import require_clip
from lora_engine.models.files import WITH_WEIGHTS, LocalModel, hash_ahead, pickled_weights, with_pickles
from lora_engine.system.scratch import make_folder


@dataclass(frozen=True)
class Models:
    """The models that the run loads: they are on this machine and their files are fit for use."""

    base: LocalModel
    captioners: Mapping[str, LocalModel]  # all that the manifest names
    clip: LocalModel | None  # scores samples; None where the manifest names none


def fetch_models(attempt: Attempt) -> Models:
    """Fetch and check all models that the manifest names, before anything is computed.

    Raises:
        JobError, ModelError: 43 where a model cannot be used, 42 or 50 where it cannot be fetched.
    """
    manifest = attempt.manifest
    settings, samples = manifest.model_storage(), manifest.evaluation.samples
    base = fetch_base(attempt, manifest.base_model, settings)
    hash_ahead(base)  # Hashing gigabytes takes a while, and the hash is needed only once the images are prepared.
    for pack in attempt.packs:
        stable_diffusion.require_trainable(base, pack.lora)
    captioners = {}
    for name, config in manifest.named_captioners().items():
        what = f"{manifest.captioner_key(name)}.source"
        captioners[name] = fetch_weights(attempt, what, config, CAPTIONER_PATTERNS, settings)
        require_captioner(captioners[name], config, what)
    return Models(base, captioners, fetch_clip(attempt, samples.clip if samples else None, settings))


def fetch_base(place: Workplace, config: BaseModelConfig, settings: StorageSettings) -> LocalModel:
    """Fetch the base model and give it as a folder in diffusers layout, into which a single-file one is converted.

    Args:
        settings: of the store that holds it.
    """
    model = fetch_weights(place, "base_model.source", config, stable_diffusion.FILE_PATTERNS, settings)
    if model.path.is_dir():
        stable_diffusion.require_weights(model)
        return model
    components = fetch_model(
        place, "base_model.components", config.components, None, stable_diffusion.CONFIG_PATTERNS, settings
    )
    folder = place.workdir / "models" / f"{model.path.stem}-{model.sha256[:16]}"
    if not folder.exists():
        make_folder(folder.parent)
        with TemporaryDirectory(dir=folder.parent) as scratch:
            with place.progress.doing("Converting a model", f"Converting {model.path.name}"):
                stable_diffusion.convert_single_file(model.path, components, Path(scratch) / folder.name)
            try:
                (Path(scratch) / folder.name).rename(folder)
            except OSError:
                if not folder.exists():  # If it exists, another process on this machine has converted the same file.
                    raise
    return LocalModel(folder)


def fetch_clip(place: Workplace, config: ClipConfig | None, settings: StorageSettings) -> LocalModel | None:
    """Fetch the CLIP model that scores samples; None where none is named. Takes `settings` as `fetch_base` does."""
    if config is None:
        return None
    model = fetch_weights(place, "evaluation.samples.clip.source", config, CLIP_PATTERNS, settings)
    require_clip(model)
    return model


def fetch_model(
    place: Workplace,
    what: str,
    source: str,
    revision: str | None,
    patterns: Sequence[str],
    settings: StorageSettings,
) -> Path:
    """Fetch a model's files, and give the local folder that holds them, or the path of a single `.safetensors` file.

    Args:
        what: the manifest's key of the model, for messages.
        revision: the commit or branch of a hub's model; None for its main branch, or where the source is no hub.
        patterns: glob patterns of the files that are needed.
        settings: of the store that holds it.

    Raises:
        JobError: 43 when the model is not there, 42 or 50 when it cannot be reached.
    """
    if is_hub(source):
        repository = repository_of(source)
        with place.progress.doing("Fetching a model from the hub", f"Fetching {source}, if its cache lacks it"):
            folder = wait_for(
                lambda: fetch_hub(what, repository, revision, patterns, place.progress.moved), place.stop.check
            )
        note_unverified(place, source, unverified_in(folder, patterns))
        return folder
    if not is_remote(source):
        path = local_path(source)
        require_path(path, what, ExitCode.MODEL)
        return path
    folder = folder_of(place, "models", source)
    if source.endswith(".safetensors"):
        return fetch_object(place, source, settings, folder)

    def wanted(key: str) -> bool:
        return any(fnmatch(key, pattern) for pattern in patterns)

    if not fetch_prefix(place, source, settings, folder, wanted):
        raise JobError(ExitCode.MODEL, f"{what}: there is no model at {source}.", f"Correct {what}.")
    return folder


def fetch_weights(
    place: Workplace,
    what: str,
    config: BaseModelConfig | CaptionerModelConfig | ClipConfig,
    patterns: Sequence[str],
    settings: StorageSettings,
) -> LocalModel:
    """Fetch a model with its weights: pickles, too, where the manifest allows them, with a warning if any will be read.

    Takes `what`, `patterns` and `settings`, and raises, as `fetch_model` does.
    """
    wanted = with_pickles(patterns, allow_pickle=config.allow_pickle)
    path = fetch_model(place, what, config.source, config.revision, wanted, settings)
    folders = (path, *(path / part for part in WITH_WEIGHTS))
    pickles = [file.relative_to(path).as_posix() for folder in folders for file in pickled_weights(folder)]
    if config.allow_pickle and pickles:
        place.progress.warn(
            f"{what}: {', '.join(pickles)}: pickles can hold code; since allow_pickle is true, their weights are read"
        )
    return LocalModel(path, config.allow_pickle)
