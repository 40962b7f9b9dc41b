"""Finds in seconds what would go wrong later, before anything is downloaded or computed."""

from collections.abc import Callable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from job.errors import ExitCode, JobError
from job.manifest.models import BaseModelConfig
from job.manifest.schema import Manifest, ModelPlace
from job.run.lora_files import local_lora, pipelines_at_hand, require_lora, starts_at_hand
from job.storage import Patience, Storage, StorageSettings, is_remote, join, open_storage
from job.storage.hub import is_hub, refuse_bare_name
from job.storage.local import require_readable
from job.storage.probe import probe_conditions, probe_source, probe_write
from job.storage.uris import as_folder, is_shipped, local_path
from lora_engine.adapters.base_layers import misfit
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.models import BaseModelUse
from lora_engine.models.accepted import LOADED_PICKLES, WITH_WEIGHTS, find_weights, is_single_file, refuse_pickle
from lora_engine.models.captioner_kind import captioner_kind, reader_of
from lora_engine.models.checkpoint import read_header, require_checkpoint
from lora_engine.models.files import LocalModel, Merge, holds_safetensors, vae_folder
from lora_engine.models.use import latent_channels, require_use, require_vae
from lora_engine.system.distributed import ALONE, Processes


def check_access(manifest: Manifest, patience: Patience | None = None) -> bool:
    """Try to write to the destination and to read the sources; True if the destination keeps a second writer out.

    Args:
        patience: how long to wait for a store that is down; None for not at all.

    Raises:
        JobError: the first of them does not work: 41 data, 42 storage, 43 models.
    """
    destination = manifest.output.destination
    storage = open_storage(destination, manifest.output_storage(), patience=patience)
    probe_write(storage, destination)
    fenced = probe_conditions(storage, destination)
    if not fenced and not manifest.output.unfenced:
        raise JobError(
            ExitCode.STORAGE_ACCESS,
            f"The store of {destination} ignores If-Match or If-None-Match, so nothing would keep two processes from "
            "writing one run at the same time.",
            "Use another store, or set output.unfenced: true and see to it that only one runs.",
        )
    if (thumbnail := manifest.output.thumbnail) is not None:
        probe_source(thumbnail, manifest.output_storage(), "output.thumbnail", ExitCode.STORAGE_ACCESS, patience)
    probe_source(manifest.dataset.source, manifest.dataset_storage(), "dataset.source", ExitCode.DATA, patience)
    for model in manifest.models():
        if model.is_lora:
            require_lora(model.source, model.key, manifest.model_storage(), patience)
        elif not is_hub(model.source):  # a hub says what it has when it is asked for the files
            if not is_remote(model.source):
                refuse_bare_name(model.source, model.key)
            probe_source(model.source, manifest.model_storage(), model.key, ExitCode.MODEL, patience)
            _check_model(model, manifest, patience)
    for name, captioner in manifest.named_captioners().items():
        if not is_hub(captioner.source):
            read = _reader(captioner.source, manifest.model_storage(), patience)
            captioner_kind(read, captioner.prompt, f"{manifest.captioner_key(name)}.source")
    return fenced


def check_device(manifest: Manifest, processes: Processes = ALONE) -> None:
    """Make sure that the device is there, computes in the precision asked for, and leaves no process without images.

    Raises:
        ResourceError: it is not, it does not, or an update has too few images for all processes.
    """
    from job.manifest.packs import resolve_variants

    trainings = [variant.training for variant in resolve_variants(manifest)]
    asks_fp16 = any(training.precision == "fp16" for training in trainings)  # the only one that a device can lack
    if asks_fp16 or manifest.device == "cuda":
        from lora_engine.system.device import find_device, resolve_precision  # importing torch takes seconds

        device = find_device(manifest.device)
        if asks_fp16:
            resolve_precision("fp16", device)
    for training in trainings:
        processes.local_slice(training.images_per_step)


