"""Models of a Hugging Face hub: `hf://owner/name`."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from job.errors import ExitCode, JobError
from job.storage.base import UnreachableError
from job.storage.files import CHUNK_BYTES, DamagedObjectError, local_errors
from job.storage.patience import Patience, Wait
from lora_engine.system.limits import limit_hit

SCHEME = "hf"
FORM = "hf://owner/name"  # how a model of the hub is written, for messages
_PASSING = (408, 425, 429)  # answers to a request that may be granted later, beside those of a server that fails
# What is said of an address that is none, or cannot be trusted.
_NEVER = re.compile(
    "CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE|UnsupportedProtocol|FileMetadataError"
)
_CHECK_ADDRESS = "Correct HF_ENDPOINT, or name the authority's certificates in SSL_CERT_FILE."


def is_hub(uri: str) -> bool:
    """Whether the URI names a model of the hub."""
    return uri.startswith(f"{SCHEME}://")


def repository_of(uri: str) -> str:
    """The owner and name of a model of the hub."""
    return uri.removeprefix(f"{SCHEME}://")


def refuse_bare_name(source: str, what: str) -> None:
    """Refuse a path below no folder that reads like a model's name on the hub, and say how that is written.

    Args:
        what: the manifest's key, for messages.

    Raises:
        JobError: 43.
    """
    if re.fullmatch(r"[A-Za-z0-9][-\w.]*/[A-Za-z0-9][-\w.]*", source) and not Path(source).parent.exists():
        raise JobError(
            ExitCode.MODEL,
            f"{what}: there is no file or folder at {source}.",
            f"Write {SCHEME}://{source} for the model of that name on the hub; a path is taken from {Path.cwd()}.",
        )


def fetch_hub(
    what: str,
    repository: str,
    revision: str | None,
    patterns: Sequence[str],
    moved: Callable[[], None],
    patience: Patience | None = None,
) -> Path:
    """The local folder of a repository's files that match `patterns`, from the hub or from its cache.

    A file that has not the hash by which the hub names it is fetched once more.

    Args:
        what: the manifest's key, for messages.
        moved: called, in any thread, as bytes arrive.
        patience: how long to wait for a hub that is down; None for not at all.

    Raises:
        JobError: 43 when the hub has no such repository or revision, or its address is wrong; 50 when it cannot be
            reached, or a file arrived damaged twice.
    """

    def fetch() -> Path:
        return _fetch(what, repository, revision, patterns, moved)

    wait = None if patience is None else Wait(patience, "hub")
    for _ in range(2):
        folder = fetch() if wait is None else wait.until_it_works(fetch)
        # The hub's cache keeps files behind links, under the hash that the hub told for each.
        blobs = (path.resolve() for path in _files(folder, patterns))
        damaged = [blob for blob in blobs if _is_named_by_hash(blob) and not _is_whole(blob, moved)]
        if not damaged:
            return folder
        for blob in damaged:
            with local_errors(blob):
                blob.unlink()
    raise DamagedObjectError(f"{what}: hf://{repository} arrived damaged twice, by the hashes that the hub gives.")


def unverified_in(folder: Path, patterns: Sequence[str]) -> list[str]:
    """The names of the files that match, in a folder that `fetch_hub` gave, for which its cache keeps no hash."""
    files = (path for path in _files(folder, patterns) if not _is_named_by_hash(path.resolve()))
    return [path.relative_to(folder).as_posix() for path in files]


def _files(folder: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """The files below a folder that match, sorted."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and any(fnmatch(path.relative_to(folder).as_posix(), pattern) for pattern in patterns):
            yield path


def _is_named_by_hash(blob: Path) -> bool:
    return re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", blob.name) is not None


def _is_whole(blob: Path, moved: Callable[[], None]) -> bool:
    """Whether a file has the hash that it is named by: SHA-256 for large files, that of git's blobs for others."""
    with local_errors(blob), blob.open("rb") as file:
        digest = hashlib.sha256()
        if len(blob.name) == 40:
            digest = hashlib.sha1(f"blob {blob.stat().st_size}\0".encode(), usedforsecurity=False)
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            moved()
    return digest.hexdigest() == blob.name


def _fetch(
    what: str, repository: str, revision: str | None, patterns: Sequence[str], moved: Callable[[], None]
) -> Path:
    """As `fetch_hub`, without a look at what came. UnreachableError where the hub may answer in minutes."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    # The hub's own error derives from that of the HTTP library beneath it, which differs between its versions.
    any_http_error = next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
    try:
        return _snapshot(repository, revision, patterns, moved, local_files_only=False)
    except (LocalEntryNotFoundError, ConnectionError, TimeoutError, ValueError, any_http_error) as error:
        failed: Exception = error
    if (limit := limit_hit(failed)) is not None:
        raise JobError(ExitCode.RESOURCES, *limit) from failed
    if not isinstance(failed, (HfHubHTTPError, ValueError)):  # After an answer, the cache lacks what was asked for.
        try:
            # Versions before 2 ask the hub for a pinned revision's list of files before they look into the cache.
            return _snapshot(repository, revision, patterns, moved, local_files_only=True)
        except LocalEntryNotFoundError:
            pass
    # Of what it did not find in its cache, the library says by a cause why it could not fetch it.
    cause = failed.__cause__ if isinstance(failed, LocalEntryNotFoundError) and failed.__cause__ else failed
    raise _failure(f"{what}: hf://{repository} at revision {revision or 'main'}", cause) from failed


def _failure(where: str, cause: BaseException) -> JobError:
    """The error for a model that is not in the cache, and cannot be fetched."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if (remedy := _remedy(cause)) is not None:
        return JobError(ExitCode.MODEL, f"{where} cannot be downloaded ({type(cause).__name__}).", remedy)
    kind = JobError if isinstance(cause, OfflineModeIsEnabled) else UnreachableError
    return kind(
        ExitCode.STORAGE_RETRIES,
        f"{where} is not in the local cache, and the model hub cannot be reached ({type(cause).__name__}).",
        "Check the network, or copy the model to a folder or bucket and name that.",
    )


def _remedy(error: BaseException) -> str | None:
    """What to do about an answer of the hub, or an address, that stays as it is; None where it may be another soon."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in _PASSING or status >= 500:
            return None
    elif not isinstance(error, ValueError):
        return _CHECK_ADDRESS if _NEVER.search(f"{type(error).__name__}: {error}") else None
    return "Check the name and the revision; a gated model needs HF_TOKEN in the environment."


def _snapshot(
    repository: str,
    revision: str | None,
    patterns: Sequence[str],
    moved: Callable[[], None],
    *,
    local_files_only: bool,
) -> Path:
    """The library's own download, with a progress bar that shows nothing and passes on that bytes have come."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        def update(self, n: float | None = 1) -> bool | None:
            moved()
            shown: bool | None = super().update(n)
            return shown

    folder = snapshot_download(
        repository,
        revision=revision,
        allow_patterns=list(patterns),
        local_files_only=local_files_only,
        tqdm_class=Bar,
    )
    return Path(folder)
