"""Storage in a folder of this machine."""

import os
from collections.abc import Iterator
from pathlib import Path

from job.storage.base import Digest, ObjectInfo, Stored
from job.storage.files import (
    MissingObjectError,
    atomic_file,
    copy_into,
    etag_of,
    is_part,
    local_errors,
    locked,
    require_digest,
)
from job.storage.uris import as_folder, local_path

_NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class LocalStorage:
    """Plain paths, relative to the current directory, and `file:` URIs. A link to a file is a file; a linked folder
    is not entered by a listing, so a listing never leaves its folder.
    """

    def read(self, uri: str) -> bytes | None:
        """See `Storage`."""
        stored = self.fetch(uri)
        return None if stored is None else stored.data

    def fetch(self, uri: str) -> Stored | None:
        """See `Storage`."""
        path = local_path(uri)
        with local_errors(path):
            try:
                with path.open("rb") as file:
                    return Stored(file.read(), etag_of(os.fstat(file.fileno())))
            except _NO_FILE:
                return None

    def write(self, uri: str, data: bytes) -> Digest:
        """See `Storage`."""
        with atomic_file(local_path(uri), durable=True) as writer:
            writer.write(data)
        return writer.digest()

    def write_if(self, uri: str, data: bytes, etag: str | None) -> str | None:
        """See `Storage`. It goes by turns with others of its kind, not with `write`, `upload` and `delete`."""
        path = local_path(uri)
        with locked(path):
            found = self.head(uri)
            if etag != (found and found.etag):
                return None
            with atomic_file(path, durable=True) as writer:
                writer.write(data)
            return writer.etag

    def download(self, uri: str, path: Path, expect: Digest | None = None) -> Digest:
        """See `Storage`."""
        source = local_path(uri)
        if not source.is_file():
            raise MissingObjectError(uri)
        with atomic_file(path, durable=False) as writer:
            return require_digest(uri, copy_into(source, writer), expect)

    def upload(self, path: Path, uri: str) -> Digest:
        """See `Storage`."""
        with atomic_file(local_path(uri), durable=True) as writer:
            return copy_into(path, writer)

    def head(self, uri: str) -> ObjectInfo | None:
        """See `Storage`."""
        path = local_path(uri)
        with local_errors(path):
            try:
                return _info(uri, path.stat()) if path.is_file() else None
            except _NO_FILE:
                return None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """See `Storage`."""
        yield from _walk(local_path(prefix), as_folder(prefix))

    def delete(self, uri: str) -> None:
        """See `Storage`."""
        path = local_path(uri)
        with local_errors(path):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return


def _walk(folder: Path, base: str) -> Iterator[ObjectInfo]:
    """Everything below, sorted by name; a folder sorts by its name with a slash, as the URIs in it do."""
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


def _info(uri: str, stat: os.stat_result) -> ObjectInfo:
    return ObjectInfo(uri, stat.st_size, etag_of(stat))
