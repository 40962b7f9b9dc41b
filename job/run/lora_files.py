"""The LoRA files that a manifest names: which are on this machine, and how others come to it. It imports no torch."""

from pathlib import Path

from job.errors import ExitCode, JobError
from job.manifest.models import BaseModelConfig
from job.manifest.schema import START, Manifest
from job.run.context import Workplace
from job.run.downloads import fetch_object, folder_of
from job.run.unverified import note_unverified
from job.storage import Patience, StorageSettings, is_remote, join, open_storage
from job.storage.hub import fetch_hub, is_hub, repository_of, unverified_in
from job.storage.local import require_readable
from job.storage.uris import local_path
from job.threads import wait_for
from lora_engine.adapters.names import DIFFUSERS_NAME
from lora_engine.models.accepted import is_single_file, refuse_pickle
from lora_engine.models.files import check_safetensors

_A_FILE = "Name a .safetensors file with a LoRA, or a folder that has one as pytorch_lora_weights.safetensors."


def local_lora(source: str, what: str) -> Path | None:
    """The file, of which the beginning shows that it is no other kind of file; None where it is on no disk here.

    Args:
        what: the manifest's key, for messages.

    Raises:
        JobError, ModelError: 43 where there is none, or it cannot be read.
    """
    if is_remote(source):
        refuse_pickle(source, what)
        return None
    path = local_path(source)
    path = path / DIFFUSERS_NAME if path.is_dir() else path
    require_readable(path, what, ExitCode.MODEL)
    refuse_pickle(path.name, what)
    check_safetensors(path, what)
    return path


def starts_at_hand(manifest: Manifest) -> dict[str, Path]:
    """The files on this machine that variants start from, by their names. Raises as `local_lora` does."""
    return {name: path for name, source in manifest.starts().items() if (path := local_lora(source, START))}


def pipelines_at_hand(base: BaseModelConfig) -> list[Path]:
    """The folders on this machine that the base model's configurations come from, as long as the model is here, too."""
    if is_remote(base.source):
        return []
    paths = [local_path(source) for source in (base.source, base.components) if not is_remote(source)]
    return [path for path in paths if path.is_dir()]


def require_lora(source: str, what: str, settings: StorageSettings, patience: Patience | None = None) -> None:
    """Make sure that a file is there. A hub says whether it has it when it is asked for it.

    Takes `what`, and raises, as `local_lora` does.

    Args:
        settings: of the store that holds it.
        patience: how long to wait for a store that is down; None for not at all.
    """
    if local_lora(source, what) is None and not is_hub(source):
        uri = _uri(source)
        if open_storage(uri, settings, patience=patience).head(uri) is None:
            raise JobError(ExitCode.MODEL, f"{what}: there is nothing at {uri}.", _A_FILE)


def fetch_lora(place: Workplace, source: str, revision: str | None, what: str, settings: StorageSettings) -> Path:
    """Fetch a file to this machine, unless it is here; give its path.

    Args:
        revision: the commit or branch of a hub's; None for its main branch, or where the source is no hub.
        what: the manifest's key, for messages.
        settings: of the store that holds it.

    Raises:
        JobError, ModelError: 43 where there is none, or it is no such file; 42 or 50 where it cannot be reached.
    """
    path = local_lora(source, what)
    if path is None and is_hub(source):
        path = _fetch_from_hub(place, source, revision, what)
    elif path is None:
        uri = _uri(source)
        require_lora(source, what, settings, place.patience)
        path = fetch_object(place, uri, settings, folder_of(place, "models", uri))
    check_safetensors(path, what)
    return path


def _fetch_from_hub(place: Workplace, source: str, revision: str | None, what: str) -> Path:
    repository, file = split_hub_lora(source)
    with place.progress.doing("Fetching a LoRA from the hub", f"Fetching {source}, if its cache lacks it"):
        folder = wait_for(
            lambda: fetch_hub(what, repository, revision, [file], place.progress.moved, place.patience),
            place.stop.check,
        )
    if not (folder / file).is_file():
        raise JobError(ExitCode.MODEL, f"{what}: hf://{repository} has no {file}.", _A_FILE)
    note_unverified(place, source, unverified_in(folder, [file]))
    return folder / file


def split_hub_lora(source: str) -> tuple[str, str]:
    """The owner and name of a hub's repository, and the name of the file in it, of `hf://owner/name/FILE`."""
    owner, _, rest = repository_of(source).partition("/")
    name, _, below = rest.partition("/")
    return f"{owner}/{name}", below if is_single_file(below) else f"{below}/{DIFFUSERS_NAME}".lstrip("/")


def _uri(source: str) -> str:
    """The URI of the file in a store."""
    return source if is_single_file(source) else join(source, DIFFUSERS_NAME)
