"""Downloads objects to this machine, but those that an earlier attempt downloaded and that have not changed since."""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath

from job.errors import ExitCode, JobError
from job.run.context import Workplace
from job.storage import ObjectInfo, Storage, StorageSettings, name_of, open_storage
from job.storage.files import DamagedObjectError, MissingObjectError, etag_of
from job.storage.transfer import download_all
from job.storage.uris import as_folder
from lora_engine.records import SourceFile


def folder_of(place: Workplace, what: str, source: str) -> Path:
    """A folder for the files of one source alone.

    Runs of one name may share the scratch folder, and their sources may have files of equal names.

    Args:
        what: "dataset" or "models", the folder that it lies in.
    """
    return place.workdir / what / hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def require_path(path: Path, what: str, code: ExitCode) -> None:
    """Refuse, with `code`, a local path that is neither a file nor a folder; `what` is the manifest's key."""
    if not (path.is_file() or path.is_dir()):  # A pipe exists, too, but reading it could wait for ever.
        raise JobError(
            code,
            f"{what}: there is no file or folder at {path}.",
            f"Correct {what}; the path is taken from {Path.cwd()}.",
        )


def fetch_object(place: Workplace, source: str, settings: StorageSettings, folder: Path) -> Path:
    """Download one object into the folder, under its own name, and return its path.

    Raises:
        MissingObjectError: 42 when there is no such object.
    """
    storage = open_storage(source, settings, place.progress.moved, place.patience)
    info = storage.head(source)
    if info is None:
        raise MissingObjectError(source)
    path = folder / name_of(source)
    _download(place, storage, [(info, path)])
    return path


def fetch_prefix(
    place: Workplace, source: str, settings: StorageSettings, folder: Path, wanted: Callable[[str], bool]
) -> list[SourceFile]:
    """Download every object below `source` whose key is wanted into the folder; give the files in the order of keys."""
    storage = open_storage(source, settings, place.progress.moved, place.patience)
    start = len(as_folder(source))
    listed = {info.uri[start:]: info for info in storage.list(source)}
    keys = [key for key in listed if key and not key.endswith("/") and wanted(key)]
    folders = {str(parent) for key in keys for parent in PurePosixPath(key).parents}
    found = [(listed[key], SourceFile(key, str(folder / _local_name(key, folders)))) for key in keys]
    _download(place, storage, [(info, Path(file.path)) for info, file in found])
    return sorted((file for _, file in found), key=lambda file: file.key)


def _local_name(key: str, folders: Collection[str]) -> str:
    """A relative path for a key's file that is safe on any file system: the key itself, as models need, or its hash.

    Args:
        folders: the paths that have to be folders, since other keys lie below them.
    """
    path = PurePosixPath(key)
    plain = all(
        part not in ("", ".", "..") and len(part.encode()) < 200 and part.isprintable() and "\\" not in part
        for part in key.split("/")
    )
    if plain and len(key.encode()) < 1000 and key not in folders:
        return key
    return hashlib.sha256(key.encode()).hexdigest() + path.suffix[:10]


def _download(place: Workplace, storage: Storage, items: Sequence[tuple[ObjectInfo, Path]]) -> None:
    """Download the objects that no earlier attempt on this machine did, or that have changed since.

    The file `fetched.txt` has a line for each download that was completed.
    """
    log = place.workdir / "fetched.txt"
    fetched = set(log.read_text().splitlines()) if log.exists() else set()
    missing = [(info, path) for info, path in items if not path.is_file() or _entry(info, path) not in fetched]
    place_of = {info.uri: path for info, path in missing}
    with place.progress.stage("fetch", "Downloading", total=len(items), unit="files") as stage, log.open("a") as lines:
        stage.advance(len(items) - len(missing), earlier=True)
        for info, digest in download_all(storage, missing, check=place.stop.check):
            if digest.size != info.size:
                raise DamagedObjectError(f"{info.uri} was listed with {info.size} bytes but is {digest.size} bytes.")
            lines.write(f"{_entry(info, place_of[info.uri])}\n")
            lines.flush()
            stage.advance(1)
            place.stop.check()


def _entry(info: ObjectInfo, path: Path) -> str:
    """The line about the download of an object to the file that is there now.

    It tells the file's own etag, so that another file in its place, or one that a crash cut off, is not taken for it.
    """
    return json.dumps([info.uri, info.etag, info.size, str(path), etag_of(path.stat())])
