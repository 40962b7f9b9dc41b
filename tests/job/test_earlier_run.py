"""Runs of an earlier version: what it began goes on, and what it finished is read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.job.earlier_run.make import HERE, VARIANTS, machine
from tests.lora_job import lora_job


def placed(name: str, folder: Path) -> Path:
    """A run of `earlier_run` where its manifest has it, the manifest and the images beside it."""
    shutil.copy(HERE / "manifest.yaml", folder)
    shutil.copytree(HERE / "images", folder / "images")
    return Path(shutil.copytree(HERE / name, folder / "runs" / "earlier"))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def member(run: Path, variant: str) -> Path:
    return run / "variants" / variant / "seed-1337"


def weights(run: Path) -> dict[str, str]:
    """The hash of every variant's weights at the end."""
    commit = Path("checkpoints") / "step-000004" / "COMMIT.json"
    return {variant: read(member(run, variant) / commit)["weights_sha256"] for variant in VARIANTS}


def final_losses(run: Path) -> dict[str, float]:
    return {variant: read(member(run, variant) / "final.json")["loss"] for variant in VARIANTS}


def test_a_run_that_an_earlier_version_began_ends_as_that_version_would_have_ended_it(tmp_path: Path) -> None:
    run = placed("interrupted", tmp_path)
    half = {variant: member(run, variant) / "checkpoints" / "step-000002" for variant in VARIANTS}
    found = {path: path.read_bytes() for folder in half.values() for path in folder.iterdir()}
    assert not (run / "_SUCCESS").exists()

    done = lora_job("run", "manifest.yaml", "--workdir", tmp_path / "work", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert '"event": "resumed", "pack": 0, "step": 2' in done.stderr
    assert {path: path.read_bytes() for path in found} == found
    assert (run / "_SUCCESS").exists()
    assert final_losses(run) == pytest.approx(final_losses(HERE / "finished"), rel=1e-4)
    if machine() == read(HERE / "machine.json"):
        assert weights(run) == weights(HERE / "finished")


def test_the_report_of_a_run_that_an_earlier_version_finished_can_be_made_anew(tmp_path: Path) -> None:
    run = placed("finished", tmp_path)
    (run / "report" / "comparison.json").unlink()

    done = lora_job("report", "runs/earlier", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    report = read(run / "report" / "comparison.json")
    members = {member["variant"]: member for member in report["members"]}
    assert {name: found["validation"][-1]["loss"] for name, found in members.items()} == final_losses(HERE / "finished")
    own = {name: found["validation"][-1]["caption_sets"][found["caption_set"]] for name, found in members.items()}
    assert {name: found["final_loss"] for name, found in members.items()} == pytest.approx(own, rel=1e-6)
    assert {found["listening"] for found in members.values()} == {None}
    assert any(note.startswith("An earlier version began this run.") for note in report["notes"])
    last = {name: found["checkpoints"][-1]["weights_sha256"] for name, found in members.items()}
    assert last == weights(HERE / "finished")
    assert (run / "report" / "curves.png").exists()


def test_a_run_that_an_earlier_version_finished_is_already_done(tmp_path: Path) -> None:
    run = placed("finished", tmp_path)
    done = lora_job("run", "manifest.yaml", "--workdir", tmp_path / "work", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert weights(run) == weights(HERE / "finished")
