"""An adapter that a user names: a file of its own, or a checkpoint of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from job import layout
from job.errors import ExitCode, JobError, no_run
from job.layout import Member
from job.run import checkpoints
from job.run.checkpoints import RESTORE, BestPointer
from job.run.resolved import Resolved
from job.storage import Storage, is_remote, name_of
from job.storage.files import DamagedObjectError, MissingObjectError, digest_of, local_errors
from job.storage.folder import RunFolder
from job.storage.uris import local_path
from lora_engine.adapters.names import kohya_name

Step = int | Literal["best", "last"]


@dataclass(frozen=True)
class Chosen:
    """A file with an adapter on this machine, and where it is from."""

    path: Path
    name: str  # by which people know the adapter
    origin: dict[str, str | int]  # its file's name and SHA-256, and the run, variant, seed and step that it is of
    base_sha256: str | None = None  # of the base model that the run trained it on; None of a file of its own
    base_has_merged: bool = False  # whether adapters had been merged into that one


def fetch_adapter_file(storage: Storage, uri: str, folder: Path) -> Chosen:
    """An adapter's file, which is downloaded into the folder if it is on no disk of this machine.

    Raises:
        JobError: 42 when there is no such file, 50 when the store fails.
    """
    if is_remote(uri):
        path = folder / name_of(uri)
        digest = storage.download(uri, path)
    else:
        path = local_adapter_file(uri)
        with local_errors(path):
            digest = digest_of(path)
    return Chosen(path, path.stem, {"file": path.name, "sha256": digest.sha256})


def local_adapter_file(uri: str) -> Path:
    """The path of an adapter's file on this machine. Raises JobError 42 when there is none."""
    path = local_path(uri)
    if not path.is_file():
        raise JobError(ExitCode.STORAGE_ACCESS, f"There is no file at {path}.", "Name an adapter's .safetensors file.")
    return path


@dataclass(frozen=True)
class RunAdapter:
    """An adapter of a run, of which checkpoints can be fetched."""

    run: RunFolder
    resolved: Resolved
    member: Member

    @property
    def name(self) -> str:
        """The name by which it is used: with its seed where the run has several."""
        several = len({member.seed for pack in self.resolved.packs for member in pack.members}) > 1
        return layout.adapter_name(self.member, several_seeds=several)

    def fetch(self, step: Step, folder: Path) -> Chosen:
        """A checkpoint's file in kohya's format, which is what its commit says.

        Args:
            step: a number; or `best`, by the run's rule; or `last`, the newest that there is.

        Raises:
            JobError: 46 when there is no such checkpoint, or it is not what its commit says.
        """
        at, file = self._step(step), kohya_name(self.member.variant)
        commit = checkpoints.read_commit(self.run, self.member, at, self.resolved.run_id)
        path = folder / layout.step_name(at) / file
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            checkpoints.fetch_file(self.run, commit, file, path)
        except (DamagedObjectError, MissingObjectError) as error:
            text = (
                f"The checkpoint of {self.member.adapter_name} at step {at} is not as it was committed: {error.cause}"
            )
            raise JobError(ExitCode.CONFLICT, text, RESTORE) from error
        origin: dict[str, str | int] = {"file": file, "sha256": commit.file(file).sha256}
        origin |= {"run": self.resolved.manifest.name, "variant": self.member.variant}
        origin |= {"seed": self.member.seed, "step": at}
        has_merged = bool(self.resolved.manifest.base_model.get("merge"))
        return Chosen(path, self.name, origin, self.resolved.models.base.sha256, has_merged)

    def _step(self, wanted: Step) -> int:
        steps = checkpoints.committed_steps(self.run, self.member)
        if wanted == "best":
            best = self.run.read_stored(layout.best(self.member), BestPointer)
            if best is None:
                raise JobError(
                    ExitCode.CONFLICT,
                    f"{self.member.adapter_name} has no best checkpoint: its training goes on, or none was scored.",
                    f"Name another: the last, or step {_listed(steps)}." if steps else "Wait for one.",
                )
            return best.step
        if not steps or (wanted != "last" and wanted not in steps):
            what = "" if wanted == "last" else f" of step {wanted}"
            raise JobError(
                ExitCode.CONFLICT,
                f"{self.member.adapter_name} has no checkpoint{what}.",
                f"Name one of step {_listed(steps)}." if steps else "Wait for one.",
            )
        return steps[-1] if wanted == "last" else wanted


def _listed(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps[-20:]))


def find_adapter(run: RunFolder, variant: str | None, seed: int | None) -> RunAdapter:
    """The one adapter of a run that is meant.

    Args:
        variant: None for the only one; as `seed`.

    Raises:
        JobError: 42 when there is no run, 2 when several are meant, or none.
    """
    resolved = run.read_stored(layout.RESOLVED, Resolved)
    if resolved is None:
        raise no_run(run.root)
    members = [member for pack in resolved.packs for member in pack.members]
    meant = [each for each in members if variant in (None, each.variant) and seed in (None, each.seed)]
    if len(meant) != 1:
        names = ", ".join(f"{each.variant}/seed-{each.seed}" for each in (meant or members)[:20])
        raise JobError(
            ExitCode.USAGE,
            f"{run.root} has {'several such adapters' if meant else 'no such adapter'}.",
            f"Name the variant and seed of one: {names}.",
        )
    return RunAdapter(run, resolved, meant[0])
