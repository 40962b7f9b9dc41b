"""Downloads a run and checks every byte that a commit vouches for."""

from dataclasses import dataclass
from pathlib import Path

from job import layout
from job.errors import ExitCode, JobError, no_run
from job.run.checkpoints import Commit
from job.storage import Digest, ObjectInfo, is_remote
from job.storage.files import digest_of, local_errors
from job.storage.folder import RunFolder
from job.storage.transfer import download_all
from job.storage.uris import local_path


@dataclass(frozen=True)
class Collected:
    """The outcome of `collect`."""

    files: int  # of the run
    downloaded: int  # files that were not there yet
    verified: int  # files that a commit lists, and whose content was checked
    finished: bool  # whether the run is

    def describe(self) -> str:
        """One line for a person."""
        text = f"{self.files} files, {self.downloaded} downloaded, {self.verified} checked against their commits"
        return text if self.finished else f"{text}; the run is not finished yet"


def collect(run: RunFolder, destination: Path) -> Collected:
    """Download all files of a run to a folder, but those that are there with the content that a commit lists.

    Raises:
        JobError: 2 when the folder lies in the run, 42 when there is no run, 46 when a file that a commit lists is
            missing, 47 when a key would lead out of the folder, 50 when a file has another content than its commit
            lists.
    """
    if not is_remote(run.root) and destination.resolve().is_relative_to(local_path(run.root).resolve()):
        raise JobError(
            ExitCode.USAGE, f"{destination} lies in {run.root}, the run itself.", "Name a folder outside of it."
        )
    items = {key: (info, destination / _inside(run, key)) for key, info in run.list()}
    if not any(map(layout.is_of_run, items)):
        raise no_run(run.root)
    expected = _expected(run, items)
    missing = [item for key, item in items.items() if not _is_here(item, expected.get(key))]
    for info, digest in download_all(run.storage, missing):
        key = info.uri[len(run.uri("x")) - 1 :]
        wanted = expected.get(key)
        if wanted is not None and digest != wanted:
            (destination / key).unlink()
            raise JobError(
                ExitCode.STORAGE_RETRIES,
                f"{info.uri} is not what its commit says (SHA-256 {digest.sha256}, expected {wanted.sha256}).",
                "Collect again; if it stays so, the object was changed after the run.",
            )
    if lost := sorted(expected.keys() - items.keys()):
        raise JobError(
            ExitCode.CONFLICT,
            f"{run.root} lacks {len(lost)} of the files that its commits list: {lost[0]}{', ...' * (len(lost) > 1)}.",
            "Restore it from a copy; all other files were collected.",
        )
    return Collected(len(items), len(missing), len(expected), layout.SUCCESS in items)


def _inside(run: RunFolder, key: str) -> str:
    """The key, if it leads nowhere out of the folder that it is put into.

    Raises:
        JobError: 47 when it does.
    """
    run.uri(key)
    return key


def _expected(run: RunFolder, items: dict[str, tuple[ObjectInfo, Path]]) -> dict[str, Digest]:
    """The size and hash of every file that a commit lists, by the file's key."""
    expected = {}
    for key in items:
        folder, _, name = key.rpartition("/")
        commit = run.read_stored(key, Commit) if name == layout.COMMIT_NAME else None
        for file in commit.files if commit else ():
            expected[f"{folder}/{file.path}"] = Digest(file.size, file.sha256)
    return expected


def _is_here(item: tuple[ObjectInfo, Path], expected: Digest | None) -> bool:
    """Whether the file is there with the content that its commit lists; False where no commit lists it."""
    info, path = item
    if expected is None:
        return False
    with local_errors(path):
        return path.is_file() and path.stat().st_size == info.size and digest_of(path) == expected
