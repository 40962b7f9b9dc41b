"""The table of storages by scheme. A new kind of storage is one folder of its own and one row here."""

from collections.abc import Mapping

from job.errors import ExitCode, JobError
from job.storage.base import Backend, Moved, Storage, StorageSettings
from job.storage.local import LocalBackend
from job.storage.patience import Patience, PatientStorage, Wait
from job.storage.s3.backend import S3Backend
from job.storage.uris import is_remote, is_shipped, scheme_of

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


def open_storage(
    uri: str, settings: StorageSettings, moved: Moved = _ignore, patience: Patience | None = None
) -> Storage:
    """The storage that `uri` lies in.

    Args:
        moved: called, in any thread, for every 256 KiB of an object that have crossed a network.
        patience: how long to wait for a store behind a network that is down; None for not at all.

    Raises:
        JobError: 40 for a scheme that no backend has; 40, 42 or 50 as `Backend.open` says.
    """
    return _opened(backend_of(uri), uri, settings, moved, patience)


def open_source(uri: str, settings: StorageSettings, patience: Patience | None = None) -> Storage:
    """The storage that a source lies in, as `open_storage` gives it; also for the miniatures."""
    return _opened(source_backend_of(uri), uri, settings, _ignore, patience)


def _opened(backend: Backend, uri: str, settings: StorageSettings, moved: Moved, patience: Patience | None) -> Storage:
    if patience is None or not is_remote(uri):
        return backend.open(settings, moved)
    wait = Wait(patience)
    return PatientStorage(wait.until_it_works(lambda: backend.open(settings, moved)), wait)


def open_from_environment(uri: str, environ: Mapping[str, str]) -> Storage:
    """The storage that `uri` lies in, for commands that have no manifest: the environment says how to reach it.

    Raises:
        JobError: as `open_storage`.
    """
    backend = backend_of(uri)
    return backend.open(backend.settings_in(environ), _ignore)
