"""The port that every kind of storage implements. URIs are plain strings."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from job.errors import JobError


@dataclass(frozen=True)
class ObjectInfo:
    """An object as a listing or a head request shows it."""

    uri: str
    size: int  # bytes
    etag: str  # changes when the content does; opaque


@dataclass(frozen=True)
class Digest:
    """What was transferred."""

    size: int  # bytes
    sha256: str  # hexadecimal


@dataclass(frozen=True)
class Stored:
    """A small object at one moment."""

    data: bytes
    etag: str  # as `ObjectInfo` has it


class UnsupportedError(JobError):
    """The store does not know what it was asked for."""


class Storage(Protocol):
    """The least that the job needs of a store.

    Raises `JobError`: 42 where access, bucket or object is wrong and no retry can help,
    50 where retries are exhausted or what arrived is damaged, 44 where the local disk is full,
    40 where a URI names no place at all. Several threads may use one storage.
    """

    def read(self, uri: str) -> bytes | None:
        """The whole of a small object; None when there is none."""
        ...

    def fetch(self, uri: str) -> Stored | None:
        """`read` with the etag of the very bytes that it gives."""
        ...

    def write(self, uri: str, data: bytes) -> Digest:
        """Create or replace a small object atomically."""
        ...

    def write_if(self, uri: str, data: bytes, etag: str | None) -> str | None:
        """Replace a small object if it is still at `etag`, or create it if that is None and there is still none.

        Gives the new etag, or None where something else was found. Of any number of callers at once exactly one wins.
        A store may give equal bytes equal etags: whoever minds `etag` having come back puts a nonce into the data.
        After a `JobError` 50 it is open whether it was written. `UnsupportedError` where the store knows no conditions;
        those that ignore them are what `probe_conditions` is for.
        """
        ...

    def download(self, uri: str, path: Path, expect: Digest | None = None) -> Digest:
        """Stream to a temporary file beside `path`, check size and digest, rename. 42 when there is no object."""
        ...

    def upload(self, path: Path, uri: str) -> Digest:
        """Stream a file into an object; the store verifies what it received."""
        ...

    def head(self, uri: str) -> ObjectInfo | None:
        """The object, or None when there is none."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object under `prefix/`, in the order of their URIs by code point; nothing where there is none."""
        ...

    def delete(self, uri: str) -> None:
        """Remove the object; it may be absent."""
        ...
