"""Brings the dataset and the models to this machine."""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from job.context import Job
from job.errors import ExitCode, JobError
from job.storage import ObjectInfo, S3Settings, Storage, is_remote, name_of, open_storage
from job.storage.files import DamagedObjectError, MissingObjectError, etag_of
from job.storage.local import LocalStorage
from job.storage.transfer import download_all, wait_for
from job.storage.uris import as_folder, local_path
from lora_engine.config.models import BaseModelConfig, CaptionerConfig
from lora_engine.config.training import ClipConfig
from lora_engine.data.sources import extract_archive, is_archive, list_files
from lora_engine.model_files import WITH_WEIGHTS, pickled_weights, with_pickles
from lora_engine.records import SourceFile


def fetch_dataset(job: Job) -> list[SourceFile]:
    """Every file of the dataset, in the order of the keys: a folder's, a prefix's or an archive's members."""
    source, settings = job.manifest.dataset.source, job.manifest.dataset_storage()
    if not is_remote(source):
        path = local_path(source)
        if path.is_dir():
            return list(list_files(path))
        _require(path, "dataset.source", ExitCode.DATA)
        return _extract(job, path, _folder_of(job, "dataset", str(path.absolute())))
    folder = _folder_of(job, "dataset", source)
    if is_archive(source):
        archive = _fetch_object(job, source, settings, folder)
        return _extract(job, archive, folder / "members")
    return _fetch_prefix(job, source, settings, folder, lambda _: True)


def _folder_of(job: Job, what: str, source: str) -> Path:
    """Each source's own: runs of one name may share the scratch folder, and have files of equal names."""
    return job.workdir / what / hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _extract(job: Job, archive: Path, folder: Path) -> list[SourceFile]:
    files = []
    for file in extract_archive(archive, folder):
        files.append(file)
        job.progress.moved()
        job.stop.check()
    return sorted(files, key=lambda file: file.key)


def source_fingerprint(job: Job) -> str:
    """A hash that changes when a file of the dataset does, found without reading the files."""
    source, settings = job.manifest.dataset.source, job.manifest.dataset_storage()
    if is_remote(source):
        return _fingerprint(open_storage(source, settings), source)
    try:
        return _fingerprint(LocalStorage(), source)
    except JobError as error:
        if error.code != ExitCode.STORAGE_ACCESS:
            raise
        raise JobError(ExitCode.DATA, f"dataset.source: {error.cause}", error.remedy) from error


