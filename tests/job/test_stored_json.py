"""What an attempt finds in a run's JSON: files of other versions, damaged ones, and ones that someone else wrote."""

import json
import re
import shutil
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from job.errors import ExitCode, JobError
from job.layout import Member
from job.run.checkpoints import BestPointer, Commit, FinalPointer
from job.run.dataset import SourceStamp
from job.run.resolved import Resolved
from job.run.samples import SampleIndex
from job.run.status import Status
from job.storage.files import digest_of
from job.storage.folder import RunFolder
from lora_engine.evaluation.line_art import Measures
from lora_engine.records import CaptionRecord, ImageRecord, StepRecord, ValidationRecord
from lora_engine.training.micro_batches import MicroBatches
from tests.job.earlier_run.make import HERE
from tests.job.small_run import folder_of
from tests.job.test_earlier_run import placed
from tests.lora_job import lora_job

SEED = "variants/existing/seed-1337"
OBJECTS: dict[str, Any] = {
    "resolved.json": Resolved,
    "data/source.json": SourceStamp,
    "units/pack-0/status.json": Status,
    "units/pack-0/passes.json": MicroBatches,
    f"{SEED}/best.json": BestPointer,
    f"{SEED}/final.json": FinalPointer,
    f"{SEED}/checkpoints/step-000004/COMMIT.json": Commit,
}
ROWS: dict[str, Any] = {
    "data/images.jsonl": ImageRecord,
    "data/captions/existing.jsonl": CaptionRecord,
    f"{SEED}/metrics.jsonl": StepRecord,
    f"{SEED}/validation.jsonl": ValidationRecord,
}
NO_OBJECTS = ["{}", "[]", "null", "7", '"{}"', "{", "", '{"step": "many"}', "[" * 100_000, '{"a": 1e999}']


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return folder_of(str(tmp_path))


@pytest.mark.parametrize("kind", [*OBJECTS.values(), SampleIndex], ids=lambda kind: kind.__name__)
def test_what_is_no_such_object_is_46_with_the_name_of_the_file(run: RunFolder, kind: type[Any]) -> None:
    for text in (*NO_OBJECTS, "\udcff"):
        run.write("some/file.json", text.encode("utf-8", "surrogateescape"))
        with pytest.raises(JobError, match=r"some/file\.json does not hold") as caught:
            run.read_stored("some/file.json", kind)
        assert caught.value.code == ExitCode.CONFLICT


@pytest.mark.parametrize("kind", ROWS.values(), ids=lambda kind: kind.__name__)
def test_one_wrong_row_is_46_with_the_name_of_the_file(run: RunFolder, kind: type[Any]) -> None:
    for text in NO_OBJECTS:
        if text:  # an empty line is no row
            run.write("some/rows.jsonl", text.encode())
            with pytest.raises(JobError, match=r"some/rows\.jsonl does not hold") as caught:
                run.read_rows("some/rows.jsonl", kind)
            assert caught.value.code == ExitCode.CONFLICT


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("key", [key for key in ROWS if key.endswith(("metrics.jsonl", "validation.jsonl"))])
def test_a_number_that_no_json_can_hold_is_no_row(run: RunFolder, key: str, number: str) -> None:
    row = (HERE / "finished" / key).read_text().splitlines()[0]
    damaged = re.sub(r'"loss": [-.e0-9]+', f'"loss": {number}', row)
    assert damaged != row
    run.write("some/rows.jsonl", damaged.encode())
    with pytest.raises(JobError, match=r"some/rows\.jsonl does not hold .*loss"):
        run.read_rows("some/rows.jsonl", ROWS[key])


@pytest.mark.parametrize(
    ("key", "facts"),
    [
        ("units/pack-0/status.json", {"started": "2026-01-01T00:00:00"}),
        ("units/pack-0/status.json", {"updated": "2026-01-01"}),
        *(("units/pack-0/passes.json", {name: number}) for name in ("images", "members") for number in (0, -1)),
        ("resolved.json", {"packs": []}),
        ("resolved.json", {"packs": [{"index": 0, "members": [], "precision": "fp32"}]}),
        ("resolved.json", {"packs": [{"index": 0, "members": [{"variant": "x", "seed": 1}], "precision": "fp32"}]}),
        ("resolved.json", {"set_of_variant": {}}),
        ("resolved.json", {"started_at": 1e300}),
        ("resolved.json", {"started_at": -1}),
    ],
)
def test_values_that_no_attempt_writes_are_refused(run: RunFolder, key: str, facts: dict[str, Any]) -> None:
    written = folder_of(str(HERE / "finished")).read_json(key)
    assert written is not None
    run.write_json(key, written | facts)
    with pytest.raises(JobError, match="does not hold") as caught:
        run.read_stored(key, OBJECTS[key])
    assert caught.value.code == ExitCode.CONFLICT


