"""What is decided once for a run stays decided, and when a run is done, prepared, or another one."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from job import layout
from job.errors import ExitCode, JobError
from job.run.context import Attempt
from job.run.dataset import Images, Prepared, SourceStamp, source_fingerprint
from job.run.decisions import is_done, is_prepared, precisions, resolve
from job.run.resolved import Resolved
from lora_engine.errors import ResourceError
from lora_engine.models.files import LocalModel
from lora_engine.records import ImageRecord
from tests.job.small_run import attempt_of

CPU = torch.device("cpu")


def not_needed() -> Prepared:
    raise AssertionError("everything is there")


def images(names: str = "abcd") -> Images:
    def row(name: str) -> ImageRecord:
        return ImageRecord(name, f"{name}.png", 1, group=name, split="validation" if name == "d" else "train")

    return Images(tuple(map(row, names)), not_needed)


def attempt_at(tmp_path: Path, *sets: str) -> Attempt:
    source = tmp_path / "images"
    if not source.exists():
        source.mkdir()
        (source / "a.png").touch()
    return attempt_of(tmp_path, f"dataset.source={source}", *sets)[0]


def model(tmp_path: Path, weights: str = "weights") -> LocalModel:
    path = tmp_path / f"{weights}.safetensors"
    path.write_text(weights)
    return LocalModel(path)


def decide(attempt: Attempt, tmp_path: Path, of: Images | None = None, weights: str = "weights") -> Resolved:
    return resolve(attempt, of or images(), model(tmp_path, weights), {}, None, CPU)


def finish(attempt: Attempt, tmp_path: Path) -> Resolved:
    """As a run of this manifest leaves its folder, without what it trained."""
    resolved = decide(attempt, tmp_path)
    stamp = SourceStamp(fingerprint=source_fingerprint(attempt), pixels="", preprocess={}, split={})
    attempt.run.write_stored(layout.SOURCE, stamp)
    moment = "2026-01-01T00:00:00+00:00"
    row = {"unit": "prepare", "state": "done", "started": moment, "updated": moment}
    attempt.run.write_json(layout.unit_status("prepare"), row)
    attempt.run.write(layout.SUCCESS, b"")
    return resolved


def test_a_second_attempt_decides_the_same_and_writes_nothing(tmp_path: Path) -> None:
    attempt = attempt_at(tmp_path)
    first = finish(attempt, tmp_path)
    before = {key: attempt.run.read(key) for key, _ in attempt.run.list()}
    assert abs(first.started_at - time.time()) < 60
    assert decide(attempt_at(tmp_path), tmp_path) == first
    assert {key: attempt.run.read(key) for key, _ in attempt.run.list()} == before


def test_a_finished_run_is_done_on_any_device(tmp_path: Path) -> None:
    finish(attempt_at(tmp_path), tmp_path)
    assert is_done(attempt_at(tmp_path, "device=cpu"))
    assert is_done(attempt_at(tmp_path, "device=cuda"))


def test_a_finished_run_with_another_question_is_the_same_run_with_more_to_do(tmp_path: Path) -> None:
    first = finish(attempt_at(tmp_path), tmp_path)
    asked = attempt_at(tmp_path, "evaluation.rating.question=Which is inkier?")
    assert not is_done(asked)
    second = decide(asked, tmp_path)
    assert second.manifest.evaluation.rating.question == "Which is inkier?"
    assert (second.identity, second.run_id) == (first.identity, first.run_id)
    asked.run.write(layout.SUCCESS, b"")
    assert is_done(asked)


@pytest.mark.parametrize("left", [layout.SUCCESS, f"{layout.checkpoint(layout.Member('one', 1337), 4)}/COMMIT.json"])
def test_a_run_whose_decisions_are_lost_gets_no_new_ones(tmp_path: Path, left: str) -> None:
    finish(attempt_at(tmp_path), tmp_path)
    attempt = attempt_at(tmp_path)
    for key in (layout.RESOLVED, layout.SUCCESS):
        attempt.run.delete(key)
    assert not is_done(attempt)
    attempt.run.write(left, b"")
    before = {key: attempt.run.read(key) for key, _ in attempt.run.list()}
    with pytest.raises(JobError, match=r"resolved\.json is missing, though the run has begun") as caught:
        is_done(attempt)
    assert caught.value.code == ExitCode.CONFLICT
    assert {key: attempt.run.read(key) for key, _ in attempt.run.list()} == before


def test_a_run_goes_on_in_its_precision_or_not_at_all(tmp_path: Path) -> None:
    attempt = attempt_at(tmp_path, "device=cpu")
    decide(attempt, tmp_path)
    stored = attempt.run.read_json(layout.RESOLVED)
    assert stored is not None
    assert precisions(attempt, CPU) == (stored["packs"][0]["precision"],)
    stored["packs"][0]["precision"] = "fp16"
    attempt.run.write_json(layout.RESOLVED, stored)
    with pytest.raises(ResourceError, match="fp16, which needs a GPU"):
        precisions(attempt, CPU)


def test_a_precision_that_was_decided_on_another_machine_stays(tmp_path: Path) -> None:
    attempt = attempt_at(tmp_path)
    decide(attempt, tmp_path)
    stored = attempt.run.read_json(layout.RESOLVED)
    assert stored is not None
    other = "fp32" if stored["packs"][0]["precision"] == "bf16" else "bf16"
    stored["packs"][0]["precision"] = other
    attempt.run.write_json(layout.RESOLVED, stored)
    again = decide(attempt_at(tmp_path), tmp_path)
    assert again.precision(attempt.packs[0]) == other


def test_a_finished_run_is_done_until_it_is_to_have_more_steps(tmp_path: Path) -> None:
    attempt = attempt_at(tmp_path)
    assert not is_done(attempt)
    finish(attempt, tmp_path)
    assert is_done(attempt_at(tmp_path))
    attempt.run.delete(layout.SUCCESS)
    assert not is_done(attempt)
    attempt.run.write(layout.SUCCESS, b"")
    assert not is_done(attempt_at(tmp_path, "training.steps=20"))
    with pytest.raises(JobError, match=r"variants\.one\.training\.steps \(10 -> 5\)") as caught:
        is_done(attempt_at(tmp_path, "training.steps=5"))
    assert caught.value.code == ExitCode.CONFLICT
    assert "only where training.schedule.name is constant" in caught.value.remedy


def test_a_refusal_shows_what_was_and_what_is_and_both_ways_to_go_on(tmp_path: Path) -> None:
    finish(attempt_at(tmp_path), tmp_path)
    changes = ("lora.rank=4", "training.optimizer.learning_rate=0.5", "seeds=[1, 2]")
    with pytest.raises(JobError, match="other values of ") as caught:
        is_done(attempt_at(tmp_path, *changes))
    assert "variants.one.lora.rank (8 -> 4)" in caught.value.cause
    assert "variants.one.training.optimizer.learning_rate (0.0001 -> 0.5)" in caught.value.cause
    assert "seeds ([1337] -> [1, 2])" in caught.value.cause
    assert caught.value.remedy.startswith("Restore what it was ")
    assert "--set name=" in caught.value.remedy
    assert "constant" not in caught.value.remedy
    several = ("{name: two, captions: {strategy: existing}}", "{name: one, captions: {strategy: existing}}")
    with pytest.raises(JobError, match=r"variants\.two \(not in the run\)"):
        is_done(attempt_at(tmp_path, f"variants=[{', '.join(several)}]"))


def test_a_run_that_is_to_have_more_steps_is_not_finished_until_it_has_them(tmp_path: Path) -> None:
    finish(attempt_at(tmp_path), tmp_path)
    more = attempt_at(tmp_path, "training.steps=20")
    decide(more, tmp_path)
    assert not more.run.exists(layout.SUCCESS)
    assert not is_done(more)


@pytest.mark.parametrize(
    ("changed", "named"), [({"of": images("abce")}, "data"), ({"weights": "other weights"}, "base_model")]
)
def test_other_bytes_under_the_same_name_are_refused_and_nothing_is_written(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    attempt = attempt_at(tmp_path)
    finish(attempt, tmp_path)
    before = {key: attempt.run.read(key) for key, _ in attempt.run.list()}
    hashes = r"\(SHA-256 \w{12}\.\.\. -> SHA-256 \w{12}\.\.\.\)"
    with pytest.raises(JobError, match=rf"other values of {named} {hashes}\.") as caught:
        decide(attempt_at(tmp_path), tmp_path, **changed)
    assert caught.value.code == ExitCode.CONFLICT
    assert {key: attempt.run.read(key) for key, _ in attempt.run.list()} == before


def test_a_file_that_is_added_to_the_dataset_is_looked_at(tmp_path: Path) -> None:
    attempt = attempt_at(tmp_path)
    finish(attempt, tmp_path)
    before = source_fingerprint(attempt)
    assert is_prepared(attempt_at(tmp_path), before)
    assert not is_prepared(attempt_at(tmp_path, "limits.max_hours=3"), before)
    (tmp_path / "images" / "b.png").touch()
    after = source_fingerprint(attempt)
    assert after != before
    assert not is_done(attempt_at(tmp_path))
    assert not is_prepared(attempt_at(tmp_path), after)
