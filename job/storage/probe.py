"""Tries whether a source can be read and a destination written, before the work starts."""

import secrets

from job.errors import ExitCode, JobError
from job.storage.backends import backend_of, open_source, source_backend_of
from job.storage.base import Storage, StorageSettings
from job.storage.patience import Patience
from job.storage.uris import probe_uri


def probe_write(storage: Storage, folder_uri: str) -> None:
    """Write, read back and delete a small object of a random name. 42 where that is not possible."""
    uri = probe_uri(folder_uri)
    data = secrets.token_bytes(64)
    storage.write(uri, data)
    try:
        found = storage.read(uri)
    finally:
        storage.delete(uri)
    if found != data:
        raise JobError(
            ExitCode.STORAGE_ACCESS,
            f"What was written to {uri} could not be read back.",
            "Use a store in which an object can be read as soon as it is written.",
        )


def probe_conditions(storage: Storage, folder_uri: str) -> bool:
    """Whether `write_if` keeps two writers apart below a folder, as its backend finds out. Leaves nothing behind."""
    return backend_of(folder_uri).probe_conditions(storage, folder_uri)


def probe_source(
    uri: str, settings: StorageSettings, key: str, absent: ExitCode, patience: Patience | None = None
) -> None:
    """Make sure that what the manifest's `key` names can be read, as `Backend.probe_source` does."""
    source_backend_of(uri).probe_source(open_source(uri, settings, patience), uri, key, absent)