@pytest.mark.parametrize("facts", [{"texts": []}, {"tokens": [1, 2]}, {"texts": ["a", "b"]}])
def test_captions_are_told_with_facts_of_each(run: RunFolder, facts: dict[str, Any]) -> None:
    row = {"id": "a", "texts": ["x"], "raw": [None], "tokens": [3], "truncated": [False]}
    run.write_jsonl("rows.jsonl", [row | facts])
    with pytest.raises(JobError, match=r"rows\.jsonl does not hold"):
        run.read_rows("rows.jsonl", CaptionRecord)


def test_what_is_wrong_is_named(run: RunFolder) -> None:
    run.write_json("final.json", {"step": 3, "loss": 0.5, "checkpoint": ["x"]})
    with pytest.raises(JobError, match=r"\(checkpoint: input should be a valid string\)"):
        run.read_stored("final.json", FinalPointer)


@pytest.mark.parametrize("key", OBJECTS)
def test_an_object_of_an_earlier_version_reads_back_as_it_was(key: str) -> None:
    """All that the earlier version wrote is still known, but for the names of defaults that came later."""
    source = folder_of(str(HERE / "finished"))
    value, written = source.read_stored(key, OBJECTS[key]), source.read_json(key)
    dumped = asdict(value) if isinstance(value, MicroBatches) else value.model_dump(mode="json", by_alias=True)
    assert written is not None
    assert known(dumped, written) == written


def known(dumped: Any, written: Any) -> Any:
    """What is left of a value when the names that the written one has not, at any depth, are taken off it."""
    if isinstance(dumped, dict) and isinstance(written, dict):
        return {name: known(value, written[name]) for name, value in dumped.items() if name in written}
    if isinstance(dumped, list) and isinstance(written, list):
        return [known(one, other) for one, other in zip(dumped, written, strict=True)]
    return dumped


@pytest.mark.parametrize("key", ROWS)
def test_rows_of_an_earlier_version_read_back_as_they_were(key: str) -> None:
    source = folder_of(str(HERE / "finished"))
    values, written = source.read_rows(key, ROWS[key]), source.read_rows(key, dict)
    assert values
    assert known(json.loads(json.dumps([asdict(value) for value in values])), written) == written


def test_keys_of_a_later_version_are_ignored(run: RunFolder) -> None:
    written = folder_of(str(HERE / "finished")).read_json(f"{SEED}/final.json")
    assert written is not None
    run.write_json("final.json", written | {"votes": {"won": 3}})
    assert run.read_stored("final.json", FinalPointer) == FinalPointer.model_validate(written)


def test_what_an_earlier_version_did_not_write_has_defaults(run: RunFolder) -> None:
    entry = {"path": "a.safetensors", "size": 1, "sha256": "0"}
    old = {"variant": "a", "seed": 3, "step": 2, "files": [entry], "weights_sha256": "1", "initial_weights_sha256": "2"}
    run.write_json("COMMIT.json", old)
    commit = run.read_stored("COMMIT.json", Commit)
    assert commit is not None
    assert (commit.processes, commit.parent, commit.epoch, commit.member) == (1, None, None, Member("a", 3))
    run.write_json("final.json", {"step": 2, "loss": 0.1, "checkpoint": "c", "sha256": "0"})
    final = run.read_stored("final.json", FinalPointer)
    assert final is not None
    assert final.diverged_at is None


@pytest.mark.parametrize("key", [key for key in (*OBJECTS, *ROWS) if key.startswith(("resolved", "variants"))])
def test_a_report_names_the_file_that_it_cannot_read(tmp_path: Path, key: str) -> None:
    run = placed("finished", tmp_path)
    (run / key).write_text("{}")
    done = lora_job("report", run)
    assert (done.returncode, done.stderr.count("\n")) == (46, 1), done.stderr
    assert f"{run / key} does not hold the JSON that a run writes there" in done.stderr


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("data/images.jsonl", ""),
        ("data/captions/existing.jsonl", ""),
        ("environment.json", '{"cpus": NaN}'),
        ("environment.json", '{"device": "\\ud800"}'),
    ],
)
def test_a_report_names_the_file_that_lacks_what_it_needs(tmp_path: Path, key: str, text: str) -> None:
    run = placed("finished", tmp_path)
    (run / key).write_text(text)
    done = lora_job("report", run)
    assert (done.returncode, done.stderr.count("\n")) == (46, 1), done.stderr
    assert str(run / key) in done.stderr


@pytest.mark.parametrize("timesteps", [0, 7])
def test_a_report_refuses_timesteps_that_the_losses_do_not_have(tmp_path: Path, timesteps: int) -> None:
    run = placed("finished", tmp_path)
    resolved = json.loads((run / "resolved.json").read_text())
    resolved["manifest"]["evaluation"]["timesteps"] = timesteps
    (run / "resolved.json").write_text(json.dumps(resolved))
    done = lora_job("report", run)
    assert (done.returncode, done.stderr.count("\n")) == (46, 1), done.stderr


