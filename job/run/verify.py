"""Checks what a run stored against what the run itself says of it: that all is there, and that all is whole."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from uuid import uuid4

from job import layout
from job.errors import ExitCode, JobError, no_run
from job.run.hashes import CaptionHashes, captions_hash, metrics_hash
from job.run.named import Inventory, Named, Problem
from job.run.success import READERS
from job.storage import Digest, ObjectInfo
from job.storage.files import MissingObjectError
from job.storage.folder import RunFolder
from job.threads import Check, as_finished
from lora_engine.records import CaptionRecord, StepRecord

Row = TypeVar("Row")

_FROM_A_COPY = (
    "it from a copy; what was collected, `lora-job collect` fetches again. Or train anew, under another name: --set "
    "name=... of `lora-job run`."
)
MADE_ANEW = (f"{layout.REPORT}/", f"{layout.ADAPTERS}/")  # folders that `lora-job report` writes


class Depth(IntEnum):
    """How much is read of the files that a run names. All of them have to be there, with the size that is said."""

    SIZES = 0  # none
    RECORDS = 1  # what `_SUCCESS` lists, and the last and best adapter of each member in kohya's format
    ALL = 2


@dataclass(frozen=True)
class Verified:
    """What was found."""

    files: int  # that are named
    hashed: int  # of which the content was compared
    finished: bool
    lists_records: bool  # whether a hash of every record is known, too: no earlier version finished it
    problems: tuple[Problem, ...]


def verify(
    run: RunFolder,
    depth: Depth,
    check: Check = lambda: None,
    only: Callable[[str], bool] = lambda _: True,
    scratch: Path | None = None,
) -> Verified:
    """Compare the files of a run with what the run says of them.

    Args:
        check: called now and then; it may raise.
        only: says of which keys.
        scratch: the folder through which files pass that are read; None for the system's.

    Raises:
        JobError: 42 when there is no run, or the store cannot be read; 50 when it fails.
    """
    there = dict(run.list())
    if not any(map(layout.is_of_run, there)):
        raise no_run(run.root)
    inventory = Inventory(run, there, check)
    named = [file for file in inventory.named if only(file.key)]
    problems = [problem for problem in inventory.problems if only(problem.key)]
    problems += of_sizes(run, named, there)
    bad = {problem.key for problem in problems}
    wanted = [f for f in named if f.sha256 and f.key not in bad and (depth == Depth.ALL or f.is_record)]
    digests = _digests(run, {file.key for file in wanted} if depth > Depth.SIZES else (), check, scratch)
    problems += _of_contents(run, wanted, digests)
    if depth > Depth.SIZES:
        problems += (problem for problem in _of_rows(run, inventory) if only(problem.key))
    by_key: dict[str, Problem] = {}
    for problem in problems:
        by_key.setdefault(problem.key, problem)
    success = inventory.success
    return Verified(
        files=len({file.key for file in named}),
        hashed=len(digests),
        finished=success is not None,
        lists_records=success is not None and bool(success.files),
        problems=tuple(by_key.values()),
    )


def require_whole(
    run: RunFolder,
    depth: Depth,
    check: Check = lambda: None,
    only: Callable[[str], bool] = lambda _: True,
    scratch: Path | None = None,
) -> Verified:
    """As `verify`, but anything that is not as the run says is an error.

    Raises:
        JobError: 46, with the file's name.
    """
    verified = verify(run, depth, check, only, scratch)
    if verified.problems:
        raise conflict(verified.problems)
    return verified


def conflict(problems: Iterable[Problem], more: str = "") -> JobError:
    """The error of a run that is not as it says; it names the first file, and says of how many others it is true.

    Args:
        more: a sentence that follows.
    """
    first, *others = problems
    more = f" {more}" if more else ""
    if others:
        more += f" {others_too(len(others))}: `lora-job verify` names all."
    way = "Restore"
    if first.key == layout.VOTES:
        way = "Give the votes again with `lora-job report RUN --ratings FILE...`, or restore"
    elif first.key.startswith(MADE_ANEW):
        way = "Make it anew with `lora-job report RUN`, or restore"
    return JobError(ExitCode.CONFLICT, first.text + more, f"{way} {_FROM_A_COPY}")


def others_too(count: int) -> str:
    """The words that so many files are not as the run says, beside one that is named."""
    return f"{count} more files are missing or altered" if count > 1 else "Another file is missing or altered, too"


def is_source_of_report(key: str) -> bool:
    """Whether a report is made of the file, and does not look at it more closely itself: report and pictures."""
    return not key.startswith(MADE_ANEW) and f"/{layout.SAMPLES_NAME}/" not in key


def altered(uri: str, by: str, then: object, now: object) -> str:
    """The sentence about a file that is not what another one says."""
    return f"{uri} was altered: {by} says {then}, and it has {now}."


def of_sizes(run: RunFolder, named: Iterable[Named], there: Mapping[str, ObjectInfo]) -> Iterator[Problem]:
    """Files that are missing from those that are there, or have another size than is said."""
    for file in named:
        info = there.get(file.key)
        if info is None:
            yield Problem(file.key, f"{run.root.rstrip('/')}/{file.key} is missing, which {file.by} names.")
        elif file.size not in (None, info.size):
            yield Problem(file.key, altered(run.uri(file.key), file.by, f"{file.size} bytes", f"{info.size} bytes"))


def _digests(run: RunFolder, keys: Iterable[str], check: Check, scratch: Path | None) -> dict[str, Digest | None]:
    """The content of each file; None where it has gone meanwhile."""
    with TemporaryDirectory(dir=scratch) as folder:

        def digest(key: str) -> tuple[str, Digest | None]:
            path = Path(folder) / uuid4().hex
            try:
                return key, run.download(key, path)
            except MissingObjectError:
                return key, None
            finally:
                path.unlink(missing_ok=True)

        return dict(as_finished(digest, sorted(keys), READERS, check))


def _of_contents(run: RunFolder, wanted: Iterable[Named], digests: Mapping[str, Digest | None]) -> Iterator[Problem]:
    for file in wanted:
        if file.key in digests:
            digest = digests[file.key]
            if digest is None:
                yield Problem(file.key, f"{run.uri(file.key)} is missing, which {file.by} names.")
            elif digest.sha256 != file.sha256:
                then, now = f"SHA-256 {file.sha256}", f"SHA-256 {digest.sha256}"
                yield Problem(file.key, altered(run.uri(file.key), file.by, then, now))


def _of_rows(run: RunFolder, inventory: Inventory) -> Iterator[Problem]:
    """Rows that are others than when a checkpoint was made of them, or than they were written."""
    newest = {member: commit for (member, _), commit in sorted(inventory.commits.items(), key=lambda pair: pair[0][1])}
    for member, commit in newest.items():
        if commit.metrics_sha256 is not None:
            until = partial(_until, commit.step)
            yield from _of_hash(
                run,
                layout.metrics(member),
                StepRecord,
                until,
                f"the commit of step {commit.step}",
                commit.metrics_sha256,
            )
    hashes = inventory.read(layout.CAPTION_HASHES, CaptionHashes) or CaptionHashes(sha256={})
    if inventory.run_id is not None:  # an earlier version kept no hashes
        for name in sorted(inventory.caption_sets - hashes.sha256.keys()):
            text = f"{run.uri(layout.CAPTION_HASHES)} is missing or has no hash of {layout.captions(name)}."
            yield Problem(layout.CAPTION_HASHES, text)
    for name, then in hashes.sha256.items():
        yield from _of_hash(run, layout.captions(name), CaptionRecord, captions_hash, layout.CAPTION_HASHES, then)


def _until(step: int, rows: Sequence[StepRecord]) -> str:
    """The hash of the rows up to a step."""
    return metrics_hash([row for row in rows if row.step <= step])


def _of_hash(
    run: RunFolder, key: str, kind: type[Row], hash_of: Callable[[Sequence[Row]], str], by: str, then: str
) -> Iterator[Problem]:
    try:
        rows = run.read_rows(key, kind)
    except JobError as error:
        if error.code != ExitCode.CONFLICT:
            raise
        yield Problem(key, error.cause)
        return
    if rows is None:
        yield Problem(key, f"{run.uri(key)} is missing, which {by} names.")
    elif (now := hash_of(rows)) != then:
        yield Problem(key, altered(run.uri(key), by, f"SHA-256 {then} of its rows", now))
