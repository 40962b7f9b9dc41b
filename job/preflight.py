"""What can be found wrong in seconds, before anything is downloaded or computed."""

import os
import stat
from fnmatch import fnmatch
from pathlib import Path

from job.errors import ExitCode, JobError
from job.manifest.schema import Manifest, ModelPlace
from job.storage import S3Settings, Storage, is_remote, join, open_storage
from job.storage.probe import probe_conditions, probe_read, probe_write
from job.storage.uris import as_folder, local_path
from lora_engine.models.files import WITH_WEIGHTS, LocalModel, check_safetensors, holds_safetensors, with_pickles
from lora_engine.system.distributed import ALONE, Processes


def check_access(manifest: Manifest) -> bool:
    """Try the destination by writing and the sources by reading; whether the destination can keep a second writer out.

    Raises:
        JobError: the first that does not work: 41 data, 42 storage, 43 models.
    """
    destination = manifest.output.destination
    storage = open_storage(destination, manifest.output_storage())
    probe_write(storage, destination)
    fenced = probe_conditions(storage, destination)
    if not fenced and not manifest.output.unfenced:
        raise JobError(
            ExitCode.STORAGE_ACCESS,
            f"The store of {destination} ignores If-Match or If-None-Match, so nothing would keep two processes from "
            "writing one run at the same time.",
            "Use another store, or set output.unfenced: true and see to it that only one runs.",
        )
    _check_source("dataset.source", manifest.dataset.source, manifest.dataset_storage(), ExitCode.DATA)
    for model in manifest.models():
        if not model.source.startswith("hf://"):  # the hub says what it has when it is asked for the files
            _check_source(model.key, model.source, manifest.model_storage(), ExitCode.MODEL)
            _check_model(model, manifest.model_storage())
    return fenced


def check_device(manifest: Manifest, processes: Processes = ALONE) -> None:
    """Make sure that the device can compute in the precision that is asked for, and that each process has a share.

    Raises:
        ResourceError: it cannot, or some have none.
    """
    from job.manifest.packs import resolve_variants

    trainings = [variant.training for variant in resolve_variants(manifest)]
    if any(training.precision == "fp16" for training in trainings):  # the only one that a device can lack
        from lora_engine.system.device import find_device, resolve_precision  # importing torch takes seconds

        resolve_precision("fp16", find_device())
    for training in trainings:
        processes.local_slice(training.images_per_step)


def _check_source(what: str, source: str, settings: S3Settings, code: ExitCode) -> None:
    if is_remote(source):
        probe_read(open_storage(source, settings), source)
    else:
        _require_readable(what, local_path(source), code)


def _check_model(model: ModelPlace, settings: S3Settings) -> None:
    """The configuration and the weights of each part; whether they fit is found out when the libraries are there."""
    parts = WITH_WEIGHTS if model.key.startswith("base_model.") else ("",)
    has_weights = model.key != "base_model.components"
    if is_remote(model.source):
        if not model.source.endswith(".safetensors"):
            storage = open_storage(model.source, settings)
            for part in parts:
                _require_objects(storage, model, join(model.source, part) if part else model.source, has_weights)
        return
    path = local_path(model.source)
    if path.is_file() and model.key == "base_model.source":
        check_safetensors(path, model.key)
        return
    for part in parts:
        _require_readable(model.key, path / part / "config.json", ExitCode.MODEL)
        if has_weights:
            holds_safetensors(LocalModel(path / part, model.allow_pickle), model.key)


def _require_objects(storage: Storage, model: ModelPlace, folder: str, has_weights: bool) -> None:
    lacking = "config.json" if storage.head(join(folder, "config.json")) is None else ""
    if not lacking and has_weights:
        patterns = with_pickles(("*.safetensors",), allow_pickle=model.allow_pickle)
        names = (info.uri[len(as_folder(folder)) :] for info in storage.list(folder))
        if not any("/" not in name and fnmatch(name, pattern) for name in names for pattern in patterns):
            lacking = " or ".join(patterns)
    if lacking:
        raise JobError(
            ExitCode.MODEL,
            f"{model.key}: there is no {lacking} at {folder}.",
            f"Correct {model.key}, or store the whole model there.",
        )


def _require_readable(what: str, path: Path, code: ExitCode) -> None:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            with os.scandir(path):
                return
        if stat.S_ISREG(mode):
            with path.open("rb"):
                return
    except FileNotFoundError as error:
        raise JobError(code, f"{what}: there is nothing at {path}.", f"Correct {what}.") from error
    except OSError as error:
        raise JobError(
            code, f"{what}: {path} cannot be read: {error.strerror}.", f"Correct {what}, or let this user read there."
        ) from error
    raise JobError(code, f"{what}: {path} is no file or folder.", f"Correct {what}.")  # a pipe would never end
