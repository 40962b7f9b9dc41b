"""The commit protocol: a checkpoint exists when its `COMMIT.json` does. Data first, commit last; removal in reverse."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from job import layout
from job.errors import ExitCode, JobError
from job.storage import Digest
from job.storage.run_folder import RunFolder
from lora_engine.records import FileEntry


def publish(
    run: RunFolder, folder: Path, variant: str, seed: int, step: int, files: Sequence[FileEntry], facts: dict[str, Any]
) -> None:
    """Upload a checkpoint's files, then commit it.

    Raises:
        JobError: 50 when the store received other bytes than were written.
    """
    root = layout.checkpoint(variant, seed, step)
    for entry in files:
        stored = run.upload(folder / entry.path, f"{root}/{entry.path}")
        if stored != Digest(entry.size, entry.sha256):
            raise JobError(
                ExitCode.STORAGE_RETRIES,
                f"{root}/{entry.path} changed while it was uploaded.",
                "Start the job again; it continues from the checkpoint before.",
            )
    commit = {"schema": 1, "variant": variant, "seed": seed, "step": step, "files": [asdict(f) for f in files]}
    run.write_json(f"{root}/{layout.COMMIT_NAME}", commit | facts)


def committed_steps(run: RunFolder, variant: str, seed: int) -> tuple[int, ...]:
    """Steps of an adapter's committed checkpoints, ascending."""
    prefix = f"{layout.member(variant, seed)}/checkpoints"
    names = (key.split("/") for key, _ in run.list(prefix))
    return tuple(sorted(int(parts[-2].removeprefix("step-")) for parts in names if parts[-1] == layout.COMMIT_NAME))


def read_commit(run: RunFolder, variant: str, seed: int, step: int) -> dict[str, Any]:
    """A checkpoint's commit.

    Raises:
        JobError: 46 when there is none.
    """
    key = f"{layout.checkpoint(variant, seed, step)}/{layout.COMMIT_NAME}"
    commit = run.read_json(key)
    if commit is None:
        raise JobError(
            ExitCode.CONFLICT, f"{run.uri(key)} is missing.", "Restore it, or start under another name: --set name=..."
        )
    return commit


def fetch_file(run: RunFolder, commit: dict[str, Any], name: str, path: Path) -> None:
    """Download one file of a checkpoint, checking what the commit says of it."""
    entry = next(file for file in commit["files"] if file["path"] == name)
    root = layout.checkpoint(commit["variant"], commit["seed"], commit["step"])
    run.download(f"{root}/{name}", path, Digest(entry["size"], entry["sha256"]))


def remove(run: RunFolder, variant: str, seed: int, step: int) -> None:
    """Take a checkpoint back: first its commit, so that it is never listed incomplete."""
    root = layout.checkpoint(variant, seed, step)
    run.delete(f"{root}/{layout.COMMIT_NAME}")
    for key, _ in list(run.list(root)):
        run.delete(key)