def check_trainable(manifest: Manifest) -> None:
    """Refuse a base model that cannot be trained as the manifest says; by the targets' names where it is not at hand.

    Raises:
        JobError, ModelError: 40 where the names tell, 43 where the base model's files do.
    """
    from job.manifest.packs import different_loras, resolve_variants

    base, samples = manifest.base_model, manifest.evaluation.samples
    loras = different_loras(resolve_variants(manifest))
    usual = LoraConfig().target_modules  # which all UNets have
    has_usual_targets = all(lora.target_modules == usual and not lora.patterns for lora in loras)
    is_plain = has_usual_targets and base.use == BaseModelUse() and base.vae is None
    if is_shipped(base.source) and is_plain and not base.merge and not manifest.starts():
        return  # The miniature is known to be fit, and torch, which takes seconds to import, is not needed.
    if pipelines := pipelines_at_hand(base):
        _require_trainable(manifest, pipelines[0])
        return
    if not is_remote(base.source):
        header = read_header(local_path(base.source), "base_model.source")
        require_use(header, base.use, samples.sampler if samples else None)
    for lora in loras:
        if (found := misfit(lora)) is not None:
            raise JobError(ExitCode.MANIFEST, *found)


def check_loras(manifest: Manifest) -> None:
    """Refuse what can be seen of LoRAs that are on this machine, where the manifest names some.

    Raises:
        JobError, ModelError: 43 where there is none, or it is no LoRA that is read, or of another base model than one
            on this machine; or the manifest says something else of an adapter than the file that it starts from.
    """
    found = [local_lora(model.source, model.key) for model in manifest.models() if model.is_lora]
    files = [path for path in found if path is not None]
    if not files:
        return
    if pipelines_at_hand(manifest.base_model):
        check_trainable(manifest)
        return
    from lora_engine.adapters.lora_file import read_once  # it imports torch, which takes seconds

    for path in files:
        read_once(path)


def _require_trainable(manifest: Manifest, pipeline: Path) -> None:
    """Refuse a base model on this machine, by its configurations and headers, as `fetch_models` would.

    Args:
        pipeline: the folder with its configurations, and with its weights unless they are one file.
    """
    from job.manifest.packs import different_loras, resolve_variants
    from job.run.starts import read_starts
    from lora_engine.models import schedule, stable_diffusion  # they import torch, which takes seconds
    from lora_engine.system.quiet import quiet_libraries

    quiet_libraries()
    base, samples = manifest.base_model, manifest.evaluation.samples
    vae = None if base.vae is None or is_remote(base.vae) else vae_folder(local_path(base.vae))
    if vae is not None and not vae.is_dir():
        vae = None  # In one file, it has the configuration of another.
    source, use = local_path(base.source), base.use
    is_folder = source.is_dir()
    if not is_folder:
        use = read_header(source, "base_model.source").used_as(use)
    model = LocalModel(pipeline, base.allow_pickle, vae, use)
    merge = tuple(Merge(path, 1.0) for each in base.merge if (path := local_lora(each.source, "base_model.merge")))
    model = replace(model, merge=merge)
    has_vae = base.vae is None or vae is not None
    stable_diffusion.require_weights(model, has_vae=has_vae, has_weights=is_folder)
    read = read_starts(manifest, starts_at_hand(manifest), model)
    for lora in different_loras(resolve_variants(manifest, starts=read)):
        stable_diffusion.require_trainable(model, lora, has_weights=is_folder)
    schedule.require_noise(model, (variant.training.noise for variant in resolve_variants(manifest)))
    if samples is not None:
        schedule.require_sampler(model, samples.sampler, samples.all_steps)


