"""The commit protocol: a checkpoint exists when its `COMMIT.json` does, which is written last and removed first."""

from pathlib import Path

from pydantic import Field, field_validator

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.storage import Digest
from job.storage.folder import RunFolder
from job.storage.stored import StoredJson
from lora_engine.adapters.names import kohya_name
from lora_engine.records import FileEntry

RESTORE = "Restore it from a copy, or start under another name: --set name=..."


class Commit(StoredJson):
    """`COMMIT.json`: whose checkpoint it is, the files that it consists of, and how it came about."""

    schema_version: int = Field(default=1, alias="schema")
    run_id: str | None = None  # the run's in `resolved.json`; None for both where an earlier version began the run
    variant: str
    seed: int
    step: int
    files: tuple[FileEntry, ...]
    parent: int | None = None  # step of the member's checkpoint before this one; None for the first
    manifest_sha256: str | None = None
    weights_sha256: str
    initial_weights_sha256: str  # of the weights before the first step
    epoch: int | None = None  # of the lease under which it was written; None where the store can keep no leases
    processes: int = 1  # how many processes trained together
    metrics_sha256: str | None = None  # of the rows up to its step, see `metrics_hash`; None of an earlier version
    threads: int | None = None  # that computed on a CPU; None where a GPU did, or an earlier version wrote this

    @field_validator("files")
    @classmethod
    def _check_names(cls, files: tuple[FileEntry, ...]) -> tuple[FileEntry, ...]:
        for entry in files:
            if entry.path in ("", ".", "..") or len(entry.path.encode()) > 255 or set(entry.path) & {"/", "\0"}:
                raise ValueError(f"no name of a file beside it: {entry.path!r}")
        if len({entry.path for entry in files}) < len(files):
            raise ValueError("a file is listed twice")
        return files

    @property
    def member(self) -> Member:
        """The member whose checkpoint this is."""
        return Member(self.variant, self.seed)

    def file(self, name: str) -> FileEntry:
        """The entry of a file.

        Raises:
            JobError: 46 when the checkpoint has no such file.
        """
        for entry in self.files:
            if entry.path == name:
                return entry
        raise JobError(
            ExitCode.CONFLICT,
            f"The commit of {self.member.adapter_name} at step {self.step} lists no {name}.",
            RESTORE,
        )


class RunId(StoredJson):
    """What `resolved.json` says of which run it is."""

    run_id: str | None = None


class Pointer(StoredJson):
    """A file that names one of a member's checkpoints."""

    step: int
    loss: float | None  # None where the adapter had diverged, and so was not scored
    checkpoint: str  # the checkpoint's folder, below the member's
    sha256: str  # of the checkpoint's file in kohya's format


class BestPointer(Pointer):
    """`best.json`: the checkpoint that is best by validation loss, and why it was chosen."""

    rule: str  # by which the checkpoint is chosen
    reason: str  # why the rule chooses this one


class FinalPointer(Pointer):
    """`final.json`: the last checkpoint of a member whose training has ended."""

    diverged_at: int | None = None  # the step at which the member was frozen; None where it was not


def run_id_of(run: RunFolder) -> str | None:
    """The name by which a run's checkpoints know it; None where an earlier version began it, or none has begun."""
    found = run.read_stored(layout.RESOLVED, RunId)
    return None if found is None else found.run_id


def publish(run: RunFolder, folder: Path, commit: Commit) -> None:
    """Upload the files that a commit lists, which lie in `folder`, and then write the commit.

    Raises:
        JobError: 50 when the store received other bytes than the commit lists.
    """
    root = layout.checkpoint(commit.member, commit.step)
    for entry in commit.files:
        stored = run.upload(folder / entry.path, f"{root}/{entry.path}")
        if stored != Digest(entry.size, entry.sha256):
            raise JobError(
                ExitCode.STORAGE_RETRIES,
                f"{root}/{entry.path} changed while it was uploaded.",
                "Start the job again; it continues from the checkpoint before.",
            )
    run.write_stored(f"{root}/{layout.COMMIT_NAME}", commit)


def committed_steps(run: RunFolder, member: Member) -> tuple[int, ...]:
    """The steps of a member's committed checkpoints, ascending. Folders with other names beside them do not count."""
    folder = layout.all_checkpoints(member)
    return layout.steps_with(layout.COMMIT_NAME, folder, (key for key, _ in run.list(folder)))


def is_there(run: RunFolder, member: Member, pointer: Pointer, run_id: str | None = None) -> bool:
    """Whether the checkpoint that a pointer means is the member's, with files of the sizes that its commit lists.

    The files are not read.

    Args:
        run_id: see `run_id_of`.
    """
    step = pointer.step
    try:
        commit = read_commit(run, member, step, run_id)
        if commit.file(kohya_name(member.variant)).sha256 != pointer.sha256:
            return False
        wanted = {entry.path: entry.size for entry in commit.files}
    except JobError as error:
        if error.code == ExitCode.CONFLICT:
            return False
        raise
    root = layout.checkpoint(member, step)
    sizes = {key.removeprefix(f"{root}/"): info.size for key, info in run.list(root)}
    return wanted.items() <= sizes.items()


def read_commit(run: RunFolder, member: Member, step: int, run_id: str | None = None) -> Commit:
    """The commit of a checkpoint.

    Args:
        run_id: see `run_id_of`.

    Raises:
        JobError: 46 when there is no commit, or the file holds something else, such as another checkpoint's or run's.
    """
    key = f"{layout.checkpoint(member, step)}/{layout.COMMIT_NAME}"
    commit = run.read_stored(key, Commit)
    if commit is None:
        raise JobError(ExitCode.CONFLICT, f"{run.uri(key)} is missing.", RESTORE)
    if problem := belongs_elsewhere(commit, run_id, member, step):
        raise JobError(ExitCode.CONFLICT, f"{run.uri(key)} is the commit of {problem}.", RESTORE)
    return commit


def belongs_elsewhere(commit: Commit, run_id: str | None, member: Member, step: int) -> str | None:
    """Whose commit it is, where it is not that of this run's member at this step; None where it is."""
    if (commit.member, commit.step) != (member, step):
        return f"{commit.member.adapter_name} at step {commit.step}"
    if commit.run_id != run_id:
        return f"another run ({commit.run_id or 'of an earlier version'}, not {run_id or 'of an earlier version'})"
    return None


def fetch_file(run: RunFolder, commit: Commit, name: str, path: Path) -> None:
    """Download one file of a checkpoint to `path`, and check that it is what the commit lists.

    Raises:
        JobError: 50, a DamagedObjectError, when the file has another content; 46 when the commit lists no such file.
    """
    entry = commit.file(name)
    root = layout.checkpoint(commit.member, commit.step)
    run.download(f"{root}/{name}", path, Digest(entry.size, entry.sha256))


def remove(run: RunFolder, member: Member, step: int) -> None:
    """Delete a checkpoint, its commit first, so that a commit never lists files that are gone."""
    root = layout.checkpoint(member, step)
    run.delete(f"{root}/{layout.COMMIT_NAME}")
    for key, _ in list(run.list(root)):
        run.delete(key)
