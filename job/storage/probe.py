"""Whether a source can be read and a destination written, found out before the work starts."""

import secrets

from job.errors import ExitCode, JobError
from job.storage.base import Storage, UnsupportedError
from job.storage.uris import join


def probe_write(storage: Storage, folder_uri: str) -> None:
    """Write, read back and delete a small object of a random name. 42 where that is not possible."""
    uri = join(folder_uri, f".probe-{secrets.token_hex(8)}")
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
    """Whether `write_if` keeps its word there: some stores write in any case. Leaves nothing behind."""
    uri = join(folder_uri, f".probe-{secrets.token_hex(8)}")
    try:
        first = storage.write_if(uri, b"first", None)
        if first is None or storage.write_if(uri, b"create again", None) is not None:
            return False
        second = storage.write_if(uri, b"second", first)
        return second is not None and storage.write_if(uri, b"on the first", first) is None
    except UnsupportedError:
        return False
    finally:
        storage.delete(uri)


def probe_read(storage: Storage, uri: str) -> None:
    """Make sure that there is an object or a folder with one. 42 where there is none or it may not be read."""
    name = uri.rstrip("/")
    if storage.head(name) is None and next(storage.list(name), None) is None:
        raise JobError(
            ExitCode.STORAGE_ACCESS,
            f"There is nothing at {uri}.",
            "Correct the name, storage.region and storage.endpoint_url, or store the files there.",
        )
