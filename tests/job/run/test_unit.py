"""A unit under way: what its status says at the end, and how long another's is waited for."""

import time
from pathlib import Path

import pytest

from job import layout
from job.errors import ExitCode, JobError
from job.process.stop import StopFlag
from job.run.lease import HeldError, LeaseRecord, LeaseTimes, held
from job.run.status import Status
from job.run.unit import unit_of
from job.storage.folder import RunFolder
from tests.job.small_run import attempt_of

UNIT = "pack-0"


def status(run: RunFolder) -> Status:
    found = run.read_stored(layout.unit_status(UNIT), Status)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("code", "state", "for_good"),
    [
        (ExitCode.PREEMPTED, "preempted", False),
        (ExitCode.ATTEMPT_HOURS, "preempted", False),
        (ExitCode.MAX_HOURS, "preempted", False),
        (ExitCode.STORAGE_RETRIES, "failed", False),
        (ExitCode.DIVERGED, "failed", True),
        (ExitCode.CONFLICT, "failed", True),
    ],
)
def test_the_status_of_a_unit_says_how_it_ended(tmp_path: Path, code: ExitCode, state: str, for_good: bool) -> None:
    attempt, _ = attempt_of(tmp_path)
    with pytest.raises(JobError), unit_of(attempt, UNIT, 0):
        raise JobError(code, "The cause.", "The remedy.")
    found = status(attempt.run)
    assert (found.state, found.exit_code, found.failed_for_good) == (state, code, for_good)
    assert (found.cause, found.remedy) == ("The cause.", "The remedy.")
    with unit_of(attempt, UNIT, 0) as holding:
        assert holding.epoch == 2
    found = status(attempt.run)
    assert (found.state, found.exit_code, found.cause) == ("done", 0, None)


@pytest.mark.parametrize("finished", [True, False])
def test_a_start_that_is_refused_leaves_the_status_of_a_finished_run_alone(tmp_path: Path, *, finished: bool) -> None:
    attempt, _ = attempt_of(tmp_path)
    with unit_of(attempt, UNIT, 0):
        pass
    before = status(attempt.run)
    if finished:
        attempt.run.write(layout.SUCCESS, b"")
    with pytest.raises(JobError), unit_of(attempt, UNIT, 0):
        raise JobError(ExitCode.CONFLICT, "The cause.", "The remedy.")
    assert (status(attempt.run) == before) == finished


def test_a_unit_of_another_process_is_waited_for_so_many_minutes(tmp_path: Path) -> None:
    attempt, shown = attempt_of(tmp_path, "limits.lease_seconds=1")
    with held(attempt.run, UNIT, LeaseTimes(0.4, 0), StopFlag(), lambda _: None):
        began = time.monotonic()
        with pytest.raises(HeldError, match=UNIT), unit_of(attempt, UNIT, 0.025):
            pytest.fail("another process holds it")
        assert 1.5 <= time.monotonic() - began < 15
    assert shown.getvalue().count("waiting for another process") == 1
    assert not attempt.run.exists(layout.unit_status(UNIT))


def test_what_works_on_a_unit_that_another_has_taken_over_may_not_change_it(tmp_path: Path) -> None:
    attempt, _ = attempt_of(tmp_path)
    attempt.run.write("object", b"of the other")
    with unit_of(attempt, UNIT, 0) as holding:
        attempt.run.write_stored(layout.unit_lease(UNIT), LeaseRecord(epoch=2, holder="another", seconds=60))
        with pytest.raises(JobError, match="epoch 2") as caught:
            holding.run.delete("object")
    assert caught.value.code == ExitCode.LEASE_HELD
    assert attempt.run.read("object") == b"of the other"
