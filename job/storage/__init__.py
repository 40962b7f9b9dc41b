"""Storage of data and results, in a folder of this machine or a bucket. Importing it imports no cloud library."""

from job.storage.backends import open_from_environment, open_storage
from job.storage.base import Digest, ObjectInfo, Storage, StorageSettings, Stored, UnreachableError, UnsupportedError
from job.storage.patience import Patience
from job.storage.uris import is_remote, join, name_of

__all__ = [
    "Digest",
    "ObjectInfo",
    "Patience",
    "Storage",
    "StorageSettings",
    "Stored",
    "UnreachableError",
    "UnsupportedError",
    "is_remote",
    "join",
    "name_of",
    "open_from_environment",
    "open_storage",
]