def _check_model(model: ModelPlace, manifest: Manifest, patience: Patience | None) -> None:
    """Make sure that each part has its configuration and weights; only the model libraries can say if they fit."""
    is_remote_one = is_remote(model.source)
    if is_single_file(model.source) or (not is_remote_one and local_path(model.source).is_file()):
        if not is_remote_one:
            _check_file(local_path(model.source), model, manifest)
        return
    if is_remote_one or not local_path(model.source).is_dir():
        refuse_pickle(model.source, model.key)
    has_weights = model.key != "base_model.components"
    storage = open_storage(model.source, manifest.model_storage(), patience=patience) if is_remote_one else None
    for part in _parts(model, manifest, storage):
        if storage is not None:
            _require_objects(storage, model, join(model.source, part) if part else model.source, has_weights)
            continue
        folder = local_path(model.source) / part
        require_readable(folder / "config.json", model.key, ExitCode.MODEL)
        if has_weights:
            holds_safetensors(LocalModel(folder, model.allow_pickle), model.key)
    if storage is None and model.key == "base_model.vae":
        require_vae(
            vae_folder(local_path(model.source)), _channels(manifest.base_model), allow_pickle=model.allow_pickle
        )


def _channels(base: BaseModelConfig) -> int | None:
    """The channels of the latents that the base model draws; None where it is not on this machine."""
    return None if is_remote(base.source) else latent_channels(local_path(base.source))


def _parts(model: ModelPlace, manifest: Manifest, storage: Storage | None) -> tuple[str, ...]:
    """The folders of a model that hold weights; "" for its own."""
    if model.key == "base_model.vae":
        config = join(model.source, "vae", "config.json") if storage is not None else ""
        in_pipeline = storage.head(config) if storage else (local_path(model.source) / "vae").is_dir()
        return ("vae",) if in_pipeline else ("",)
    if model.key.startswith("base_model."):
        has_own = model.key == "base_model.components" or manifest.base_model.vae is None
        return tuple(part for part in WITH_WEIGHTS if part != "vae" or has_own)
    return ("",)


def _check_file(path: Path, model: ModelPlace, manifest: Manifest) -> None:
    """Look at the header of a model in one file; where its components are at hand, also whether it fits them."""
    base = manifest.base_model
    pipelines = pipelines_at_hand(base)
    if model.key == "base_model.vae":
        require_vae(path, _channels(base))
        pipelines = [pipeline for pipeline in pipelines if (pipeline / "vae" / "config.json").is_file()]
    elif model.key == "base_model.source":
        require_checkpoint(path, has_vae=base.vae is not None)
    else:
        raise JobError(ExitCode.MODEL, f"{model.key}: {path} is a file.", f"Name a folder as {model.key}.")
    if not pipelines:
        return
    from lora_engine.models import single_file  # it imports torch, which takes seconds
    from lora_engine.system.quiet import quiet_libraries

    quiet_libraries()
    if model.key == "base_model.vae":
        single_file.require_fitting_vae(path, pipelines[0])
    else:
        single_file.require_fitting(path, pipelines[0], has_vae=base.vae is not None)


def _reader(source: str, settings: StorageSettings, patience: Patience | None) -> Callable[[str], bytes | None]:
    """Reads the small files of a model where it is stored."""
    if not is_remote(source):
        return reader_of(local_path(source))
    storage = open_storage(source, settings, patience=patience)
    return lambda name: storage.read(join(source, name))


def _require_objects(storage: Storage, model: ModelPlace, folder: str, has_weights: bool) -> None:
    lacking = "config.json" if storage.head(join(folder, "config.json")) is None else ""
    if not lacking and has_weights:
        names = {info.uri[len(as_folder(folder)) :] for info in storage.list(folder)}
        pickles = LOADED_PICKLES if model.allow_pickle else ()
        if find_weights(names) is None and not any(fnmatch(name, p) for name in names for p in pickles):
            lacking = " or ".join(("*.safetensors with weights", *pickles))
    if lacking:
        raise JobError(
            ExitCode.MODEL,
            f"{model.key}: there is no {lacking} at {folder}.",
            f"Correct {model.key}, or store the whole model there.",
        )
