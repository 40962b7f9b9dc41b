"""What a run's rows and pointers say of whether its adapters were trained."""

from dataclasses import asdict
from pathlib import Path

import pytest

from job import layout
from job.errors import ExitCode, code_of
from job.layout import Member
from job.run.checkpoints import FinalPointer
from job.run.converged import require_converged
from job.storage.folder import RunFolder
from lora_engine.errors import DivergedError
from lora_engine.records import StepRecord
from tests.job.small_run import folder_of

A, B = Member("a", 1), Member("b", 1)
GOOD, BAD_LOSS, BAD_GRADIENT, OTHERS_FAULT, LARGE = (
    (0.1, 1.0, False),
    (None, None, True),
    (0.1, None, True),
    (0.1, 1.0, True),
    (1e20, None, True),
)
FASTER, NOT_FASTER = "Lower training.optimizer.learning_rate", "lower lora.alpha, or try another device"


def store(run: RunFolder, member: Member, rows: list[tuple[float | None, float | None, bool]], at: int | None) -> None:
    records = [StepRecord(n, loss, 1e-4, norm, 1.0, no, "", "", "") for n, (loss, norm, no) in enumerate(rows, 1)]
    run.write_jsonl(layout.metrics(member), map(asdict, records))
    final = FinalPointer(step=len(rows), loss=None, checkpoint="", sha256="", diverged_at=at)
    run.write_stored(layout.final(member), final)


@pytest.mark.parametrize(
    ("rows_a", "rows_b", "diverged_at", "said"),
    [
        ([BAD_LOSS] * 3, [OTHERS_FAULT] * 3, None, ["Never trained: a, seed 1; b, seed 1. All 3 ", FASTER]),
        ([BAD_GRADIENT] * 3, [OTHERS_FAULT] * 3, None, ["Never trained: a, seed 1; b, seed 1", NOT_FASTER]),
        ([GOOD, BAD_LOSS, BAD_LOSS], [GOOD] * 3, 2, ["Diverged: a, seed 1 at step 2", FASTER]),
        ([GOOD, BAD_GRADIENT, BAD_LOSS], [GOOD] * 3, 2, ["Diverged: a, seed 1 at step 2", NOT_FASTER]),  # frozen at 2
        ([GOOD, LARGE, LARGE], [GOOD] * 3, 3, [FASTER]),
        ([GOOD, GOOD, GOOD], [GOOD] * 3, 3, [FASTER]),  # found by held-out losses
    ],
)
def test_an_adapter_that_was_not_trained_is_no_success_and_the_right_thing_is_blamed(
    tmp_path: Path,
    rows_a: list[tuple[float | None, float | None, bool]],
    rows_b: list[tuple[float | None, float | None, bool]],
    diverged_at: int | None,
    said: list[str],
) -> None:
    run = folder_of(str(tmp_path))
    store(run, A, rows_a, diverged_at)
    store(run, B, rows_b, None)
    with pytest.raises(DivergedError) as caught:
        require_converged(run, [A, B])
    assert code_of(caught.value) == ExitCode.DIVERGED
    assert all(text in str(caught.value) for text in said), caught.value


def test_one_update_is_enough_and_what_has_not_ended_is_not_asked(tmp_path: Path) -> None:
    run = folder_of(str(tmp_path))
    store(run, A, [BAD_GRADIENT, GOOD, BAD_LOSS], None)
    require_converged(run, [A, B])
