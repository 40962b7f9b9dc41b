"""Downloads objects to this machine, but those that an earlier attempt downloaded and that have not changed since."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from job.errors import ExitCode, JobError
from job.run.context import Workplace
from job.run.unverified import note_unverified
from job.storage import Digest, ObjectInfo, Storage, StorageSettings, name_of, open_storage
from job.storage.files import MissingObjectError, digest_of, local_errors
from job.storage.transfer import download_all
from job.storage.uris import as_folder
from job.threads import as_finished
from lora_engine.records import SourceFile
from lora_engine.system.scratch import adopt, make_folder


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


def fetch_object(
    place: Workplace, source: str, settings: StorageSettings, folder: Path, listed: ObjectInfo | None = None
) -> Path:
    """Download one object into the folder, under its own name, and return its path.

    Args:
        listed: the object as it was seen before; None for as it is now.

    Raises:
        JobError: 42 when there is no such object, 50 when it has changed since.
    """
    storage = open_storage(source, settings, place.progress.moved, place.patience)
    info = listed or storage.head(source)
    if info is None:
        raise MissingObjectError(source)
    path = folder / name_of(source)
    _download(place, storage, source, [(info, path)])
    return path


def fetch_prefix(
    place: Workplace,
    source: str,
    settings: StorageSettings,
    folder: Path,
    wanted: Callable[[str], bool],
    seen: Iterable[ObjectInfo] | None = None,
) -> list[SourceFile]:
    """Download every object below `source` whose key is wanted into the folder; give the files in the order of keys.

    Args:
        seen: the objects as they were listed before; None for as they are now.

    Raises:
        JobError: 42 when one is gone, 50 when one has changed since.
    """
    storage = open_storage(source, settings, place.progress.moved, place.patience)
    start = len(as_folder(source))
    listed = {info.uri[start:]: info for info in (storage.list(source) if seen is None else seen)}
    keys = [key for key in listed if key and not key.endswith("/") and wanted(key)]
    folders = {str(parent) for key in keys for parent in PurePosixPath(key).parents}
    found = [(listed[key], SourceFile(key, str(folder / _local_name(key, folders)))) for key in keys]
    _download(place, storage, source, [(info, Path(file.path)) for info, file in found])
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


_Item = tuple[ObjectInfo, Path]  # an object, and where it goes


def _download(place: Workplace, storage: Storage, source: str, items: Sequence[_Item]) -> None:
    """Download the objects that no earlier attempt on this machine did, or that have changed since.

    The file `fetched.txt` has a line for each download that was completed. Its copy is believed only as long as it has
    the SHA-256 that is noted there. Objects that nothing could verify are noted as the source's.
    """
    log = place.workdir / "fetched.txt"
    for folder in {path.parent for _, path in items}:
        make_folder(folder)
    with place.progress.stage("fetch", "Downloading", total=len(items), unit="files") as stage, log.open("a") as lines:
        adopt(log)
        known, missing, unverified = _fetched(log), [], []
        for item, digest in as_finished(lambda item: (item, _copy_of(item, known)), items, 4, place.stop.check):
            if digest is None:
                missing.append(item)
                continue
            unverified += [item[0].uri] if digest.verified_by is None else []
            stage.advance(1, earlier=True)
        place_of = {info.uri: path for info, path in missing}
        for info, digest in download_all(storage, missing, check=place.stop.check):
            adopt(place_of[info.uri])
            facts = [digest.sha256, digest.verified_by]
            lines.write(f"{json.dumps([*_entry(info, place_of[info.uri]), *facts])}\n")
            lines.flush()
            unverified += [info.uri] if digest.verified_by is None else []
            stage.advance(1)
            place.stop.check()
    note_unverified(place, source, unverified)


def _entry(info: ObjectInfo, path: Path) -> tuple[str, str, int, str]:
    """What a line of `fetched.txt` says of an object and its place, before it says the copy's SHA-256 and its proof."""
    return info.uri, info.etag, info.size, str(path)


def _fetched(log: Path) -> dict[tuple[str, str, int, str], Digest]:
    """The digests of the downloads that were completed. Lines of earlier versions, or cut off, do not count."""
    known = {}
    for line in log.read_text(errors="replace").splitlines():
        try:
            uri, etag, size, path, sha256, verified_by = json.loads(line)
            known[uri, etag, size, path] = Digest(size, sha256, verified_by)
        except (ValueError, TypeError, RecursionError):
            continue
    return known


def _copy_of(item: _Item, known: Mapping[tuple[str, str, int, str], Digest]) -> Digest | None:
    """The digest of the copy that an earlier attempt fetched, if it is still whole; None where it is to be fetched."""
    info, path = item
    digest = known.get(_entry(info, path))
    if digest is None or not path.is_file():
        return None
    with local_errors(path):
        return digest if digest_of(path) == digest else None
