"""What a person at a terminal sees of a run on its way, and of its status."""

import re
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from job import layout
from tests.job.small_run import arguments, folder_of
from tests.lora_job import COLD, ROOT
from tests.terminal import OnTerminal, screens

STATUS = [sys.executable, "-m", "job", "status"]


def on_terminal(command: list[str | Path], cwd: Path, columns: int = 90, **env: str) -> OnTerminal:
    return OnTerminal(command, cwd, columns, {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | env)


def test_a_run_says_what_it_does_and_how_far_it_is(miniature: Path, tmp_path: Path) -> None:
    command = [COLD, "run", *arguments(miniature, tmp_path, "device=cpu"), "--workdir", tmp_path / "work"]
    run = on_terminal(command, tmp_path)
    assert run.end() == 0, run.written
    shown = screens(run.written)
    rows = [row for screen in shown for row in screen]
    assert max(len(row) for row in rows if "\u2501" in row) == 90  # bars reach to the right edge, and nothing beyond it
    for first, then in (
        ("Loading torch", "Training on the CPU, 1 thread, "),
        ("Training on the CPU, 1 thread, ", "Loading the model libraries"),
        ("Loading the model libraries", "Preparing images"),
    ):
        assert -1 < run.written.find(first) < run.written.find(then), (first, then)
    assert re.search(r"Whole run +━.* [0-9]+% +[0-9 mins]+ left", "\n".join(rows))
    assert re.search(r"Training vanilla, blip +━.* [1-4]/4 steps", "\n".join(rows))
    last = "\n".join(shown[-1])
    assert "━" not in last, "no bar stays behind the answer"
    assert "Preparing images: 12 images in " in last
    assert "Held-out loss at step 4, on the curve's timesteps: vanilla " in last
    for developers_word in ("pack=", "memory of", "micro-batch", "mib", "every caption"):
        assert developers_word not in run.written


def row(unit: str, state: str, age_seconds: float, **more: object) -> dict[str, object]:
    moment = (datetime.now(UTC) - timedelta(seconds=age_seconds)).isoformat()
    return {"unit": unit, "state": state, "updated": moment, "started": moment} | more


@pytest.mark.parametrize("columns", [60, 100])
def test_a_run_that_appears_later_is_followed_in_its_place(tmp_path: Path, columns: int) -> None:
    status = on_terminal([*STATUS, "runs/m", "--follow"], tmp_path, columns)
    status.read_until("There is no run at runs/m yet")
    run = folder_of(str(tmp_path / "runs" / "m"))
    cause = "The disk is full while a checkpoint is written, and nothing that was there before is touched by that."
    run.write_json(layout.unit_status("pack-0"), row("pack-0", "running", 0, seconds=61, run_eta_seconds=3720))
    status.read_until("run: 1 min 01 s of work, 1 h 02 min left")
    failed = row("pack-0", "failed", 0, seconds=62, best_loss=0.25, cause=cause, remedy="Free some.")
    run.write_json(layout.unit_status("pack-0"), failed)
    assert status.end() == 0
    last = screens(status.written)[-1]
    assert sum("┏" in line for line in last) == 1, "the table is drawn over the one before"
    assert "run: 1 min 02 s of work, best loss 0.2500" in last
    below = last[next(at for at, line in enumerate(last) if line.startswith("pack-0: ")) :]
    assert " ".join(" ".join(below).split()) == f"pack-0: {cause} Free some."
    assert len([line for line in below if line]) == -(-len(f"pack-0: {cause} Free some.") // columns)


def test_ctrl_c_ends_waiting_for_a_run(tmp_path: Path) -> None:
    status = on_terminal([*STATUS, "runs/m", "--follow"], tmp_path)
    status.read_until("There is no run at runs/m yet")
    status.process.send_signal(signal.SIGINT)
    assert status.end() == 130
    assert "Traceback" not in status.written
