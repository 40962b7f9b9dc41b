"""URIs of objects and folders: a path, `file:///path`, `s3://bucket/key`, `miniature://name`. Pure.

Names are never percent-encoded.
"""

import re
import secrets
from pathlib import Path

from job.errors import ExitCode, JobError
from lora_engine import miniature

SHIPPED = "miniature"  # the scheme of the small models and pictures that come with the program
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def scheme_of(uri: str) -> str:
    """The part before `://`, such as `s3`; `file` for a plain path."""
    match = _SCHEME.match(uri)
    return match[1] if match else "file"


def is_shipped(uri: str) -> bool:
    """Whether the URI names one of the miniatures that come with the program."""
    return scheme_of(uri) == SHIPPED


def is_remote(uri: str) -> bool:
    """Whether the bytes have to cross a network."""
    return scheme_of(uri) != "file" and not is_shipped(uri)


def name_of(uri: str) -> str:
    """The last segment of the path."""
    return uri.rstrip("/").rpartition("/")[2]


def join(uri: str, *parts: str) -> str:
    """The URI of a name below a folder; `parts` may hold slashes. 47 for a name that would lead out of the folder."""
    segments = [segment for part in parts for segment in part.split("/")]
    if any(segment in {"", ".", ".."} or "\0" in segment for segment in segments):
        raise JobError(
            ExitCode.UNSAFE,
            f"The name {'/'.join(parts)!r} is not one of a file within {uri}.",
            "Find out who wrote that name; no part of it may be empty, '.' or '..'.",
        )
    return as_folder(uri) + "/".join(segments)


def as_folder(uri: str) -> str:
    """The URI with a slash at its end, so that names can follow."""
    return uri if uri.endswith("/") else f"{uri}/"


def probe_uri(folder_uri: str) -> str:
    """The URI of an object in a folder that nothing else uses, to try the storage with."""
    return join(folder_uri, f".probe-{secrets.token_hex(8)}")


def local_path(uri: str) -> Path:
    """The path behind a plain path, a `file:` or a `miniature:` URI. 40 when the URI names another host or nothing."""
    if is_shipped(uri):
        return _miniature(uri)
    path = re.sub(r"^file://(localhost(?=/))?", "", uri)
    if not path or (path != uri and not path.startswith("/")):
        raise JobError(
            ExitCode.MANIFEST, f"{uri!r} names no local path.", "Write a path, or file:// and an absolute path."
        )
    return Path(path)


def _miniature(uri: str) -> Path:
    try:
        return miniature.folder(uri.removeprefix("miniature://"))
    except ValueError as error:
        raise JobError(
            ExitCode.MANIFEST, f"{uri}: {error}.", f"Write miniature://{miniature.NAMES[0]}, or where your own is."
        ) from error
