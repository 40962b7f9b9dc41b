"""Brings the models that a run loads to this machine, and refuses those that cannot serve."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from job.errors import ExitCode, JobError
from job.manifest.models import BaseModelConfig, CaptionerModelConfig, ClipConfig
from job.manifest.packs import different_loras
from job.manifest.schema import START
from job.run.context import Attempt, Workplace
from job.run.downloads import fetch_object, fetch_prefix, folder_of, require_path
from job.run.lora_files import fetch_lora
from job.run.resolved import StartDecision
from job.run.starts import read_starts
from job.run.unverified import note_unverified
from job.storage import StorageSettings, is_remote
from job.storage.hub import fetch_hub, is_hub, refuse_bare_name, repository_of, unverified_in
from job.storage.uris import local_path
from job.threads import wait_for
from lora_engine.models import accepted, schedule, stable_diffusion
from lora_engine.models.accepted import WITH_WEIGHTS, Download, is_single_file, refuse_pickle
from lora_engine.models.captioner import FILE_PATTERNS as CAPTIONER_PATTERNS
from lora_engine.models.captioner import require_captioner
from lora_engine.models.checkpoint import require_checkpoint
from lora_engine.models.clip import FILE_PATTERNS as CLIP_PATTERNS
from lora_engine.models.clip import require_clip
from lora_engine.models.files import LocalModel, Merge, hash_ahead, pickled_weights, vae_folder, with_pickles
from lora_engine.models.single_file import convert_single_file, convert_vae
from lora_engine.system.scratch import make_folder


@dataclass(frozen=True)
class Models:
    """The models that the run loads: they are on this machine and their files are fit for use."""

    base: LocalModel
    captioners: Mapping[str, LocalModel]  # all that the manifest names
    clip: LocalModel | None  # scores samples; None where the manifest names none
    starts: Mapping[str, Path]  # variant to the LoRA's file that its adapters start from, of those that do


def fetch_models(attempt: Attempt) -> Models:
    """Fetch and check all models that the manifest names, before anything is computed.

    Raises:
        JobError, ModelError: 43 where a model cannot be used, 42 or 50 where it cannot be fetched.
    """
    manifest = attempt.manifest
    settings, samples = manifest.model_storage(), manifest.evaluation.samples
    base = fetch_base(attempt, manifest.base_model, settings)
    hash_ahead(base)  # Hashing gigabytes takes a while, and the hash is needed only once the images are prepared.
    schedule.require_noise(base, (variant.training.noise for variant in attempt.variants))
    for adapter in different_loras(attempt.variants):
        stable_diffusion.require_trainable(base, adapter)
    if samples is not None:
        schedule.require_sampler(base, samples.sampler, samples.all_steps)
    captioners = {}
    for name, config in manifest.named_captioners().items():
        what = f"{manifest.captioner_key(name)}.source"
        captioners[name] = fetch_weights(attempt, what, config, CAPTIONER_PATTERNS, settings)
        require_captioner(captioners[name], config, what)
    clip = fetch_clip(attempt, samples.clip if samples else None, settings)
    return Models(base, captioners, clip, fetch_starts(attempt))


def fetch_starts(attempt: Attempt) -> dict[str, Path]:
    """Fetch the LoRA's file that each variant starts from, of those that do. Raises as `fetch_models` does."""
    sources, settings = attempt.manifest.starts(), attempt.manifest.model_storage()
    paths = {source: fetch_lora(attempt, source, None, START, settings) for source in dict.fromkeys(sources.values())}
    return {variant: paths[source] for variant, source in sources.items()}


def decide_starts(attempt: Attempt, models: Models) -> dict[str, StartDecision]:
    """What the files that variants start from decide of these, see `ModelDecisions`. Raises as `read_starts` does."""
    read, sources = read_starts(attempt.manifest, models.starts, models.base), attempt.manifest.starts()
    return {
        variant: StartDecision(source=sources[variant], sha256=LocalModel(path).sha256, lora=read[variant])
        for variant, path in models.starts.items()
    }


def fetch_base(place: Workplace, config: BaseModelConfig, settings: StorageSettings) -> LocalModel:
    """Fetch the base model and give it as a folder in diffusers layout, into which a single-file one is converted.

    Args:
        settings: of the store that holds it.
    """
    refuse_pickle_at(config.source, "base_model.source")
    model = fetch_weights(place, "base_model.source", config, accepted.PIPELINE, settings)
    components = model.path
    if not model.path.is_dir():
        components = _fetch_components(place, config, settings)
        model = LocalModel(_converted(place, model, components, has_vae=config.vae is not None))
    merge = tuple(
        Merge(fetch_lora(place, each.source, each.revision, f"base_model.merge[{at}].source", settings), each.strength)
        for at, each in enumerate(config.merge)
    )
    model = replace(model, use=config.use, vae=_fetch_vae(place, config, components, settings), merge=merge)
    stable_diffusion.require_weights(model)
    return model


