"""Which packs a process trains, which it waits for, and whose failure is its own."""

import math
from pathlib import Path

import pytest

from job import layout
from job.env import Shard
from job.errors import ExitCode, JobError
from job.manifest.packs import Pack
from job.run.lease import HeldError
from job.sharding import distribute_packs
from tests.job.small_run import attempt_of

THREE = ("seeds=[0, 1, 2]", "split_packs_by=[seed]", "limits.lease_wait=7")
FIRST, SECOND = Shard(0, 2), Shard(1, 2)  # packs 0 and 2, and pack 1


class Trainer:
    """Trains packs, but for those that another process is at for the first try and those that end with an error."""

    def __init__(self, held: tuple[int, ...] = (), failing: dict[int, JobError] | None = None) -> None:
        self._held, self._failing = set(held), failing or {}
        self.asked: list[tuple[int, float]] = []

    def __call__(self, pack: Pack, wait_minutes: float) -> None:
        self.asked.append((pack.index, wait_minutes))
        if pack.index in self._held:
            self._held.remove(pack.index)
            raise HeldError(ExitCode.LEASE_HELD, "Held.", "Wait.")
        if pack.index in self._failing:
            raise self._failing[pack.index]


def asked(tmp_path: Path, shard: Shard | None, trainer: Trainer) -> list[tuple[int, float]]:
    attempt, _ = attempt_of(tmp_path, *THREE)
    distribute_packs(attempt, attempt.packs, shard, trainer)
    return trainer.asked


@pytest.mark.parametrize(
    ("shard", "expected"),
    [
        (None, [(0, 0), (1, 0), (2, 0), (1, 7), (2, 7)]),
        (FIRST, [(0, 0), (2, 0), (1, 0), (2, math.inf)]),
        (SECOND, [(1, 0), (0, 0), (2, 0), (1, math.inf)]),
    ],
)
def test_own_packs_are_waited_for_after_the_free_ones_and_foreign_ones_are_not(
    tmp_path: Path, shard: Shard | None, expected: list[tuple[int, float]]
) -> None:
    assert asked(tmp_path, shard, Trainer(held=(1, 2))) == expected


@pytest.mark.parametrize("code", [ExitCode.CONFLICT, ExitCode.STORAGE_RETRIES])
@pytest.mark.parametrize("shard", [None, FIRST])
def test_a_pack_of_its_own_that_fails_is_what_the_process_fails_with(
    tmp_path: Path, shard: Shard | None, code: ExitCode
) -> None:
    trainer = Trainer(failing={0: JobError(code, "Broken.", "Mend it.")})
    with pytest.raises(JobError, match="Broken") as caught:
        asked(tmp_path, shard, trainer)
    assert caught.value.code == code
    assert trainer.asked == [(0, 0)]


def test_a_foreign_pack_that_would_fail_again_is_left_to_its_own_process(tmp_path: Path) -> None:
    broken = JobError(ExitCode.CONFLICT, "Broken.", "Mend it.")
    assert asked(tmp_path, FIRST, Trainer(failing={1: broken})) == [(0, 0), (2, 0), (1, 0)]
    gone = JobError(ExitCode.STORAGE_RETRIES, "The store is gone.", "Start again.")
    with pytest.raises(JobError, match="The store is gone"):
        asked(tmp_path, FIRST, Trainer(failing={1: gone}))


def test_a_limit_of_the_whole_run_is_no_failure_of_a_foreign_pack(tmp_path: Path) -> None:
    attempt, _ = attempt_of(tmp_path, *THREE)
    attempt.stop.limit_run(1, 3600)
    with pytest.raises(JobError) as caught:
        distribute_packs(attempt, attempt.packs, FIRST, Trainer(failing={1: JobError(ExitCode.MAX_HOURS, "Over.", "")}))
    assert caught.value.code == ExitCode.MAX_HOURS


@pytest.mark.parametrize(("code", "tried"), [(ExitCode.CONFLICT, False), (ExitCode.STORAGE_RETRIES, True)])
def test_a_foreign_pack_that_failed_for_good_is_not_tried(tmp_path: Path, code: ExitCode, tried: bool) -> None:
    attempt, shown = attempt_of(tmp_path, *THREE)
    moment = "2026-01-01T00:00:00+00:00"
    row = {"unit": "pack-1", "state": "failed", "exit_code": int(code), "started": moment, "updated": moment}
    attempt.run.write_json(layout.unit_status("pack-1"), row)
    trainer = Trainer()
    distribute_packs(attempt, attempt.packs, FIRST, trainer)
    assert ((1, 0) in trainer.asked) == tried
    assert ("left to its own process" in shown.getvalue()) != tried
