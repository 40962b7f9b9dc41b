"""What a run says that there is: every file that a commit, a pointer, an index, `_SUCCESS` or the report names."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.run.adapters import AdapterIndex
from job.run.checkpoints import BestPointer, Commit, FinalPointer, RunId, belongs_elsewhere
from job.run.samples import SampleIndex
from job.run.success import READERS, Success, is_always_listed, read_success
from job.storage import ObjectInfo
from job.storage.folder import RunFolder
from job.storage.stored import StoredJson
from job.threads import Check, as_finished
from lora_engine.adapters.names import kohya_name
from lora_engine.records import FileEntry

Kind = TypeVar("Kind")

_COMMIT = re.compile(rf"variants/([^/]+)/seed-(\d+)/checkpoints/(step-\d+)/{re.escape(layout.COMMIT_NAME)}")
_CAPTIONS = re.compile(rf"{layout.CAPTIONS}/([^/]+)\.jsonl")
_SAMPLES = re.compile(
    rf"(variants/[^/]+/seed-\d+/samples|samples/[^/]+/[^/]+/seed-\d+)/step-\d+/{re.escape(layout.SAMPLE_INDEX_NAME)}"
)


@dataclass(frozen=True)
class Named:
    """A file that another one names."""

    key: str
    by: str  # the key of the one that names it
    size: int | None = None  # bytes; None where that is not said
    sha256: str | None = None
    is_record: bool = False  # whether each start of a finished run reads it: those of `_SUCCESS` and of the pointers


@dataclass(frozen=True)
class Problem:
    """Something that is not as the run says."""

    key: str  # of the file
    text: str  # a sentence that begins with its URI


class _Pack(StoredJson):
    members: tuple[Member, ...] = ()


class _Began(RunId):
    """What is asked of `resolved.json`, of whatever version."""

    packs: tuple[_Pack, ...] = ()


class _Checkpoint(StoredJson):
    step: int
    files: tuple[FileEntry, ...] = ()


class _MemberReport(StoredJson):
    variant: str
    seed: int
    checkpoints: tuple[_Checkpoint, ...] = ()


class _Report(StoredJson):
    """What is asked of `comparison.json`, of whatever version."""

    members: tuple[_MemberReport, ...] = ()


class Inventory:
    """All that a run names, and what is wrong about the files that do.

    Args:
        there: all files of the run by their keys.
        check: called now and then; it may raise.
    """

    def __init__(self, run: RunFolder, there: Mapping[str, ObjectInfo], check: Check = lambda: None) -> None:
        self._run, self._there, self._check = run, there, check
        self.problems: list[Problem] = []
        self.success = self._success()
        began = self.read(layout.RESOLVED, _Began)
        self._members = [member for pack in (began.packs if began else ()) for member in pack.members]
        self.run_id = began.run_id if began else None
        self.commits = self._read_commits(began)
        self._look_for_unlisted()
        self.named: list[Named] = [
            *self._of_commits(),
            *self._of_pointers(),
            *self._of_samples(),
            *self._of_adapters(),
            *self._of_success(),
            *self._of_report(),
        ]

    def _success(self) -> Success | None:
        try:
            return read_success(self._run)
        except JobError as error:
            self._note(layout.SUCCESS, error)
            return Success()

    @property
    def caption_sets(self) -> frozenset[str]:
        """The sets of captions of which there is a file."""
        return frozenset(match[1] for key in self._there if (match := _CAPTIONS.fullmatch(key)))

    def read(self, key: str, kind: type[Kind]) -> Kind | None:
        """The object; None where there is none, or it is something else, which is a problem."""
        if key not in self._there:
            return None
        try:
            return self._run.read_stored(key, kind)
        except JobError as error:
            self._note(key, error)
            return None

    def _note(self, key: str, error: JobError) -> None:
        """Keep the problem of a file that is no such file; an error of the store is raised."""
        if error.code != ExitCode.CONFLICT:
            raise error
        self.problems.append(Problem(key, error.cause))

    def _complain(self, key: str, what: str) -> None:
        self.problems.append(Problem(key, f"{self._run.uri(key)} {what}."))

    def _read_all(self, keys: Iterable[str], kind: type[Kind]) -> dict[str, Kind]:
        def read(key: str) -> tuple[str, Kind | None]:
            return key, self.read(key, kind)

        found = as_finished(read, keys, READERS, self._check)
        return {key: value for key, value in sorted(found, key=lambda pair: pair[0]) if value is not None}

    def _read_commits(self, began: RunId | None) -> dict[tuple[Member, int], Commit]:
        """The commits by the checkpoints whose they are.

        Args:
            began: the run that they should be of; None where that is not known.
        """
        matches = {key: match for key in self._there if (match := _COMMIT.fullmatch(key))}
        places = {
            key: (Member(match[1], int(match[2])), step)
            for key, match in matches.items()
            if (step := layout.step_of(match[3])) is not None
        }
        commits, found = {}, self._read_all(places, Commit)
        knows_run = any(commit.run_id for commit in found.values())
        if layout.RESOLVED not in self._there and (knows_run or self.success is not None):
            self._complain(layout.RESOLVED, "is missing, though the run has begun")
        for key, commit in found.items():
            run_id = commit.run_id if began is None else began.run_id
            if owner := belongs_elsewhere(commit, run_id, *places[key]):
                self._complain(key, f"is the commit of {owner}")
            else:
                commits[places[key]] = commit
        return commits

    def _look_for_unlisted(self) -> None:
        """Find what `_SUCCESS` should list: a record that it leaves out could hold anything, and be believed."""
        if self.success is None:
            return
        if not self.success.files and self.run_id is not None:
            # The version that gave runs an id was the first to list their records, too.
            self._complain(layout.SUCCESS, "lists no file, though it should list the run's records")
        listed = {file.path for file in self.success.files}
        for key in self._there if listed else ():
            if is_always_listed(key) and key not in listed:
                self._complain(key, f"is none of the files that {layout.SUCCESS} lists")

    def _of_commits(self) -> Iterator[Named]:
        for (member, step), commit in self.commits.items():
            root = layout.checkpoint(member, step)
            for file in commit.files:
                yield Named(f"{root}/{file.path}", f"{root}/{layout.COMMIT_NAME}", file.size, file.sha256)

    def _of_pointers(self) -> Iterator[Named]:
        for member in self._members:
            final, best = layout.final(member), layout.best(member)
            if final not in self._there and self.success is not None:
                self._complain(final, "is missing, though the run is finished")
            for key, pointer in (
                (final, self.read(final, FinalPointer)),
                (best, self.read(best, BestPointer)),
            ):
                if pointer is not None:
                    yield from self._of_pointer(key, member, pointer.step, pointer.sha256)

    def _of_pointer(self, key: str, member: Member, step: int, sha256: str) -> Iterator[Named]:
        root, name = layout.checkpoint(member, step), kohya_name(member.variant)
        yield Named(f"{root}/{layout.COMMIT_NAME}", key)
        yield Named(f"{root}/{name}", key, sha256=sha256, is_record=True)
        listed = [file.sha256 for file in self.commits[member, step].files] if (member, step) in self.commits else []
        if listed and sha256 not in listed:
            self._complain(key, f"names a file with SHA-256 {sha256}, and the commit of step {step} lists none")

    def _of_samples(self) -> Iterator[Named]:
        found = self._read_all([key for key in self._there if _SAMPLES.fullmatch(key)], SampleIndex)
        for key, index in found.items():
            folder = key.rpartition("/")[0]
            for row in index.images:
                if row.file is not None:
                    yield Named(f"{folder}/{row.file}", key, sha256=row.sha256 or None)
            if index.embeddings_sha256 is not None:
                yield Named(f"{folder}/samples.safetensors", key, sha256=index.embeddings_sha256)

    def _of_adapters(self) -> Iterator[Named]:
        index = self.read(layout.ADAPTER_INDEX, AdapterIndex)
        for file in index.files() if index else ():
            yield Named(file.path, layout.ADAPTER_INDEX, file.size, file.sha256)

    def _of_success(self) -> Iterator[Named]:
        for file in self.success.files if self.success else ():
            yield Named(file.path, layout.SUCCESS, file.size, file.sha256, is_record=True)

    def _of_report(self) -> Iterator[Named]:
        """The checkpoints that the report of a finished run names. A run that goes on may remove some."""
        report = None if self.success is None else self.read(layout.COMPARISON, _Report)
        named = partial(Named, by=layout.COMPARISON)
        for member in report.members if report else ():
            for checkpoint in member.checkpoints:
                root = layout.checkpoint(Member(member.variant, member.seed), checkpoint.step)
                yield named(f"{root}/{layout.COMMIT_NAME}")
                for file in checkpoint.files:
                    yield named(f"{root}/{file.path}", size=file.size, sha256=file.sha256)