MEASURES = dict.fromkeys((field.name for field in fields(Measures)), 0.5)
SAMPLES: dict[str, Any] = {
    "settings": {"prompts": ["a", "b"]},
    "images": [{"file": f"{at}.png", "prompt": at, "line_art": MEASURES, "clip_cosines": [0.1, 0.2]} for at in (0, 1)],
}


def test_the_samples_of_a_step_are_read_with_their_prompts(run: RunFolder) -> None:
    run.write_json("samples.json", SAMPLES)
    assert run.read_stored("samples.json", SampleIndex) is not None
    one, other = SAMPLES["images"]
    for images in ([], [one, other | {"prompt": 2}], [one, other | {"clip_cosines": [0.1]}]):
        run.write_json("samples.json", SAMPLES | {"images": images})
        with pytest.raises(JobError, match=r"samples\.json does not hold"):
            run.read_stored("samples.json", SampleIndex)


@pytest.mark.parametrize("text", [None, "", '{"contrast": 1}\n', json.dumps(MEASURES).replace("0.5", "NaN")])
def test_samples_without_measures_to_compare_them_with_are_46(tmp_path: Path, text: str | None) -> None:
    run = placed("finished", tmp_path)
    folder = run / SEED / "samples" / "step-000004"
    folder.mkdir(parents=True)
    (folder / "samples.json").write_text(json.dumps(SAMPLES))
    if text is not None:
        (run / "data" / "line_art.jsonl").write_text(text)
    done = lora_job("report", run)
    assert (done.returncode, done.stderr.count("\n")) == (46, 1), done.stderr
    assert "data/line_art.jsonl" in done.stderr


def test_a_copy_beside_the_samples_of_a_step_is_no_step(tmp_path: Path) -> None:
    run = placed("finished", tmp_path)
    copy = run / SEED / "samples" / "old" / "step-000004"
    copy.mkdir(parents=True)
    (copy / "samples.json").write_text("{}")
    done = lora_job("report", run)
    assert done.returncode == 0, done.stderr


def test_status_names_the_file_that_it_cannot_read(tmp_path: Path) -> None:
    run = placed("finished", tmp_path)
    (run / "units/pack-0/status.json").write_text("{}")
    done = lora_job("status", run)
    assert (done.returncode, done.stderr.count("\n")) == (46, 1), done.stderr
    assert "units/pack-0/status.json" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("text", ["{}", "[]", "{"])
@pytest.mark.parametrize(
    "key",
    [
        *("resolved.json", "data/source.json", "units/prepare/status.json", "units/pack-0/status.json"),
        *("units/pack-0/passes.json", f"{SEED}/metrics.jsonl", f"{SEED}/validation.jsonl"),
        f"{SEED}/checkpoints/step-000002/COMMIT.json",
    ],
)
def test_a_run_that_finds_another_file_there_is_46_and_changes_nothing(tmp_path: Path, key: str, text: str) -> None:
    run = placed("interrupted", tmp_path)
    (run / key).write_text(text)
    weights = {path: path.read_bytes() for path in run.rglob("*.safetensors")}
    done = lora_job("run", "manifest.yaml", "--workdir", tmp_path / "work", cwd=tmp_path)
    assert done.returncode == 46, done.stderr
    assert Path(key).name in done.stderr or "step-000002" in done.stderr or "whole" in done.stderr
    assert {path: path.read_bytes() for path in run.rglob("*.safetensors")} == weights


@pytest.mark.parametrize(
    "text",
    ["{}", *(pytest.param(text, marks=pytest.mark.slow) for text in ("[]", "{", f'{{"epoch": {"9" * 4300}}}'))],
    ids=lambda text: text[:10],
)
def test_a_lease_that_says_nothing_is_taken_over_once_it_is_silent(tmp_path: Path, text: str) -> None:
    run = placed("finished", tmp_path)
    (run / "_SUCCESS").unlink()
    shutil.rmtree(run / "report")
    for lease in run.glob("units/*/lease.json"):
        lease.write_text(text)
    done = lora_job("run", "manifest.yaml", "--workdir", tmp_path / "work", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (run / "_SUCCESS").exists()


def test_a_state_that_is_whole_but_of_other_adapters_is_46(tmp_path: Path) -> None:
    """As a checkpoint that somebody copied from another run is."""
    run = placed("interrupted", tmp_path)
    folder = run / SEED / "checkpoints/step-000002"
    state = load_file(folder / "state.safetensors")
    save_file({key: tensor.flatten()[:1].clone() for key, tensor in state.items()}, folder / "state.safetensors")
    commit = json.loads((folder / "COMMIT.json").read_text())
    digest = digest_of(folder / "state.safetensors")
    for entry in commit["files"]:
        if entry["path"] == "state.safetensors":
            entry |= {"size": digest.size, "sha256": digest.sha256}
    (folder / "COMMIT.json").write_text(json.dumps(commit))
    done = lora_job("run", "manifest.yaml", "--workdir", tmp_path / "work", cwd=tmp_path)
    assert done.returncode == 46, done.stderr
    assert "pack-0 at step 2 are those of other adapters" in done.stderr.splitlines()[-1]