def _fetch_components(place: Workplace, config: BaseModelConfig, settings: StorageSettings) -> Path:
    """The folder with what a model in one file lacks."""
    return fetch_model(place, "base_model.components", config.components, None, accepted.CONFIG_PATTERNS, settings)


def _converted(place: Workplace, model: LocalModel, components: Path, *, has_vae: bool) -> Path:
    """The folder in diffusers layout of a checkpoint in one file, which is converted once on a machine."""
    header = require_checkpoint(model.path, has_vae=has_vae)
    # What it says of its predictions goes into the folder, which earlier versions made without it.
    says = "" if header.predicts is None else f"-{header.predicts}{'-ztsnr' if header.zero_terminal_snr else ''}"
    folder = place.workdir / "models" / f"{model.path.stem}-{model.sha256[:16]}{says}"

    def convert(made: Path) -> None:
        convert_single_file(model.path, components, made, has_vae=has_vae)

    return _made(place, folder, f"Converting {model.path.name}", convert)


def _fetch_vae(place: Workplace, config: BaseModelConfig, components: Path, settings: StorageSettings) -> Path | None:
    """The folder in diffusers layout of the VAE to use instead of the base model's own; None where none is named.

    Args:
        components: the folder of a pipeline, whose VAE's configuration is that of a VAE in one file; where it has
            none, that of `base_model.components` is fetched.
    """
    if config.vae is None:
        return None
    refuse_pickle_at(config.vae, "base_model.vae")
    of_vae = config.model_copy(update={"source": config.vae, "revision": config.vae_revision})
    model = fetch_weights(place, "base_model.vae", of_vae, accepted.VAE, settings)
    if model.path.is_dir():
        return vae_folder(model.path)
    if not (components / "vae" / "config.json").is_file():
        components = _fetch_components(place, config, settings)
    folder = place.workdir / "models" / f"vae-{model.path.stem}-{model.sha256[:16]}"
    return _made(place, folder, f"Converting {model.path.name}", lambda made: convert_vae(model.path, components, made))


def _made(place: Workplace, folder: Path, words: str, make: Callable[[Path], None]) -> Path:
    """The folder, which is made where it is not there: it appears once it is whole."""
    if not folder.exists():
        make_folder(folder.parent)
        with TemporaryDirectory(dir=folder.parent) as scratch:
            with place.progress.doing("Converting a model", words):
                make(Path(scratch) / folder.name)
            try:
                (Path(scratch) / folder.name).rename(folder)
            except OSError:
                if not folder.exists():  # If it exists, another process on this machine has converted the same file.
                    raise
    return folder


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
                lambda: fetch_hub(what, repository, revision, patterns, place.progress.moved, place.patience),
                place.stop.check,
            )
        note_unverified(place, source, unverified_in(folder, patterns))
        return folder
    if not is_remote(source):
        path = local_path(source)
        refuse_bare_name(source, what)
        require_path(path, what, ExitCode.MODEL)
        return path
    folder = folder_of(place, "models", source)
    if is_single_file(source):
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
    wanted: Sequence[str] | Download,
    settings: StorageSettings,
) -> LocalModel:
    """Fetch a model with its weights: pickles, too, where the manifest allows them, with a warning if any will be read.

    Args:
        wanted: glob patterns of the files that are needed; or a download in rounds, of which a later one is made only
            where weights are lacking.

    Takes `what` and `settings`, and raises, as `fetch_model` does.
    """

    def fetch(patterns: Sequence[str]) -> Path:
        allowed = with_pickles(patterns, allow_pickle=config.allow_pickle)
        return fetch_model(place, what, config.source, config.revision, allowed, settings)

    path = fetch(accepted.plain_patterns(wanted) if isinstance(wanted, Download) else wanted)
    if isinstance(wanted, Download) and path.is_dir() and (is_hub(config.source) or is_remote(config.source)):
        for patterns in islice(wanted.rounds(), 1, None):
            lacking = [part for part in wanted.lacking(path) if not pickled_weights(path / part)]
            if not lacking:
                break
            path = fetch([*wanted.settings, *(pattern for part in lacking for pattern in patterns[part])])
    folders = (path, *(path / part for part in WITH_WEIGHTS))
    pickles = [file.relative_to(path).as_posix() for folder in folders for file in pickled_weights(folder)]
    if config.allow_pickle and pickles:
        place.progress.warn(
            f"{what}: {', '.join(pickles)}: pickles can hold code; since allow_pickle is true, their weights are read"
        )
    return LocalModel(path, config.allow_pickle)


def refuse_pickle_at(source: str, what: str) -> None:
    """Refuse a pickle in a store or on a disk by its name; a local folder may have any name. Raises ModelError."""
    if is_remote(source) or not local_path(source).is_dir():
        refuse_pickle(source, what)
