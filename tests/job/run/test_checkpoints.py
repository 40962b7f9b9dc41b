"""A checkpoint exists when its commit does: data first, commit last, and removed the other way round."""

import hashlib
import shutil
from pathlib import Path

import pytest

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.run import checkpoints
from job.run.checkpoints import Commit, Pointer
from job.storage.files import DamagedObjectError
from job.storage.folder import RunFolder
from job.storage.local import LocalStorage
from lora_engine.records import FileEntry
from tests.job.small_run import folder_of

MEMBER = Member("blip", 7)
FILES = {"blip.safetensors": b"for other programs", "state.safetensors": b"to continue from"}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return folder_of(str(tmp_path / "run"))


def commit_of(folder: Path, step: int) -> Commit:
    """A commit of files that are written to `folder`."""
    folder.mkdir(exist_ok=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    entries = tuple(FileEntry(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in FILES.items())
    return Commit(
        variant="blip", seed=7, step=step, files=entries, weights_sha256="w", initial_weights_sha256="i", parent=None
    )


def publish(run: RunFolder, tmp_path: Path, *steps: int) -> None:
    for step in steps:
        checkpoints.publish(run, tmp_path / "scratch", commit_of(tmp_path / "scratch", step))


def is_there(run: RunFolder, step: int, data: bytes = FILES["blip.safetensors"], run_id: str | None = None) -> bool:
    """Whether the checkpoint is there, to which a pointer says that its adapter is this."""
    pointer = Pointer(step=step, loss=None, checkpoint="", sha256=hashlib.sha256(data).hexdigest())
    return checkpoints.is_there(run, MEMBER, pointer, run_id)


def keys(run: RunFolder) -> list[str]:
    return [key for key, _ in run.list()]


def test_what_is_published_is_listed_with_what_its_commit_says(run: RunFolder, tmp_path: Path) -> None:
    publish(run, tmp_path, 100, 2)
    assert checkpoints.committed_steps(run, MEMBER) == (2, 100)
    assert checkpoints.committed_steps(run, Member("blip", 8)) == ()
    assert checkpoints.read_commit(run, MEMBER, 100) == commit_of(tmp_path / "scratch", 100)
    for name, data in FILES.items():
        assert run.read(f"variants/blip/seed-7/checkpoints/step-000100/{name}") == data


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_what_was_written_gets_no_commit(run: RunFolder, tmp_path: Path, name: str) -> None:
    commit = commit_of(tmp_path / "scratch", 2)
    (tmp_path / "scratch" / name).write_bytes(b"changed meanwhile")
    with pytest.raises(JobError, match=rf"step-000002/{name} changed") as caught:
        checkpoints.publish(run, tmp_path / "scratch", commit)
    assert caught.value.code == ExitCode.STORAGE_RETRIES
    assert checkpoints.committed_steps(run, MEMBER) == ()
    assert layout.COMMIT_NAME not in {key.rpartition("/")[2] for key in keys(run)}


class EndsAt(LocalStorage):
    """The process that deletes with it ends at one deletion, before it is done."""

    def __init__(self, deletion: int) -> None:
        self._left = deletion

    def delete(self, uri: str) -> None:
        if self._left == 0:
            raise InterruptedError
        self._left -= 1
        super().delete(uri)


@pytest.mark.parametrize("deletion", range(len(FILES) + 1))
def test_a_removal_that_ends_half_way_leaves_no_commit_without_its_files(
    run: RunFolder, tmp_path: Path, deletion: int
) -> None:
    publish(run, tmp_path, 2, 4)
    with pytest.raises(InterruptedError):
        checkpoints.remove(RunFolder(EndsAt(deletion), run.root), MEMBER, 4)
    for step in checkpoints.committed_steps(run, MEMBER):
        assert is_there(run, step)
    checkpoints.remove(run, MEMBER, 4)
    assert checkpoints.committed_steps(run, MEMBER) == (2,)
    assert {key.split("/")[-2] for key in keys(run)} == {"step-000002"}


def test_a_copy_of_a_folder_is_no_checkpoint(run: RunFolder, tmp_path: Path) -> None:
    publish(run, tmp_path, 2)
    folder = Path(run.uri(layout.checkpoint(MEMBER, 2)))
    for name in ("step-000002 (copy)", "step-000002.bak", "old-step-000002", "step-4", "backup/step-000006"):
        shutil.copytree(folder, folder.parent / name)
    assert checkpoints.committed_steps(run, MEMBER) == (2,)


@pytest.mark.parametrize("damage", ["cut", "lost", "commit"])
def test_whether_a_checkpoint_is_there_is_told_by_its_files(run: RunFolder, tmp_path: Path, damage: str) -> None:
    publish(run, tmp_path, 2)
    assert is_there(run, 2)
    assert not is_there(run, 4)
    root = layout.checkpoint(MEMBER, 2)
    if damage == "cut":
        run.write(f"{root}/state.safetensors", b"to")
    elif damage == "lost":
        run.delete(f"{root}/state.safetensors")
    else:
        run.write(f"{root}/{layout.COMMIT_NAME}", b"{")
    assert not is_there(run, 2)


def test_a_checkpoint_of_another_run_or_adapter_is_not_there(run: RunFolder, tmp_path: Path) -> None:
    publish(run, tmp_path, 2)
    assert not is_there(run, 2, run_id="this run's")
    assert not is_there(run, 2, b"another adapter")
    key = f"{layout.checkpoint(MEMBER, 2)}/{layout.COMMIT_NAME}"
    run.write_json(key, (run.read_json(key) or {}) | {"run_id": "a"})
    assert is_there(run, 2, run_id="a")
    for other in ("b", None):
        with pytest.raises(JobError, match=r"COMMIT\.json is the commit of another run \(a, not ") as caught:
            checkpoints.read_commit(run, MEMBER, 2, other)
        assert caught.value.code == ExitCode.CONFLICT
        assert not is_there(run, 2, run_id=other)


@pytest.mark.parametrize("facts", [{"variant": "other"}, {"seed": 8}, {"step": 4}, {"step": -2}])
def test_the_commit_of_another_checkpoint_is_none_of_this_one(
    run: RunFolder, tmp_path: Path, facts: dict[str, object]
) -> None:
    publish(run, tmp_path, 2)
    key = f"{layout.checkpoint(MEMBER, 2)}/{layout.COMMIT_NAME}"
    run.write_json(key, (run.read_json(key) or {}) | facts)
    with pytest.raises(JobError, match=r"step-000002/COMMIT\.json is the commit of") as caught:
        checkpoints.read_commit(run, MEMBER, 2)
    assert caught.value.code == ExitCode.CONFLICT
    assert not is_there(run, 2)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../state.safetensors", "/etc/passwd", "old/state.safetensors", "a\0", "x" * 256]
)
def test_a_commit_lists_files_beside_it_alone(run: RunFolder, tmp_path: Path, name: str) -> None:
    publish(run, tmp_path, 2)
    key = f"{layout.checkpoint(MEMBER, 2)}/{layout.COMMIT_NAME}"
    listed = {"path": name, "size": 1, "sha256": "0"}
    run.write_json(key, (run.read_json(key) or {}) | {"files": [listed]})
    with pytest.raises(JobError, match="no name of a file beside it") as caught:
        checkpoints.read_commit(run, MEMBER, 2)
    assert caught.value.code == ExitCode.CONFLICT


def test_a_file_is_fetched_only_as_its_commit_has_it(run: RunFolder, tmp_path: Path) -> None:
    publish(run, tmp_path, 2)
    commit = checkpoints.read_commit(run, MEMBER, 2)
    checkpoints.fetch_file(run, commit, "state.safetensors", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == b"to continue from"
    run.write(f"{layout.checkpoint(MEMBER, 2)}/state.safetensors", b"to continue frOm")
    with pytest.raises(DamagedObjectError):
        checkpoints.fetch_file(run, commit, "state.safetensors", tmp_path / "other")
    assert not (tmp_path / "other").exists()
