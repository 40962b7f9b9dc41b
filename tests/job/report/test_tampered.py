"""A file of a run that was changed, cut off or taken away: no report, exit 46, and the name of the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from job import layout
from job.errors import ExitCode, JobError
from job.report.publish import publish_report
from tests.job.report.cases import CASES, A, B
from tests.job.report.made_run import Design, MadeRun, hash_captions, make_run
from tests.job.small_run import folder_of
from tests.lora_job import lora_job

MEMBER = layout.Member("a", 1)
FOLDER = layout.member(MEMBER)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeRun:
    return make_run(tmp_path_factory.mktemp("made"), Design([A, B], CASES["lower, however prompted"].losses, (1, 2)))


@pytest.fixture
def folder(made: MadeRun, tmp_path: Path) -> Path:
    """A copy of a run that can be reported."""
    return Path(shutil.copytree(made.folder, tmp_path / "run"))


def report(folder: Path) -> bytes:
    publish_report(folder_of(str(folder)))
    return (folder / layout.COMPARISON).read_bytes()


def assert_refused(folder: Path, *named: str) -> None:
    with pytest.raises(JobError) as caught:
        publish_report(folder_of(str(folder)))
    assert caught.value.code == ExitCode.CONFLICT
    assert [name for name in named if name not in caught.value.cause] == [], caught.value.cause
    assert caught.value.remedy
    assert not (folder / layout.COMPARISON).exists()


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_rows(path: Path, change: Callable[[list[dict[str, Any]]], object]) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def edit_array(path: Path, change: Callable[[dict[str, Any], dict[str, str]], object]) -> None:
    """Change the arrays or the metadata of a file of losses."""
    with safe_open(path, "numpy") as file:
        metadata, arrays = file.metadata(), {name: file.get_tensor(name).copy() for name in file.keys()}  # noqa: SIM118
    change(arrays, metadata)
    save_file(arrays, path, metadata)


def test_the_report_is_rebuilt_byte_for_byte(made: MadeRun, folder: Path) -> None:
    first = report(folder)
    assert report(folder) == first
    elsewhere = folder.with_name("elsewhere")
    shutil.copytree(made.folder, elsewhere)
    done = lora_job("report", elsewhere)
    assert done.returncode == 0, done.stderr
    assert (elsewhere / layout.COMPARISON).read_bytes() == first
    shown = (layout.COMPARISON, layout.ADAPTER_INDEX, layout.PAGE)
    assert done.stdout.splitlines() == [str(elsewhere / key) for key in shown]
    assert done.stderr.strip() == json.loads(first)["verdict"]["sentence"]


def test_the_command_ends_with_46_and_names_the_file(folder: Path) -> None:
    edit(folder / FOLDER / "best.json", loss=0.5)
    done = lora_job("report", folder)
    assert done.returncode == 46
    assert str(folder / FOLDER / "best.json") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("step", [0, 2, 4])
def test_a_loss_that_was_changed(folder: Path, step: int) -> None:
    def change(arrays: dict[str, Any], metadata: dict[str, str]) -> None:
        own = json.loads(metadata["caption_sets"]).index("a")
        arrays["losses"][own, 3, np.flatnonzero(np.isfinite(arrays["losses"][own, 3]))[0]] *= 1.01

    edit_array(folder / FOLDER / "validation" / f"step-00000{step}.safetensors", change)
    assert_refused(folder, "a, seed 1", f"step {step}", "validation.jsonl")


@pytest.mark.parametrize("component", ["b", "", "a shuffled"])
def test_a_loss_under_the_captions_of_others_that_was_changed(folder: Path, component: str) -> None:
    def change(arrays: dict[str, Any], metadata: dict[str, str]) -> None:
        arrays["losses"][json.loads(metadata["caption_sets"]).index(component)] += 0.01

    edit_array(folder / FOLDER / "validation" / "step-000004.safetensors", change)
    assert_refused(folder, "a, seed 1", "step 4", "validation.jsonl")


def test_captions_that_were_not_scored_after_all(folder: Path) -> None:
    """They are taken out of the row, too, so that the two files agree."""

    def change(arrays: dict[str, Any], metadata: dict[str, str]) -> None:
        names = json.loads(metadata["caption_sets"])
        arrays["losses"] = np.delete(arrays["losses"], names.index("b"), axis=0)
        metadata["caption_sets"] = json.dumps([name for name in names if name != "b"])

    edit_array(folder / FOLDER / "validation" / "step-000004.safetensors", change)
    edit_rows(folder / FOLDER / "validation.jsonl", lambda rows: rows[2]["caption_sets"].pop("b"))
    assert_refused(folder, "cannot be compared", "'b' were not scored at step 4")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda _, metadata: metadata.update(step="2"), "that of step 2"),
        (lambda _, metadata: metadata.update(image_ids=json.dumps(["x"] * 12)), "scored on other images"),
        (lambda arrays, _: arrays.pop("timesteps"), "is damaged"),
    ],
)
def test_losses_of_something_else(folder: Path, change: Any, named: str) -> None:
    path = folder / FOLDER / "validation" / "step-000004.safetensors"
    edit_array(path, change)
    assert_refused(folder, str(path), named)


def test_losses_that_are_cut_off_or_gone(folder: Path) -> None:
    path = folder / FOLDER / "validation" / "step-000002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert_refused(folder, str(path), "is damaged")
    path.unlink()
    assert_refused(folder, str(path), "is missing")


@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.update(loss=row["loss"] * 1.001),
        lambda row: row.update(curve_loss=row["curve_loss"] * 1.001),
        lambda row: row.update(timesteps=3),
        lambda row: row["caption_sets"].update(a=0.5),
        lambda row: row["caption_sets"].update(others=0.5),
        lambda row: row["caption_sets"].pop("a"),
    ],
    ids=["loss", "curve_loss", "timesteps", "caption_sets", "more of them", "fewer of them"],
)
def test_a_row_of_the_evaluations_that_was_changed(folder: Path, row: int, change: Any) -> None:
    edit_rows(folder / FOLDER / "validation.jsonl", lambda rows: change(rows[row]))
    assert_refused(folder, "a, seed 1", f"step {2 * row}", "validation.jsonl")


def test_rows_of_evaluations_that_are_gone(folder: Path) -> None:
    path = folder / FOLDER / "validation.jsonl"
    edit_rows(path, lambda rows: rows.pop(0))
    assert_refused(folder, str(path), "no row of step 0")
    path.unlink()
    assert_refused(folder, str(path), "is missing")


@pytest.mark.parametrize("name", ["best.json", "final.json"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_choice_that_was_changed(folder: Path, name: str, seed: int) -> None:
    path = folder / f"variants/a/seed-{seed}" / name
    original = json.loads(path.read_text())
    other = 6 - original["step"]  # of 2 and 4
    curve = {row["step"]: row for row in map(json.loads, (path.parent / "validation.jsonl").read_text().splitlines())}
    changes = {
        "loss": {"loss": original["loss"] * 1.001},
        "step": {"step": other},
        "step and loss": {"step": other, "loss": curve[other]["curve_loss"]},
        "sha256": {"sha256": "0" * 64},
        "checkpoint": {"checkpoint": f"checkpoints/step-00000{other}"},
        "no loss": {"loss": None},
    }
    for what, values in changes.items():
        edit(path, **values)
        print(what)
        assert_refused(folder, str(path))
        edit(path, **original)
    report(folder)


def test_a_choice_that_is_gone(folder: Path) -> None:
    for name in ("best.json", "final.json"):
        path = folder / FOLDER / name
        data = path.read_bytes()
        path.unlink()
        assert_refused(folder, str(path), "is missing")
        path.write_bytes(data)


def test_an_adapter_with_a_loss_has_not_diverged(folder: Path) -> None:
    path = folder / FOLDER / "final.json"
    edit(path, diverged_at=3)
    assert_refused(folder, str(path))


@pytest.mark.parametrize(
    "key",
    [
        layout.RESOLVED,
        layout.ENVIRONMENT,
        layout.IMAGES,
        layout.captions("a"),
        layout.metrics(MEMBER),
        f"{layout.checkpoint(MEMBER, 4)}/{layout.COMMIT_NAME}",
    ],
)
def test_any_other_file_that_is_no_such_file(folder: Path, key: str) -> None:
    (folder / key).write_text("{")
    assert_refused(folder, str(folder / key))


@pytest.mark.parametrize(
    "key", [layout.RESOLVED, layout.ENVIRONMENT, layout.IMAGES, layout.captions("a"), layout.metrics(MEMBER)]
)
def test_any_other_file_that_is_gone(folder: Path, key: str) -> None:
    (folder / key).unlink()
    assert_refused(folder, str(folder / key), "is missing")


def test_checkpoints_that_are_gone(folder: Path) -> None:
    shutil.rmtree(folder / layout.all_checkpoints(MEMBER))
    assert_refused(folder, FOLDER)


def test_images_of_which_none_is_held_out(folder: Path) -> None:
    edit_rows(folder / layout.IMAGES, lambda rows: [row.update(split="train") for row in rows])
    assert_refused(folder, str(folder / layout.IMAGES), "holds out no image")


def test_a_held_out_image_without_a_caption(folder: Path) -> None:
    edit_rows(folder / layout.captions("a"), lambda rows: rows.pop(0))
    hash_captions(folder_of(str(folder)), ["a", "b"])
    assert_refused(folder, str(folder / layout.RESOLVED), "the captions")


@pytest.mark.parametrize("pairs", [[["a", "z"]], [["a", "a"]]])
def test_pairs_of_variants_that_are_not_there(folder: Path, pairs: list[list[str]]) -> None:
    resolved = json.loads((folder / layout.RESOLVED).read_text())
    resolved["manifest"]["evaluation"]["pairs"] = pairs
    (folder / layout.RESOLVED).write_text(json.dumps(resolved))
    assert_refused(folder, str(folder / layout.RESOLVED))


def test_a_variant_that_was_not_trained_with_every_seed(folder: Path) -> None:
    resolved = json.loads((folder / layout.RESOLVED).read_text())
    resolved["packs"][0]["members"].pop()
    (folder / layout.RESOLVED).write_text(json.dumps(resolved))
    assert_refused(folder, str(folder / layout.RESOLVED))


def test_timesteps_that_no_file_has(folder: Path) -> None:
    resolved = json.loads((folder / layout.RESOLVED).read_text())
    resolved["manifest"]["evaluation"] |= {"timesteps": 4, "final_timesteps": 2}
    (folder / layout.RESOLVED).write_text(json.dumps(resolved))
    assert_refused(folder)


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf])
def test_weights_that_are_none_are_damage(folder: Path, value: float) -> None:
    file = folder / FOLDER / "validation" / "step-000000.safetensors"
    edit_array(file, lambda arrays, _: arrays["min_snr"].fill(value))
    assert_refused(folder, str(file))


def test_timesteps_that_no_other_evaluation_has(folder: Path) -> None:
    for file in sorted((folder / FOLDER / "validation").iterdir()):
        before = file.read_bytes()
        edit_array(file, lambda arrays, _: arrays.update(timesteps=arrays["timesteps"] - 5000))
        assert_refused(folder, "timesteps")
        file.write_bytes(before)


def test_captions_of_a_constant_that_vary_are_refused(folder: Path) -> None:
    def vary(rows: list[dict[str, Any]]) -> None:
        for number, row in enumerate(rows):
            row["texts"] = [f"another {number}"]

    for name in ("a", "b"):
        edit_rows(folder / layout.captions(name), vary)
    hash_captions(folder_of(str(folder)), ["a", "b"])
    assert_refused(folder)


def test_a_run_that_was_given_more_steps_is_to_be_finished(folder: Path) -> None:
    final = json.loads((folder / FOLDER / "final.json").read_text())
    rows = [json.loads(line) for line in (folder / FOLDER / "validation.jsonl").read_text().splitlines()]
    earlier = next(row for row in rows if 0 < row["step"] < final["step"])
    commit = json.loads((folder / layout.checkpoint(MEMBER, earlier["step"]) / layout.COMMIT_NAME).read_text())
    sha256 = next(file["sha256"] for file in commit["files"] if file["path"] == "a.safetensors")
    edit(folder / FOLDER / "final.json", step=earlier["step"], loss=earlier["loss"], sha256=sha256)
    with pytest.raises(JobError) as caught:
        publish_report(folder_of(str(folder)))
    assert caught.value.code == ExitCode.CONFLICT
    assert f"is of step {earlier['step']}, and the training went on to {final['step']}" in caught.value.cause
    assert caught.value.remedy == "Run the manifest again to finish it."
