"""A run that goes on: what an earlier attempt left beyond its last common checkpoint, and what is written when."""

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.job.earlier_run.make import VARIANTS
from tests.job.small_run import arguments
from tests.job.test_earlier_run import member, placed, read
from tests.lora_job import lora_job

ONE_AT_A_TIME = {"images": 1, "members": 1, "recompute": False}
MARK = 123.0


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def unconcluded(folder: Path) -> Path:
    """A finished run as it is before its pack is concluded."""
    run = placed("finished", folder)
    (run / "_SUCCESS").unlink()
    shutil.rmtree(run / "report")
    for variant in VARIANTS:
        (member(run, variant) / "final.json").unlink()
    return run


@pytest.fixture(scope="module")
def continued(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, "CompletedProcess[str]"]:
    """A run, killed when one of two members had its checkpoint of step 4, then continued; and how that ended.

    What the killed attempt wrote of steps after 2 is marked, and its updates were cut up as this machine would not. It
    computed with two threads.
    """
    folder = tmp_path_factory.mktemp("continued")
    run = unconcluded(folder)
    shutil.rmtree(member(run, VARIANTS[0]) / "checkpoints" / "step-000004")
    for variant in VARIANTS:
        for name in ("metrics.jsonl", "validation.jsonl"):
            path = member(run, variant) / name
            marked = [row | {"loss": MARK} if row["step"] > 2 else row for row in rows(path)]
            path.write_text("".join(f"{json.dumps(row)}\n" for row in marked))
    (run / "units/pack-0/passes.json").write_text(json.dumps(ONE_AT_A_TIME))
    commit = member(run, VARIANTS[0]) / "checkpoints" / "step-000002" / "COMMIT.json"
    commit.write_text(json.dumps(read(commit) | {"threads": 2}))
    environ = {"OMP_WAIT_POLICY": "passive"}
    return run, lora_job("run", "manifest.yaml", "--workdir", folder / "work", cwd=folder, env=environ)


def test_what_came_after_the_common_checkpoint_is_trained_and_scored_anew(
    continued: tuple[Path, "CompletedProcess[str]"],
) -> None:
    run, done = continued
    assert done.returncode == 0, done.stderr
    assert '"event": "resumed", "pack": 0, "step": 2' in done.stderr
    for variant in VARIANTS:
        metrics, scores = (rows(member(run, variant) / name) for name in ("metrics.jsonl", "validation.jsonl"))
        assert [row["step"] for row in metrics] == [1, 2, 3, 4]
        assert [row["step"] for row in scores] == [0, 2, 4]
        assert MARK not in {row["loss"] for row in (*metrics, *scores)}


def test_updates_are_cut_up_as_the_first_attempt_decided(continued: tuple[Path, "CompletedProcess[str]"]) -> None:
    """Other micro-batches round otherwise, and the weights would no longer be those of an uninterrupted run."""
    run, done = continued
    assert done.returncode == 0, done.stderr
    assert read(run / "units/pack-0/passes.json") == ONE_AT_A_TIME


def test_other_threads_than_before_are_warned_of_and_kept_with_each_checkpoint(
    continued: tuple[Path, "CompletedProcess[str]"],
) -> None:
    run, done = continued
    assert "pack-0: threads were 2 and are 1 now, so its weights will be those of an uninterrupted run" in done.stderr
    assert "processes at a time were" not in done.stderr
    assert '"event": "threads wait passively"' in done.stderr
    for variant in VARIANTS:
        commit = member(run, variant) / "checkpoints" / "step-000004" / "COMMIT.json"
        assert read(commit)["threads"] == 1


def test_what_says_that_something_is_there_is_written_after_it(
    continued: tuple[Path, "CompletedProcess[str]"],
) -> None:
    """Rows of steps before their checkpoint, then what is called final, the adapters, the report, and success."""
    run, done = continued
    assert done.returncode == 0, done.stderr

    def moments(pattern: str, choose: Callable[[list[int]], int]) -> int:
        return choose([path.stat().st_mtime_ns for path in run.glob(pattern)])

    order = (
        "variants/*/*/metrics.jsonl",
        "variants/*/*/checkpoints/step-000004/COMMIT.json",
        "variants/*/*/final.json",
        "adapters/**/*.safetensors",
        "adapters/index.json",
        "report/comparison.json",
        "report/report.html",
        "_SUCCESS",
    )
    for before, after in pairwise(order):
        assert moments(before, max) <= moments(after, min), (before, after)
    for variant in VARIANTS:
        commit = f"variants/{variant}/*/checkpoints/step-000004/COMMIT.json"
        assert moments(commit.replace("COMMIT.json", "*.safetensors"), max) <= moments(commit, min)


def test_a_run_with_an_adapter_that_diverged_is_reported_and_not_called_a_success(tmp_path: Path) -> None:
    run = placed("finished", tmp_path)
    for path in (run / "_SUCCESS", run / "report" / "comparison.json"):
        path.unlink()
    final = member(run, VARIANTS[0]) / "final.json"
    final.write_text(json.dumps(read(final) | {"loss": None, "diverged_at": 4}))
    done = lora_job("run", "manifest.yaml", "--workdir", tmp_path / "work", cwd=tmp_path)
    assert done.returncode == 45, done.stderr
    assert f"{VARIANTS[0]}, seed 1337 at step 4" in done.stderr.splitlines()[-1]
    diverged = [found["diverged_at"] for found in read(run / "report" / "comparison.json")["members"]]
    assert diverged == [4, None]
    assert not (run / "_SUCCESS").exists()


def test_epochs_are_steps_of_the_images_that_are_trained_on(miniature: Path, tmp_path: Path) -> None:
    command = ["run", *arguments(miniature, tmp_path, "training.steps=null", "training.epochs=1.5")]
    done = lora_job(*command, "--set", "variants.blip.training.steps=2")
    assert done.returncode == 0, done.stderr
    steps = {}
    for variant in ("vanilla", "blip"):
        folder = tmp_path / "runs" / "small" / "variants" / variant / "seed-1337"
        steps[variant] = json.loads((folder / "final.json").read_text())["step"]
    assert steps == {"vanilla": 7, "blip": 2}  # 13.5 images of nine, two an update
    assert lora_job(*command, "--set", "variants.blip.training.steps=2").returncode == 0
