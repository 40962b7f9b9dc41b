"""Adapters that start from files, and base models that LoRAs are merged into, from one run to the next.

The study that comes with the package is run on fewer images, layers and steps, from a file that a small run left.
"""

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.job.small_run import arguments, folder_of, outcome
from tests.job.test_end_to_end import few_drawings
from tests.lora_job import ROOT, lora_job, start, stop_at

ONE = "{name: one, captions: {strategy: existing}, lora: {rank: 4, alpha: 2}}"
TEXT = (
    "{name: text, captions: {strategy: existing}, lora: {rank: 2, alpha: 3, target_modules: kohya, text_encoder: {}}}"
)
PLAIN = ("lora={}", "captioner=null", "evaluation.samples=null", "training.optimizer.learning_rate=0.02")


def rows_of(run: Path, variant: str) -> list[dict[str, Any]]:
    path = run / "variants" / variant / "seed-1337" / "validation.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def report_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "report" / "comparison.json").read_text())
    return found


@pytest.fixture(scope="module")
def folder(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run `first` of which one adapter is plain, and one of kohya's layers and the text encoder."""
    folder = tmp_path_factory.mktemp("continue-from")
    done = ran(miniature, folder, f"variants=[{ONE}, {TEXT}]", name="first")
    assert done == 0
    return folder


@pytest.fixture(scope="module")
def first(folder: Path) -> Path:
    return folder / "runs" / "first"


def ran(miniature: Path, folder: Path, *lines: str, name: str) -> int:
    """Run the small run with these overrides; its exit code."""
    done = lora_job("run", *arguments(miniature, folder, *PLAIN, *lines, name=name), "--workdir", folder / "work")
    assert done.returncode == 0, done.stderr
    return done.returncode


def starting(name: str, file: Path, more: str = "") -> str:
    return f"{{name: {name}, captions: {{strategy: existing}}, lora: {{init_from: {file}{more}}}}}"


@pytest.fixture(scope="module")
def study(miniature: Path, folder: Path, first: Path) -> Path:
    """The study that comes with the package."""
    sets = {
        "base_model.source": miniature / "sd",
        "captioner.source": miniature / "blip",
        "dataset.source": few_drawings(folder / "few"),
        "dataset.validation_min": 6,
        "lora.init_from": first / "adapters" / "one.safetensors",
        "training.steps": 6,
        "training.schedule.warmup_steps": 1,
        "evaluation.every": 3,
        "evaluation.samples": "null",
        "output.destination": folder / "runs",
    }
    options = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
    done = lora_job("run", ROOT / "manifests" / "continue-from.yaml", *options, "--workdir", folder / "work")
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "continue-from"


def test_the_study_that_comes_with_the_package_compares_a_start_with_a_beginning(study: Path, first: Path) -> None:
    report = report_of(study)
    starts = {member["variant"]: member["start"] for member in report["members"]}
    assert starts["anew"] is None
    assert starts["further"]["source"] == str(first / "adapters" / "one.safetensors")
    initial = {member["variant"]: member["fairness"]["initial_weights_sha256"] for member in report["members"]}
    assert initial["further"] == initial["further_slowly"] != initial["anew"]
    assert starts["further"]["curve_loss"] == starts["further_slowly"]["curve_loss"]
    assert report["fair"] == {"1337": True}
    pairs = {(pair["a"], pair["b"]): pair for pair in report["pairs"]}
    assert "lora.init_from" in pairs["anew", "further"]["factor"]
    assert pairs["further", "further_slowly"]["factor"] == ["training.optimizer.learning_rate"]
    assert sum("started from" in note for note in report["notes"]) == 2
    lora = json.loads((study / "resolved.json").read_text())["identity"]["variants"]["further"]["lora"]
    assert (lora["rank"], lora["alpha"], lora["init_from"]) == (4, 2.0, starts["further"]["sha256"])
    page = (study / "report" / "report.html").read_text()
    assert "started from: " in page
    assert lora_job("verify", study).returncode == 0
    assert lora_job("report", study).returncode == 0
    assert report_of(study) == report


def test_a_start_is_scored_as_its_adapter_was_last_and_a_kill_changes_nothing(
    miniature: Path, folder: Path, first: Path
) -> None:
    adapters = first / "adapters"
    one, text = (
        starting("one", adapters / "one.safetensors"),
        starting("text", adapters / "diffusers" / "text.safetensors", ", rank: 2"),
    )
    variants = f"variants=[{one}, {text}]"
    ran(miniature, folder, variants, name="second")
    second = folder / "runs" / "second"
    last = {name: rows_of(first, name)[-1]["curve_loss"] for name in ("one", "text")}
    for member in report_of(second)["members"]:
        assert member["start"]["curve_loss"] == pytest.approx(last[member["variant"]], rel=1e-6), member["variant"]
    seed = random.randrange(2**32)
    print("seed", seed)
    killed = folder / "runs" / "killed" / "variants" / "text" / "seed-1337"
    command = ["run", *arguments(miniature, folder, *PLAIN, variants, name="killed"), "--workdir", folder / "work"]
    place = random.Random(seed).choice(["validation/start.safetensors", "checkpoints/step-000002/COMMIT.json"])
    assert stop_at(killed / place, start(*command), signal.SIGKILL) in (-signal.SIGKILL, 0)
    ran(miniature, folder, variants, name="killed")
    expected = outcome(folder_of(str(second)))
    found = outcome(folder_of(str(folder / "runs" / "killed")))
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.slow
def test_a_merged_base_model_is_the_base_model_with_the_adapter(miniature: Path, folder: Path, first: Path) -> None:
    variants = "variants=[{name: one, captions: {strategy: existing}}]"
    embeddings = folder / "runs" / ".cache" / "embeddings"
    before = {path.name for path in embeddings.iterdir()}
    for name in ("one", "text"):
        file = first / "adapters" / f"{name}.safetensors"
        ran(
            miniature, folder, variants, f"base_model.merge=[{{source: {file}}}]", "training.steps=2", name=f"on-{name}"
        )
        run = folder / "runs" / f"on-{name}"
        last = rows_of(first, name)[-1]
        assert rows_of(run, "one")[0]["loss"] == pytest.approx(last["loss"], rel=1e-5)
        (merged,) = json.loads((run / "resolved.json").read_text())["models"]["merge"]
        assert (merged["source"], merged["strength"]) == (str(file), 1.0)
        added = {path.name for path in embeddings.iterdir()} - before
        assert len(added) == (1 if name == "text" else 0)  # others read texts as the untouched text encoder does
    page = (run / "report" / "report.html").read_text()
    assert "merged into the base: " in page
    assert "pipeline.fuse_lora(lora_scale=1)" in page
    prompts = ("--prompt", "a moon", "--steps", "1", "--best")
    drawn = lora_job("sample", run, *prompts, cwd=folder)
    assert drawn.returncode == 0, drawn.stderr


def test_another_file_is_another_run(miniature: Path, folder: Path, first: Path) -> None:
    given = folder / "given.safetensors"
    given.write_bytes((first / "adapters" / "one.safetensors").read_bytes())
    variants = f"variants=[{starting('one', given)}]"
    ran(miniature, folder, variants, name="third")
    command = ["run", *arguments(miniature, folder, *PLAIN, variants, name="third"), "--workdir", folder / "work"]
    again = lora_job(*command)
    assert "already done" in again.stderr
    tensors = load_file(given)
    save_file({key: tensor * 2 if "lora_up" in key else tensor for key, tensor in tensors.items()}, given)
    (folder / "runs" / "third" / "_SUCCESS").unlink()
    other = lora_job(*command)
    assert other.returncode == 46
    assert "variants.one.lora.init_from (SHA-256 " in other.stderr
    longer = lora_job(*command, "--set", "training.steps=9")
    assert longer.returncode == 46
    assert "lora.init_from" in longer.stderr.splitlines()[-1]
    assert "come from the cache" in longer.stderr.splitlines()[-1]


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["lora.init_from=FOLDER/gone.safetensors"], "lora.init_from: there is nothing at"),
        (["base_model.merge=[{source: FOLDER/gone.safetensors}]"], "base_model.merge[0].source: there is nothing at"),
        (["lora.init_from=FOLDER/other.safetensors"], "other.safetensors holds 'x', which is no low-rank weight"),
        (["lora.init_from=ADAPTERS/one.safetensors", "lora.rank=16"], "lora.rank is 16, but the rank of"),
        (["lora.init_from=ADAPTERS/one.safetensors", "lora.conv_rank=4"], "lora.conv_rank is 4, but there are no"),
        (["lora.init_from=FOLDER/wide.safetensors"], "the base model's is"),
        (["base_model.merge=[{source: FOLDER/wide.safetensors}]"], "the base model's is"),
        (["lora.init_from=FOLDER/a.ckpt"], "a.ckpt is a pickle"),
    ],
)
def test_what_can_be_seen_is_refused_before_a_run(
    miniature: Path, folder: Path, first: Path, lines: list[str], told: str, offline: bool
) -> None:
    save_file({"x": torch.zeros(1)}, folder / "other.safetensors")
    (folder / "a.ckpt").write_bytes(b"\x80\x02")
    tensors = load_file(first / "adapters" / "one.safetensors")
    wide = {key: torch.cat([t, t], dim=1) if "lora_down" in key else t for key, t in tensors.items()}
    save_file(wide, folder / "wide.safetensors")
    sets = [line.replace("FOLDER", str(folder)).replace("ADAPTERS", str(first / "adapters")) for line in lines]
    options = arguments(miniature, folder, *PLAIN, f"variants=[{ONE.split(', lora')[0]}}}]", *sets)
    checked = lora_job("validate", *options, *["--offline"] * offline)
    assert (checked.returncode, told in checked.stderr) == (43, True), checked.stderr


def test_a_plan_says_what_a_run_starts_from(miniature: Path, folder: Path, first: Path) -> None:
    one, text = (first / "adapters" / f"{name}.safetensors" for name in ("one", "text"))
    lines = (f"variants=[{starting('on', one)}, {ONE}]", f"base_model.merge=[{{source: {text}, strength: 0.5}}]")
    planned = lora_job("plan", *arguments(miniature, folder, *PLAIN, *lines))
    assert planned.returncode == 0, planned.stderr
    assert f"merged into base  {text} at 0.5" in planned.stdout
    assert f"starts from       {one}: on;" in planned.stdout
    assert "lora.rank" not in planned.stdout  # of both it is 4
