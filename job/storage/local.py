"""Storage in a folder of this machine."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from job.errors import ExitCode, JobError
from job.storage.base import Digest, Moved, ObjectInfo, Storage, StorageSettings, Stored
from job.storage.files import (
    ChangedObjectError,
    MissingObjectError,
    atomic_file,
    copy_into,
    etag_of,
    is_part,
    local_errors,
    locked,
    require_digest,
)
from job.storage.uris import as_folder, local_path, probe_uri
from lora_engine.system.limits import limit_hit

_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalBackend:
    """The disks of this machine. They need no settings."""

    form = "file:///path"

    def check(self, settings: StorageSettings, environ: Mapping[str, str]) -> None:
        """There is nothing to refuse."""

    def open(self, settings: StorageSettings, moved: Moved) -> Storage:  # noqa: ARG002 - the port's
        """The files themselves: no settings apply, and nothing crosses a network."""
        return LocalStorage()

    def settings_in(self, environ: Mapping[str, str]) -> StorageSettings:  # noqa: ARG002 - the port's
        """The environment has nothing to say of a disk."""
        return StorageSettings()

    def variables(self, settings: StorageSettings) -> dict[str, str]:  # noqa: ARG002 - the port's
        """A container needs no variable to find its own files."""
        return {}

    def probe_source(self, storage: Storage, uri: str, key: str, absent: ExitCode) -> None:  # noqa: ARG002 - the port's
        """Open the file or look into the folder, as whoever reads it will."""
        require_readable(local_path(uri), key, absent)

    def probe_conditions(self, storage: Storage, folder_uri: str) -> bool:
        """Take the lock that `write_if` needs: a file system without locks fails here, with the error of a write."""
        uri = probe_uri(folder_uri)
        try:
            return storage.write_if(uri, b"probe", None) is not None
        finally:
            storage.delete(uri)


def require_readable(path: Path, key: str, absent: ExitCode) -> None:
    """Make sure that a file or folder which the manifest's `key` names can be read.

    Raises:
        JobError: `absent`, it is missing, unreadable, or neither file nor folder.
    """
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            with os.scandir(path):
                return
        if stat.S_ISREG(mode):
            with path.open("rb"):
                return
    except FileNotFoundError as error:
        raise JobError(absent, f"{key}: there is nothing at {path}.", f"Correct {key}.") from error
    except OSError as error:
        if (limit := limit_hit(error)) is not None:
            raise JobError(ExitCode.RESOURCES, *limit) from error
        raise JobError(
            absent, f"{key}: {path} cannot be read: {error.strerror}.", f"Correct {key}, or let this user read there."
        ) from error
    raise JobError(absent, f"{key}: {path} is no file or folder.", f"Correct {key}.")  # reading a pipe would never end


class LocalStorage:
    """Files named by plain paths, relative to the current directory, and by `file:` URIs.

    A link to a file is a file; a linked folder is not entered by a listing, so a listing never leaves its folder.
    """

    def read(self, uri: str) -> bytes | None:
        """The bytes of a small file; None where there is no file."""
        stored = self.fetch(uri)
        return None if stored is None else stored.data

    def fetch(self, uri: str) -> Stored | None:
        """The bytes of a small file, and an etag made of its inode, time and size."""
        path = local_path(uri)
        with local_errors(path):
            try:
                with path.open("rb") as file:
                    return Stored(file.read(), etag_of(os.fstat(file.fileno())))
            except _NO_FILE:
                return None

    def write(self, uri: str, data: bytes) -> Digest:
        """Put a whole file in the place of what is there, so that it survives a power failure."""
        with atomic_file(local_path(uri), durable=True) as writer:
            writer.write(data)
        return writer.digest()

    def write_if(self, uri: str, data: bytes, etag: str | None) -> str | None:
        """Write while a lock beside the file is held, which other calls of `write_if` wait for.

        `write`, `upload` and `delete` take no lock: what one of them does at that moment may be overwritten.
        """
        with locked(local_path(uri)):
            if not self._is_at(uri, etag):
                return None
            with atomic_file(local_path(uri), durable=True) as writer:
                writer.write(data)
            return writer.etag

    def upload_if(self, path: Path, uri: str, etag: str | None) -> Digest | None:
        """Upload while the lock of `write_if` is held."""
        with locked(local_path(uri)):
            return self.upload(path, uri) if self._is_at(uri, etag) else None

    def _is_at(self, uri: str, etag: str | None) -> bool:
        """Whether the file has that etag, or is absent where it is None."""
        found = self.head(uri)
        return etag == (found and found.etag)

    def download(self, uri: str, path: Path, expect: Digest | None = None, etag: str | None = None) -> Digest:
        """Copy the file to `path` and check the copy. 42 when there is no file, 50 when it is at another etag."""
        source = local_path(uri)
        with local_errors(source):
            if not source.is_file():
                raise MissingObjectError(uri)
            try:
                file = source.open("rb")
            except _NO_FILE as error:  # Whoever writes the folder has removed or renamed it since.
                raise MissingObjectError(uri) from error
        with file:
            if etag not in (None, etag_of(os.fstat(file.fileno()))):
                raise ChangedObjectError(uri)
            with atomic_file(path, durable=False) as writer:
                return require_digest(uri, copy_into(file, writer), expect)

    def upload(self, path: Path, uri: str) -> Digest:
        """Copy the file at `path` to a file that appears whole."""
        with local_errors(path):
            file = path.open("rb")
        with file, atomic_file(local_path(uri), durable=True) as writer:
            return copy_into(file, writer)

    def head(self, uri: str) -> ObjectInfo | None:
        """The file's size and etag; None for a folder, or where there is nothing."""
        path = local_path(uri)
        with local_errors(path):
            try:
                return _info(uri, path.stat()) if path.is_file() else None
            except _NO_FILE:
                return None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every file below the folder, in the order of the URIs; unfinished files and locks are left out."""
        yield from _walk(local_path(prefix), as_folder(prefix))

    def delete(self, uri: str) -> None:
        """Remove the file; it may be absent."""
        path = local_path(uri)
        with local_errors(path):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return


def _walk(folder: Path, base: str) -> Iterator[ObjectInfo]:
    """Every file below `folder`, whose URI with a slash is `base`, in the order of the URIs.

    A folder sorts by its name with a slash, as the URIs of the files in it do.
    """
    with local_errors(folder):
        try:
            with os.scandir(folder) as scan:
                entries = {entry.name + "/" * entry.is_dir(follow_symlinks=False): entry for entry in scan}
        except _NO_FILE:
            return
    for name, entry in sorted(entries.items()):
        path = Path(entry.path)
        if name.endswith("/"):
            yield from _walk(path, base + name)
            continue
        with local_errors(path):
            if entry.is_file() and not is_part(name):
                try:
                    yield _info(base + name, entry.stat())
                except FileNotFoundError:  # removed since it was listed
                    continue


def _info(uri: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(uri, status.st_size, etag_of(status))
