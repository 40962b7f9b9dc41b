"""The commit protocol: a checkpoint exists when its `COMMIT.json` does. Data first, commit last; removal in reverse."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from job import layout
from job.errors import ExitCode, JobError
from job.storage import Digest
from job.storage.folder import RunFolder
from lora_engine.records import FileEntry

_COMMIT = re.compile(rf"/step-(\d{{6,}})/{re.escape(layout.COMMIT_NAME)}$")  # not a copy that somebody made beside it


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
    found = (_COMMIT.search(key) for key, _ in run.list(prefix))
    return tuple(sorted(int(match[1]) for match in found if match is not None))


def is_there(run: RunFolder, variant: str, seed: int, step: int) -> bool:
    """Whether a checkpoint is committed and its files have the sizes that the commit lists. Reads none of them."""
    try:
        wanted = {entry["path"]: entry["size"] for entry in read_commit(run, variant, seed, step)["files"]}
    except (KeyError, TypeError):
        return False
    except JobError as error:
        if error.code == ExitCode.CONFLICT:
            return False
        raise
    sizes = {key.rpartition("/")[2]: info.size for key, info in run.list(layout.checkpoint(variant, seed, step))}
    return wanted.items() <= sizes.items()


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
