"""Which checkpoints a pack continues from, which are removed, and which are kept for good."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.run import checkpoints
from job.run.checkpoints import Commit
from job.stages.train.resume import collect_garbage, rewind
from job.storage.folder import RunFolder
from lora_engine.adapters.names import STATE_NAME
from lora_engine.records import FileEntry
from tests.job.small_run import folder_of

ONE, TWO = Member("one", 1), Member("two", 1)
ENDS = {ONE: 10, TWO: 10}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return folder_of(str(tmp_path / "run"))


def no_warning(text: str) -> None:
    raise AssertionError(text)


def commit(run: RunFolder, tmp_path: Path, member: Member, *steps: int, run_id: str | None = None) -> None:
    """Checkpoints whose state is the number of their step."""
    for step in steps:
        path = tmp_path / STATE_NAME
        save_file({"adapter.weight": torch.tensor([float(step)])}, path)
        entry = FileEntry(path.name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        facts = {"files": (entry,), "weights_sha256": f"{step}", "initial_weights_sha256": "0"}
        checkpoints.publish(run, tmp_path, Commit(run_id=run_id, **vars(member), step=step, **facts))


def commit_data(run: RunFolder, member: Member, step: int) -> bytes:
    data = run.read(f"{layout.checkpoint(member, step)}/{layout.COMMIT_NAME}")
    assert data is not None
    return data


def committed(run: RunFolder) -> list[tuple[int, ...]]:
    return [checkpoints.committed_steps(run, member) for member in (ONE, TWO)]


def test_a_pack_continues_from_the_newest_step_of_all_and_later_ones_are_removed(
    run: RunFolder, tmp_path: Path
) -> None:
    commit(run, tmp_path, ONE, 2, 4, 6, 8)
    commit(run, tmp_path, TWO, 2, 4)
    step, states = rewind(run, ENDS, tmp_path, no_warning)
    assert step == 4
    assert {name: state["adapter.weight"].item() for name, state in states.items()} == {
        "one-seed-1": 4,
        "two-seed-1": 4,
    }
    assert committed(run) == [(2, 4), (2, 4)]
    assert not [key for key, _ in run.list() if "step-000006" in key or "step-000008" in key]


def test_a_first_checkpoint_that_only_one_member_has_is_made_anew(run: RunFolder, tmp_path: Path) -> None:
    commit(run, tmp_path, ONE, 2)
    assert rewind(run, ENDS, tmp_path, no_warning) == (0, {})
    assert committed(run) == [(), ()]


def test_where_nothing_was_made_there_is_nothing_to_continue_from(run: RunFolder, tmp_path: Path) -> None:
    assert rewind(run, ENDS, tmp_path, no_warning) == (0, {})


@pytest.mark.parametrize("damage", ["flip", "lost", "commit", "another's commit", "empty commit"])
def test_a_damaged_checkpoint_is_passed_over_and_removed(run: RunFolder, tmp_path: Path, damage: str) -> None:
    for member in (ONE, TWO):
        commit(run, tmp_path, member, 2, 4)
    state = Path(run.uri(f"{layout.checkpoint(TWO, 4)}/{STATE_NAME}"))
    if damage == "flip":
        state.write_bytes(state.read_bytes()[:-1] + b"\x01")
    elif damage == "lost":
        state.unlink()
    elif damage == "commit":
        state.with_name(layout.COMMIT_NAME).write_text("{")
    elif damage == "another's commit":
        run.write(f"{layout.checkpoint(TWO, 4)}/{layout.COMMIT_NAME}", commit_data(run, ONE, 4))
    else:
        record = checkpoints.read_commit(run, TWO, 4).model_copy(update={"files": ()})
        run.write_stored(f"{layout.checkpoint(TWO, 4)}/{layout.COMMIT_NAME}", record)
    warnings: list[str] = []
    step, states = rewind(run, ENDS, tmp_path, warnings.append)
    assert (step, states["two-seed-1"]["adapter.weight"].item()) == (2, 2)
    assert len(warnings) == 1
    assert "two-seed-1 at step 4" in warnings[0]
    assert committed(run) == [(2,), (2,)]


@pytest.mark.parametrize(
    ("own", "foreign"), [("this", "another"), ("this", None), (None, "another")], ids=["both new", "old", "into old"]
)
def test_a_folder_that_was_copied_from_another_run_is_passed_over(
    run: RunFolder, tmp_path: Path, own: str | None, foreign: str | None
) -> None:
    """Its files are whole, of the same variant, seed and step."""
    for member in (ONE, TWO):
        commit(run, tmp_path, member, 2, run_id=own)
    commit(run, tmp_path, ONE, 4, run_id=own)
    commit(run, tmp_path, TWO, 4, run_id=foreign)
    warnings: list[str] = []
    step, _ = rewind(run, ENDS, tmp_path, warnings.append, own)
    assert step == 2
    [warning] = warnings
    assert "two-seed-1 at step 4" in warning
    assert "the commit of another run" in warning
    assert committed(run) == [(2,), (2,)]


def test_where_all_are_damaged_nothing_is_removed_and_nothing_begun_anew(run: RunFolder, tmp_path: Path) -> None:
    for member in (ONE, TWO):
        commit(run, tmp_path, member, 2, 4)
    for step in (2, 4):
        run.write(f"{layout.checkpoint(TWO, step)}/{STATE_NAME}", b"")
    with pytest.raises(JobError, match="are whole") as caught:
        rewind(run, ENDS, tmp_path, lambda _: None)
    assert caught.value.code == ExitCode.CONFLICT
    assert committed(run) == [(2, 4), (2, 4)]


@pytest.mark.parametrize(
    ("keep", "best", "kept"),
    [(2, [4], (4, 8, 10)), (2, [], (8, 10)), (1, [10], (10,)), (3, [2, 8], (2, 6, 8, 10)), (9, [2], (2, 4, 6, 8, 10))],
)
def test_the_newest_and_the_best_are_kept(
    run: RunFolder, tmp_path: Path, keep: int, best: list[int], kept: tuple[int, ...]
) -> None:
    for member in (ONE, TWO):
        commit(run, tmp_path, member, 2, 4, 6, 8, 10)
    collect_garbage(run, ONE, keep, best)
    assert committed(run) == [kept, (2, 4, 6, 8, 10)]
