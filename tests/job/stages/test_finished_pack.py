"""When a pack has nothing left to train."""

import hashlib
from pathlib import Path

import pytest

from job import layout
from job.layout import Member
from job.run import checkpoints
from job.run.checkpoints import Commit, FinalPointer
from job.run.context import Attempt
from job.stages.train.pack_run import is_finished
from lora_engine.adapters.names import kohya_name
from lora_engine.records import FileEntry
from tests.job.small_run import attempt_of

STATE = b"the adapter"


def conclude(attempt: Attempt, tmp_path: Path, member: Member, step: int, diverged_at: int | None = None) -> None:
    """Leave what a member that was trained to that step leaves."""
    name = kohya_name(member.variant)
    (tmp_path / name).write_bytes(STATE)
    entry = FileEntry(name, len(STATE), hashlib.sha256(STATE).hexdigest())
    commit = Commit(**vars(member), step=step, files=(entry,), weights_sha256="w", initial_weights_sha256="i")
    checkpoints.publish(attempt.run, tmp_path, commit)
    place = f"checkpoints/{layout.step_name(step)}"
    pointer = FinalPointer(step=step, loss=None, checkpoint=place, sha256=entry.sha256, diverged_at=diverged_at)
    attempt.run.write_stored(layout.final(member), pointer)


@pytest.mark.parametrize(
    ("step", "diverged_at", "finished"), [(10, None, True), (6, None, False), (6, 6, True), (10, 6, True)]
)
def test_a_pack_is_finished_when_all_members_are_at_their_last_step_or_diverged(
    tmp_path: Path, step: int, diverged_at: int | None, finished: bool
) -> None:
    attempt, _ = attempt_of(tmp_path, "seeds=[1, 2]")
    [pack] = attempt.packs
    conclude(attempt, tmp_path, Member("one", 1), 10)
    assert not is_finished(attempt, pack)
    conclude(attempt, tmp_path, Member("one", 2), step, diverged_at)
    assert is_finished(attempt, pack) == finished


def test_a_pack_whose_last_checkpoint_is_lost_is_not_finished(tmp_path: Path) -> None:
    attempt, _ = attempt_of(tmp_path, "seeds=[1]")
    [pack] = attempt.packs
    conclude(attempt, tmp_path, Member("one", 1), 10)
    assert is_finished(attempt, pack)
    attempt.run.delete(f"{layout.checkpoint(Member('one', 1), 10)}/one.safetensors")
    assert not is_finished(attempt, pack)


def test_a_pack_whose_last_checkpoint_is_another_runs_is_not_finished(tmp_path: Path) -> None:
    attempt, _ = attempt_of(tmp_path, "seeds=[1]")
    [pack] = attempt.packs
    conclude(attempt, tmp_path, Member("one", 1), 10)
    assert is_finished(attempt, pack)
    assert not is_finished(attempt, pack, "this run's")
