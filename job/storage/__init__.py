"""Where data comes from and results go: a folder of this machine or a bucket. Importing it imports no cloud library."""

from collections.abc import Callable

from job.errors import ExitCode, JobError
from job.storage.base import Digest, ObjectInfo, Storage, Stored, UnsupportedError
from job.storage.local import LocalStorage
from job.storage.s3.settings import S3Settings
from job.storage.uris import is_remote, join, name_of, scheme_of

__all__ = [
    "Digest",
    "ObjectInfo",
    "S3Settings",
    "Storage",
    "Stored",
    "UnsupportedError",
    "is_remote",
    "join",
    "name_of",
    "open_storage",
]


def open_storage(uri: str, settings: S3Settings, moved: Callable[[], None] = lambda: None) -> Storage:
    """The storage that `uri` lies in. 40 for a scheme that none implements or settings that cannot be right.

    Args:
        moved: called, in any thread, for every 256 KiB of an object that have crossed a network.
    """
    scheme = scheme_of(uri)
    if scheme == "file":
        return LocalStorage()
    if scheme == "s3":
        from job.storage.s3.store import S3Storage  # boto3 takes a while and is not needed for local runs

        return S3Storage(settings, moved)
    raise JobError(
        ExitCode.MANIFEST,
        f"{uri!r} lies in no storage that is known: {scheme}.",
        "Write a path, file:///path or s3://bucket/prefix.",
    )
