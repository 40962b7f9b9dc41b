"""Downloads a run, or its adapters and report alone, and checks every byte that the run itself vouches for."""

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from job import layout
from job.errors import ExitCode, JobError, no_run
from job.run.adapters import AdapterIndex
from job.run.checkpoints import RunId
from job.run.named import Inventory, Named, Problem
from job.run.success import read_success
from job.run.verify import MADE_ANEW, altered, conflict, of_sizes
from job.storage import ObjectInfo, is_remote
from job.storage.files import MissingObjectError, digest_of, local_errors
from job.storage.folder import RunFolder
from job.storage.local import LocalStorage
from job.storage.stored import StoredJson
from job.storage.transfer import download_all
from job.storage.uris import local_path
from job.threads import as_finished
from lora_engine.text import printable

_TELLING = {"run_id", "started_at", "name"}


@dataclass(frozen=True)
class Collected:
    """The outcome of `collect`."""

    destination: Path
    files: int  # of the run, or of the part of it that was asked for
    downloaded: int  # files that were not there yet
    verified: int  # files of which the run says a SHA-256, and whose content was checked
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
        JobError: 2 when the folder lies in the run, 42 when there is no run, 46 when the folder holds another run, a
            file that the run names is missing or altered, or the adapters that are asked for were not made, 47 when a
            key would lead out of the folder.
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
    _refuse_another_run(run, destination)
    expected, problems = _expected(run, {key: info for key, (info, _) in items.items()}, adapters_alone=adapters_alone)
    for problem in problems:
        items.pop(problem.key, None)
    missing = {key: item for key, item in items.items() if not _is_here(item, expected.get(key))}
    _download(run, missing, expected)
    if problems:
        raise conflict(problems, "All other files were collected.")
    names = tuple(entry.name for entry in index.adapters) if index else ()
    return Collected(destination, len(items), len(missing), len(expected), names, run.exists(layout.SUCCESS))


def _download(run: RunFolder, items: Mapping[str, tuple[ObjectInfo, Path]], expected: Mapping[str, str]) -> None:
    """Download each object to its path, and remove it from there again if it has another content than is expected.

    Raises:
        JobError: 46, one has, twice.
    """
    is_finished = run.exists(layout.SUCCESS)
    still = {key: item for key, item in items.items() if is_finished or key in expected}
    # What a run that is at work writes again and again, such as its status, is taken as it comes, if it is still there.
    moving = [item for key, item in items.items() if key not in still]

    def take(item: tuple[ObjectInfo, Path]) -> None:
        with suppress(MissingObjectError):
            run.storage.download(item[0].uri, item[1])

    for _ in as_finished(take, moving, 16, lambda: None):
        pass
    for info, digest in download_all(run.storage, still.values()):
        key = info.uri[len(run.uri("x")) - 1 :]
        wanted = expected.get(key)
        if wanted is not None and digest.sha256 != wanted:
            path = items[key][1]
            path.unlink()
            again = run.download(key, path)
            if again.sha256 != wanted:
                path.unlink()
                text = altered(info.uri, "the run", f"SHA-256 {wanted}", f"SHA-256 {again.sha256}")
                raise conflict([Problem(key, text)])


def _no_adapters(run: RunFolder) -> JobError:
    """The error that adapters were asked for which nobody has made yet."""
    command = f"lora-job report {shlex.quote(run.root)}"
    success = read_success(run)
    if success is not None and success.files:
        return conflict([Problem(layout.ADAPTER_INDEX, f"{run.uri(layout.ADAPTER_INDEX)} is missing.")])
    if success is not None:
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
    run: RunFolder, there: Mapping[str, ObjectInfo], *, adapters_alone: bool
) -> tuple[dict[str, str], list[Problem]]:
    """The SHA-256 of each file of which the run says one, by the file's key; and what is missing or of another size."""
    if adapters_alone:
        index = run.read_stored(layout.ADAPTER_INDEX, AdapterIndex)
        files = [
            Named(file.path, layout.ADAPTER_INDEX, file.size, file.sha256) for file in (index.files() if index else ())
        ]
        success = read_success(run)
        reported = [file for file in (success.files if success else ()) if file.path.startswith(MADE_ANEW)]
        files += [Named(file.path, layout.SUCCESS, file.size, file.sha256) for file in reported]
        problems = []
    else:
        inventory = Inventory(run, there)
        files, problems = inventory.named, inventory.problems
    problems = [*problems, *of_sizes(run, files, there)]
    bad = {problem.key for problem in problems}
    return {file.key: file.sha256 for file in files if file.sha256 is not None and file.key not in bad}, problems


class _Whose(RunId):
    """What tells one run from another, as `resolved.json` has it."""

    started_at: float


class _Called(StoredJson):
    """What `comparison.json` says of whose it is."""

    name: str


def _refuse_another_run(run: RunFolder, destination: Path) -> None:
    """Raise JobError 46 where the folder holds another run than the one that is collected."""
    here = RunFolder(LocalStorage(), str(destination.absolute()))
    kinds: tuple[tuple[str, type[StoredJson]], ...] = (
        (layout.RESOLVED, _Whose),
        (layout.ADAPTER_INDEX, AdapterIndex),
        (layout.COMPARISON, _Called),
    )
    for key, kind in kinds:
        mine, theirs = here.read_stored(key, kind), run.read_stored(key, kind)
        if mine is None or theirs is None:
            continue
        told = [each.model_dump(include=_TELLING, exclude_none=True) for each in (mine, theirs)]
        if told[0] != told[1]:
            held, asked = (", ".join(f"{name} {value}" for name, value in each.items()) or "none" for each in told)
            raise JobError(
                ExitCode.CONFLICT,
                f"{destination} holds another run: {key} has {held} there, and {asked} in {run.root}.",
                "Name another folder, or remove what is there.",
            )
        if told[0]:
            return


def _is_here(item: tuple[ObjectInfo, Path], expected: str | None) -> bool:
    """Whether the file is there with the content that is listed; False where none is listed."""
    info, path = item
    if expected is None:
        return False
    with local_errors(path):
        return path.is_file() and path.stat().st_size == info.size and digest_of(path).sha256 == expected
