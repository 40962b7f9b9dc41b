"""The ports of storage: what a store does for the job, and what a kind of store is. URIs are plain strings."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from job.errors import ExitCode, JobError

Moved = Callable[[], None]  # called, in any thread, for every 256 KiB of an object that have crossed a network


@dataclass(frozen=True)
class StorageSettings:
    """How to reach a store, as a manifest or the environment says it. A backend ignores what it has no use for.

    Credentials never stand here: each backend finds them in the environment.
    """

    endpoint_url: str | None = None  # None is the provider's own
    region: str | None = None  # None is the region that the environment names
    addressing_style: Literal["auto", "path", "virtual"] = "auto"  # whether a bucket stands in the URL's path or host


@dataclass(frozen=True)
class ObjectInfo:
    """An object as a listing or a head request shows it."""

    uri: str
    size: int  # bytes
    etag: str  # changes when the content does; opaque


@dataclass(frozen=True)
class Digest:
    """The size and the hash of bytes that were transferred."""

    size: int  # bytes
    sha256: str  # hexadecimal
    # The checksum by which the bytes that arrived are known to be those that were stored; None where there was none.
    verified_by: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Stored:
    """The bytes of a small object, and the etag that it had when they were read."""

    data: bytes
    etag: str  # an `ObjectInfo` of the same bytes has the same


class UnreachableError(JobError):
    """The store, or what gives the credentials for it, is down or busy: the same request may succeed in minutes."""


class UnsupportedError(JobError):
    """The store does not know the kind of request that it was sent."""


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
        """The whole of a small object with the etag of exactly those bytes; None when there is none."""
        ...

    def write(self, uri: str, data: bytes) -> Digest:
        """Create or replace a small object atomically."""
        ...

    def write_if(self, uri: str, data: bytes, etag: str | None) -> str | None:
        """Replace a small object if it is still at `etag`, or create it if that is None and there is still none.

        Gives the new etag, or None where something else was found. Of any number of callers at once exactly one wins.
        A store may give equal bytes equal etags: a caller that must notice that `etag` went away and came back puts a
        nonce into the data. After a `JobError` 50 the caller cannot know whether the object was written. Raises
        `UnsupportedError` where the store knows no conditions; `Backend.probe_conditions` finds the stores that ignore
        them.
        """
        ...

    def download(self, uri: str, path: Path, expect: Digest | None = None, etag: str | None = None) -> Digest:
        """Stream to a temporary file beside `path`, check size and digest, rename.

        Args:
            expect: what the bytes have to be; None for whatever the store has and, if it does, promises of them.
            etag: that a listing showed; None for whichever the object has.

        Raises:
            MissingObjectError, ChangedObjectError: 42, there is no object; 50, it is another than was listed.
        """
        ...

    def upload(self, path: Path, uri: str) -> Digest:
        """Stream a file into an object; the store verifies what it received."""
        ...

    def upload_if(self, path: Path, uri: str, etag: str | None) -> Digest | None:
        """Stream a file into an object on the condition of `write_if`; None where something else was found."""
        ...

    def head(self, uri: str) -> ObjectInfo | None:
        """The object's size and etag, or None when there is none."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object under `prefix/`, in the order of their URIs by code point; nothing where there is none."""
        ...

    def delete(self, uri: str) -> None:
        """Remove the object; it may be absent."""
        ...


class Backend(Protocol):
    """One kind of storage: a row of the table in `job.storage.backends`.

    Importing a backend is cheap and imports no cloud library; `open` does that.
    """

    form: str  # how a URI of this kind is written, for messages: s3://bucket/prefix

    def check(self, settings: StorageSettings, environ: Mapping[str, str]) -> None:
        """Refuse, without a request, settings (40) and variables (42) with which the store can never be reached."""
        ...

    def open(self, settings: StorageSettings, moved: Moved) -> Storage:
        """A storage that reaches the store so. 40 or 42 as `check`, or 50 where credentials cannot be had just now."""
        ...

    def settings_in(self, environ: Mapping[str, str]) -> StorageSettings:
        """The settings that the environment's variables hold, for commands that have no manifest."""
        ...

    def variables(self, settings: StorageSettings) -> dict[str, str]:
        """The variables that tell a container how to reach the store before it has read its manifest there."""
        ...

    def probe_source(self, storage: Storage, uri: str, key: str, absent: ExitCode) -> None:
        """Make sure that there is an object, or a folder with one, that can be read at `uri`.

        Args:
            storage: one that `open` gave.
            key: the manifest's key that names `uri`, for messages.
            absent: the exit code where this machine's own disk lacks it; a remote store's refusal is 42.

        Raises:
            JobError: there is nothing, or it cannot be read.
        """
        ...

    def probe_conditions(self, storage: Storage, folder_uri: str) -> bool:
        """Whether `write_if` of a storage that `open` gave keeps its word below a folder. Leaves nothing behind."""
        ...