def _fingerprint(storage: Storage, source: str) -> str:
    whole = storage.head(source.rstrip("/") or "/")
    entries = [whole] if whole is not None else storage.list(source)
    lines = (f"{info.uri}\0{info.size}\0{info.etag}" for info in entries)
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def fetch_model(job: Job, what: str, source: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """A local folder with the model's files (or the one `.safetensors` file), `what` being the manifest's key.

    Raises:
        JobError: 43 when it is not there, 42 or 50 when it cannot be reached.
    """
    if source.startswith("hf://"):
        repository = source.removeprefix("hf://")
        return wait_for(lambda: _fetch_hub(job, what, repository, revision, patterns), job.stop.check)
    if not is_remote(source):
        path = local_path(source)
        _require(path, what, ExitCode.MODEL)
        return path
    folder = _folder_of(job, "models", source)
    if source.endswith(".safetensors"):
        return _fetch_object(job, source, job.manifest.model_storage(), folder)

    def wanted(key: str) -> bool:
        return any(fnmatch(key, pattern) for pattern in patterns)

    if not _fetch_prefix(job, source, job.manifest.model_storage(), folder, wanted):
        raise JobError(ExitCode.MODEL, f"{what}: there is no model at {source}.", f"Correct {what}.")
    return folder


def fetch_weights(
    job: Job, what: str, config: BaseModelConfig | CaptionerConfig | ClipConfig, patterns: Sequence[str]
) -> Path:
    """As `fetch_model`, with pickled weights where the manifest allows them; a warning says if any will be read."""
    wanted = with_pickles(patterns, allow_pickle=config.allow_pickle)
    folder = fetch_model(job, what, config.source, config.revision, wanted)
    parts = (folder, *(folder / part for part in WITH_WEIGHTS))
    pickles = [file.relative_to(folder).as_posix() for part in parts for file in pickled_weights(part)]
    if config.allow_pickle and pickles:
        job.progress.warn(
            f"{what}: {', '.join(pickles)}: pickles can hold code; since allow_pickle is true, their weights are read"
        )
    return folder


def _fetch_object(job: Job, source: str, settings: S3Settings, folder: Path) -> Path:
    """One object, under its own name."""
    storage = open_storage(source, settings, job.progress.moved)
    info = storage.head(source)
    if info is None:
        raise MissingObjectError(source)
    path = folder / name_of(source)
    _fetch(job, storage, [(info, path)])
    return path


def _fetch_prefix(
    job: Job, source: str, settings: S3Settings, folder: Path, wanted: Callable[[str], bool]
) -> list[SourceFile]:
    storage, start = open_storage(source, settings, job.progress.moved), len(as_folder(source))
    listed = {info.uri[start:]: info for info in storage.list(source)}
    keys = [key for key in listed if key and not key.endswith("/") and wanted(key)]
    folders = {str(parent) for key in keys for parent in PurePosixPath(key).parents}
    found = [(listed[key], SourceFile(key, str(folder / _local_name(key, folders)))) for key in keys]
    _fetch(job, storage, [(info, Path(file.path)) for info, file in found])
    return sorted((file for _, file in found), key=lambda file: file.key)


def _local_name(key: str, folders: Collection[str]) -> str:
    """A name that is safe on any file system and keeps a model's layout readable to its loader.

    Args:
        folders: names that other keys need for a folder.
    """
    path = PurePosixPath(key)
    plain = all(
        part not in ("", ".", "..") and len(part.encode()) < 200 and part.isprintable() and "\\" not in part
        for part in key.split("/")
    )
    if plain and len(key.encode()) < 1000 and key not in folders:
        return key
    return hashlib.sha256(key.encode()).hexdigest() + path.suffix[:10]


def _fetch(job: Job, storage: Storage, items: Sequence[tuple[ObjectInfo, Path]]) -> None:
    """Download what an earlier attempt on this machine did not, or what has changed since."""
    log = job.workdir / "fetched.txt"
    fetched = set(log.read_text().splitlines()) if log.exists() else set()
    missing = [(info, path) for info, path in items if not path.is_file() or _entry(info, path) not in fetched]
    place_of = {info.uri: path for info, path in missing}
    with job.progress.stage("fetch", total=len(items), unit="files") as stage, log.open("a") as lines:
        stage.advance(len(items) - len(missing))
        for info, digest in download_all(storage, missing, check=job.stop.check):
            if digest.size != info.size:
                raise DamagedObjectError(f"{info.uri} was listed with {info.size} bytes but is {digest.size} bytes.")
            lines.write(f"{_entry(info, place_of[info.uri])}\n")
            lines.flush()
            stage.advance(1)
            job.stop.check()


def _entry(info: ObjectInfo, path: Path) -> str:
    """True of the very file that is there now: another one in its place, or one cut off by a crash, has another."""
    return json.dumps([info.uri, info.etag, info.size, str(path), etag_of(path.stat())])


def _fetch_hub(job: Job, what: str, repository: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[misc]  # shows nothing, but is told of bytes as they come
        def update(self, n: float | None = 1) -> bool | None:
            job.progress.moved()
            shown: bool | None = super().update(n)
            return shown

    def snapshot(*, local_files_only: bool) -> Path:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=local_files_only,
                tqdm_class=Bar,
            )
        )

    # of the HTTP library, which is not the same in every version
    any_http_error = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
    try:
        return snapshot(local_files_only=False)
    except (LocalEntryNotFoundError, ConnectionError) as error:
        unreachable: Exception = error
    except (HfHubHTTPError, ValueError) as error:
        raise JobError(
            ExitCode.MODEL,
            f"{what}: hf://{repository} at revision {revision or 'main'} cannot be downloaded "
            f"({type(error).__name__}).",
            "Check the name and the revision; a gated model needs HF_TOKEN in the environment.",
        ) from error
    except any_http_error as error:
        unreachable = error
    try:
        # versions before 2 ask for a list of a pinned revision's files before they look into the cache
        return snapshot(local_files_only=True)
    except LocalEntryNotFoundError:
        raise JobError(
            ExitCode.STORAGE_RETRIES,
            f"{what}: the model hub cannot be reached, and hf://{repository} is not in the local cache.",
            "Check the network, or copy the model to a folder or bucket and name that.",
        ) from unreachable


def _require(path: Path, what: str, code: ExitCode) -> None:
    if not (path.is_file() or path.is_dir()):  # a pipe would never end
        raise JobError(
            code,
            f"{what}: there is no file or folder at {path}.",
            f"Correct {what}; the path is taken from {Path.cwd()}.",
        )
