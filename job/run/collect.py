"""Downloads a run, or its adapters and report alone, and checks every byte that the run itself vouches for."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from job import layout
from job.errors import ExitCode, JobError, no_run
from job.run.adapters import AdapterIndex
from job.run.checkpoints import Commit
from job.storage import Digest, ObjectInfo, is_remote
from job.storage.files import digest_of, local_errors
from job.storage.folder import RunFolder
from job.storage.transfer import download_all
from job.storage.uris import local_path
from lora_engine.text import printable


@dataclass(frozen=True)
class Collected:
    """The outcome of `collect`."""

    destination: Path
    files: int  # of the run, or of the part of it that was asked for
    downloaded: int  # files that were not there yet
    verified: int  # files that a commit or the index of adapters lists, and whose content was checked
    adapters: tuple[str, ...]  # names of those in `adapters/`
    finished: bool  # whether the run is

    def describe(self) -> str:
        """A line or two for a person."""
        text = f"{self.files} files, {self.downloaded} downloaded, {self.verified} checked by their SHA-256"
        lines = [text if self.finished else f"{text}; the run is not finished yet"]
        if self.adapters:
            lines.append(printable(f"{self.destination / layout.ADAPTERS}: {', '.join(self.adapters)}"))
        return "\n".join(lines)


def collect(run: RunFolder, destination: Path, *, adapters_alone: bool = False) -> Collected:
    """Download all files of a run to a folder, but those that are there with the content that the run lists.

    Args:
        adapters_alone: download `adapters/` and `report/` and nothing else.

    Raises:
        JobError: 2 when the folder lies in the run, 42 when there is no run, 46 when a file that a commit or the index
            of adapters lists is missing, or the adapters that are asked for were not made, 47 when a key would lead out
            of the folder, 50 when a file has another content than is listed.
    """
    if not is_remote(run.root) and destination.resolve().is_relative_to(local_path(run.root).resolve()):
        raise JobError(
            ExitCode.USAGE, f"{destination} lies in {run.root}, the run itself.", "Name a folder outside of it."
        )
    folders = (layout.ADAPTERS, layout.REPORT) if adapters_alone else ("",)
    items = {key: (info, destination / _inside(run, key)) for folder in folders for key, info in run.list(folder)}
    if not any(map(layout.is_of_run, items)) and not any(layout.is_of_run(key) for key, _ in run.list()):
        raise no_run(run.root)
    index = run.read_stored(layout.ADAPTER_INDEX, AdapterIndex)
    if adapters_alone and index is None:
        raise _no_adapters(run)
    expected = _expected(run, items, index)
    missing = {key: item for key, item in items.items() if not _is_here(item, expected.get(key))}
    _download(run, missing, expected)
    if lost := sorted(expected.keys() - items.keys()):
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.root} lacks {len(lost)} of the files that it lists: {lost[0]}{', ...' * (len(lost) > 1)}.",
            "Restore it from a copy; all other files were collected.",
        )
    names = tuple(entry.name for entry in index.adapters) if index else ()
    return Collected(destination, len(items), len(missing), len(expected), names, run.exists(layout.SUCCESS))


def _download(run: RunFolder, items: Mapping[str, tuple[ObjectInfo, Path]], expected: Mapping[str, Digest]) -> None:
    """Download each object to its path, and remove it from there again if it has another content than is expected."""
    for info, digest in download_all(run.storage, items.values()):
        key = info.uri[len(run.uri("x")) - 1 :]
        wanted = expected.get(key)
        if wanted is not None and digest != wanted:
            items[key][1].unlink()
            raise JobError(
                ExitCode.STORAGE_RETRIES,
                f"{info.uri} is not what the run lists (SHA-256 {digest.sha256}, expected {wanted.sha256}).",
                "Collect again; if it stays so, the object was changed after the run.",
            )


def _no_adapters(run: RunFolder) -> JobError:
    """The error that adapters were asked for which nobody has made yet."""
    command = f"lora-job report {shlex.quote(run.root)}"
    if run.exists(layout.SUCCESS):
        return JobError(
            ExitCode.CONFLICT,
            f"{run.root} has no adapters/: an earlier version finished it.",
            f"`{command}` makes them of its checkpoints.",
        )
    return JobError(
        ExitCode.CONFLICT,
        f"{run.root} has no adapters/ yet: it is not finished.",
        f"Run its manifest to the end; where all is trained, `{command}` makes them.",
    )


def _inside(run: RunFolder, key: str) -> str:
    """The key, if it leads nowhere out of the folder that it is put into.

    Raises:
        JobError: 47 when it does.
    """
    run.uri(key)
    return key


def _expected(
    run: RunFolder, items: Mapping[str, tuple[ObjectInfo, Path]], index: AdapterIndex | None
) -> dict[str, Digest]:
    """The size and hash of every file that a commit or the index of adapters lists, by the file's key."""
    expected = {file.path: Digest(file.size, file.sha256) for file in (index.files() if index else ())}
    for key in items:
        folder, _, name = key.rpartition("/")
        commit = run.read_stored(key, Commit) if name == layout.COMMIT_NAME else None
        for file in commit.files if commit else ():
            expected[f"{folder}/{file.path}"] = Digest(file.size, file.sha256)
    return expected


def _is_here(item: tuple[ObjectInfo, Path], expected: Digest | None) -> bool:
    """Whether the file is there with the content that is listed; False where none is listed."""
    info, path = item
    if expected is None:
        return False
    with local_errors(path):
        return path.is_file() and path.stat().st_size == info.size and digest_of(path) == expected
