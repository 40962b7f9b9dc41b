"""The table of storages by scheme. A new kind of storage is one folder of its own and one row here."""

from collections.abc import Mapping

from job.errors import ExitCode, JobError
from job.storage.base import Backend, Moved, Storage, StorageSettings
from job.storage.local import LocalBackend
from job.storage.s3.backend import S3Backend
from job.storage.uris import is_shipped, scheme_of

_LOCAL = LocalBackend()
BACKENDS: Mapping[str, Backend] = {
    "file": _LOCAL,
    "s3": S3Backend(),
}


def backend_of(uri: str) -> Backend:
    """The kind of storage that `uri` lies in.

    Raises:
        JobError: 40, there is none of that scheme.
    """
    scheme = scheme_of(uri)
    if scheme not in BACKENDS:
        *others, last = (backend.form for backend in BACKENDS.values())
        raise JobError(
            ExitCode.MANIFEST,
            f"{uri!r} lies in no storage that is known: {scheme}.",
            f"Write {', '.join(('a path', *others))} or {last}.",
        )
    return BACKENDS[scheme]


def source_backend_of(uri: str) -> Backend:
    """The kind of storage that a source lies in: also a local one, for the miniatures that come with the program."""
    return _LOCAL if is_shipped(uri) else backend_of(uri)


def _ignore() -> None:
    """Take no notice that bytes move."""


def open_storage(uri: str, settings: StorageSettings, moved: Moved = _ignore) -> Storage:
    """The storage that `uri` lies in.

    Args:
        moved: called, in any thread, for every 256 KiB of an object that have crossed a network.

    Raises:
        JobError: 40 for a scheme that no backend has or settings that cannot be right.
    """
    return backend_of(uri).open(settings, moved)


def open_from_environment(uri: str, environ: Mapping[str, str]) -> Storage:
    """The storage that `uri` lies in, for commands that have no manifest: the environment says how to reach it.

    Raises:
        JobError: as `open_storage`.
    """
    backend = backend_of(uri)
    return backend.open(backend.settings_in(environ), _ignore)
