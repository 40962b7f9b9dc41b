"""Finds in seconds what would go wrong later, before anything is downloaded or computed."""

import re
from collections.abc import Callable
from fnmatch import fnmatch

from job.errors import ExitCode, JobError
from job.manifest.schema import Manifest, ModelPlace
from job.storage import Patience, Storage, StorageSettings, is_remote, join, open_storage
from job.storage.hub import is_hub
from job.storage.local import require_readable
from job.storage.probe import probe_conditions, probe_source, probe_write
from job.storage.uris import as_folder, local_path
from lora_engine.config.adapter import LoraConfig
from lora_engine.models.captioner_kind import captioner_kind, reader_of
from lora_engine.models.files import WITH_WEIGHTS, LocalModel, check_safetensors, holds_safetensors, with_pickles
from lora_engine.system.distributed import ALONE, Processes

# The ends of the names of the linear layers in blocks of a Stable Diffusion UNet that adapters can go to.
_LINEAR = re.compile(
    r"(.+\.)?(to_[qkv]|to_out\.0|(ff\.)?net\.0\.proj|(ff\.)?net\.2|time_emb_proj|(attentions\.\d+\.)?proj_(in|out))"
)
_PROJECTION = re.compile(r"(.+\.)?proj_(in|out)")  # a convolution in SD 1.x
_SD1 = re.compile(r"(?<![a-z])(stable-diffusion|sd)-?v?1(?!\d)", re.IGNORECASE)  # in the name of a base


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
    probe_source(manifest.dataset.source, manifest.dataset_storage(), "dataset.source", ExitCode.DATA, patience)
    for model in manifest.models():
        if not is_hub(model.source):  # a hub says what it has when it is asked for the files
            probe_source(model.source, manifest.model_storage(), model.key, ExitCode.MODEL, patience)
            _check_model(model, manifest.model_storage(), patience)
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


def check_targets(manifest: Manifest) -> None:
    """Refuse targets that are no layers of the UNet that take an adapter; by their names where it is not at hand.

    Raises:
        JobError, ModelError: 40 where the names tell, 43 where the base model's UNet has no such layer.
    """
    from job.manifest.packs import resolve_variants

    source = manifest.base_model.source
    at_hand = not is_remote(source) and local_path(source).is_dir()
    is_sd1 = bool(_SD1.search(source.rstrip("/").rpartition("/")[2]))
    for lora in {variant.lora for variant in resolve_variants(manifest)}:
        if lora.target_modules == LoraConfig().target_modules:  # all UNets have these
            continue
        if at_hand:
            from lora_engine.models.stable_diffusion import require_trainable  # it imports torch, which takes seconds

            require_trainable(LocalModel(local_path(source)), lora)
            continue
        for target in lora.target_modules:
            if not _LINEAR.fullmatch(target) or (is_sd1 and _PROJECTION.fullmatch(target)):
                raise JobError(
                    ExitCode.MANIFEST,
                    f"lora.target_modules names {target!r}, which is no linear layer in a block of the UNet.",
                    "Choose among to_q, to_k, to_v, to_out.0, net.0.proj, net.2, time_emb_proj.",
                )


def _check_model(model: ModelPlace, settings: StorageSettings, patience: Patience | None) -> None:
    """Make sure that each part has its configuration and weights; only the model libraries can say if they fit."""
    parts = WITH_WEIGHTS if model.key.startswith("base_model.") else ("",)
    has_weights = model.key != "base_model.components"
    if is_remote(model.source):
        if not model.source.endswith(".safetensors"):
            storage = open_storage(model.source, settings, patience=patience)
            for part in parts:
                _require_objects(storage, model, join(model.source, part) if part else model.source, has_weights)
        return
    path = local_path(model.source)
    if path.is_file() and model.key == "base_model.source":
        check_safetensors(path, model.key)
        return
    for part in parts:
        require_readable(path / part / "config.json", model.key, ExitCode.MODEL)
        if has_weights:
            holds_safetensors(LocalModel(path / part, model.allow_pickle), model.key)


def _reader(source: str, settings: StorageSettings, patience: Patience | None) -> Callable[[str], bytes | None]:
    """Reads the small files of a model where it is stored."""
    if not is_remote(source):
        return reader_of(local_path(source))
    storage = open_storage(source, settings, patience=patience)
    return lambda name: storage.read(join(source, name))


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
