"""Adapters that differ in nearly every setting train in one pack, and each ends as it would alone."""

import json
import random
import re
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from job.storage.files import digest_of
from tests.http_fault_proxy import HttpFaultProxy
from tests.job.small_run import arguments, folder_of, outcome
from tests.job.test_data_parallel import ends, together
from tests.job.test_kills import Killer
from tests.lora_job import lora_job, start
from tests.s3_server import S3Server

CAPTIONS = "captions: {strategy: existing}"
# Name to settings. `short` ends first, and `free` between two evaluations. AdamW's first steps have the size of the
# rate also where a gradient is hardly more than its rounding, as some of `layers` are: its epsilon is above those.
ROWS = {
    "plain": "lora: {rank: 3}, training: {optimizer: {learning_rate: 0.01, weight_decay: 0.1}}",
    "short": "lora: {rank: 1}, training: {steps: 3, optimizer: {name: lion, learning_rate: 0.001}}",
    "free": "lora: {rank: 8}, training: {steps: 5, optimizer: {name: schedule_free_adamw, learning_rate: 0.01}}",
    "own_rate": "lora: {rank: 2}, training: {optimizer: {name: prodigy}, loss: {name: huber}}",
    "averaged": "lora: {dropout: 0.2}, training: {ema: {decay: 0.9}, weighting: {name: min_snr}, noise: {offset: 0.1}}",
    "few_layers": "lora: {target_modules: [to_v]}, training: {optimizer: {name: sgd, learning_rate: 0.1}, "
    "max_grad_norm: null, timesteps: {from: 200, to: 900}}",
    "layers": "lora: {target_modules: full, conv_rank: 2, patterns: {mid_block: {rank: 6}}}, "
    "training: {optimizer: {epsilon: 0.0001}}",
    "text": "lora: {text_encoder: {rank: 2, learning_rate: 0.001, stop_after: 3}}",
}
STEPS = {"plain": 6, "short": 3, "free": 5, "own_rate": 6, "averaged": 6, "few_layers": 6, "layers": 6, "text": 6}
# As two processes take the images of an update: one here and one there.
LINES = (
    *("captioner=null", "training.steps=6", "training.schedule.name=constant", "training.schedule.warmup_steps=1"),
    *("lora.rank=4", "lora.alpha=4", "training.batch_size=1", "training.gradient_accumulation=2"),
)
BOUNDARIES = (
    *(rf"variants/{name}/.*/step-00000{step}/COMMIT.json" for name in ("short", "free") for step in (2, 3)),
    *("variants/free/.*/step-000005/free.safetensors", "variants/plain/.*/step-000005/COMMIT.json"),
    *("variants/short/.*/validation/step-000003.*", "variants/free/.*/validation.jsonl", "variants/free/.*/final.json"),
    *("variants/averaged/.*/step-000006/COMMIT.json", "variants/short/.*/samples/step-000003/samples.json"),
)


def variants(rows: Mapping[str, str] = ROWS) -> str:
    """The variants as an override gives them. One drops captions and `plain` has others."""
    captions = {"plain": "captions: {strategy: constant, text: a drawing}"}
    captions["few_layers"] = "captions: {strategy: existing, caption_dropout: 0.3}"
    return f"variants=[{', '.join(f'{{name: {n}, {captions.get(n, CAPTIONS)}, {o}}}' for n, o in rows.items())}]"


def rows_of(run: Path, variant: str, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "variants" / variant / "seed-1337" / name).read_text().splitlines()]


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def straight(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("mixed")
    done = lora_job("run", *arguments(miniature, folder, variants(), *LINES), "--workdir", folder / "work")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copied(straight: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(straight / "runs" / "small", tmp_path / "runs" / "small"))


def test_each_ends_at_its_own_last_step_and_is_scored_sampled_and_named_there(straight: Path) -> None:
    run = straight / "runs" / "small"
    (pack,) = read(run / "resolved.json")["packs"]
    assert [member["variant"] for member in pack["members"]] == list(ROWS)
    for name, last in STEPS.items():
        folder = run / "variants" / name / "seed-1337"
        assert [row["step"] for row in rows_of(run, name)] == list(range(1, last + 1))
        assert [row["step"] for row in rows_of(run, name, "validation.jsonl")] == [*range(0, last, 2), last]
        assert rows_of(run, name, "validation.jsonl")[-1]["timesteps"] == 4
        steps = [int(path.parent.name[-6:]) for path in sorted(folder.glob("checkpoints/*/COMMIT.json"))]
        assert steps == [step for step in (2, 3, 4, 5, 6) if step <= last]
        final = read(folder / "final.json")
        assert (final["step"], final["diverged_at"]) == (last, None)
        assert final["loss"] == rows_of(run, name, "validation.jsonl")[-1]["loss"]
        assert (folder / f"samples/step-{last:06d}/samples.json").exists()
    members = read(run / "report" / "comparison.json")["members"]
    assert {member["variant"]: member["steps"] for member in members} == STEPS
    assert {m["variant"]: m["samples"][-1]["step"] for m in members} == STEPS


def test_metrics_have_what_an_optimizer_found_and_the_plain_error_where_the_loss_is_another(straight: Path) -> None:
    run = straight / "runs" / "small"
    keys = {name: rows_of(run, name)[-1].keys() for name in ROWS}
    assert {name for name in ROWS if "d" in keys[name]} == {"own_rate"}
    assert {name for name in ROWS if "squared_error" in keys[name]} == {"own_rate", "averaged"}
    found = [row["d"] for row in rows_of(run, "own_rate")]
    assert found == sorted(found)
    assert found[-1] > found[0] > 0


def test_a_finished_run_is_read_by_every_command(copied: Path, tmp_path: Path) -> None:
    verified = lora_job("verify", copied)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    status = lora_job("status", copied, "--json")
    assert [unit["state"] for unit in json.loads(status.stdout)] == ["done"] * len(json.loads(status.stdout))
    before = (copied / "report" / "comparison.json").read_bytes()
    assert lora_job("report", copied).returncode == 0
    assert (copied / "report" / "comparison.json").read_bytes() == before
    collected = lora_job("collect", copied, tmp_path / "here")
    assert collected.returncode == 0, collected.stderr
    drawn = lora_job("sample", copied, "--best", "--prompt", "a moon", "--steps", "1", cwd=tmp_path)
    assert drawn.returncode == 0, drawn.stderr


@pytest.mark.slow
def test_killed_at_a_boundary_it_ends_as_if_nothing_had_happened(
    miniature: Path, tmp_path: Path, s3_admin: S3Server, straight: Path
) -> None:
    """Before the store has the bytes, then, at another one, after."""
    seed = random.randrange(2**32)
    print("seed", seed)
    boundaries = random.Random(seed).sample(BOUNDARIES, 2)
    bucket = s3_admin.make_bucket()
    killers = Killer(boundaries[:1], bucket), Killer(boundaries[1:], bucket)
    with HttpFaultProxy(s3_admin.port, plan=killers[0], applied=killers[1]) as proxy:
        store = (
            f"output.destination=s3://{bucket}/runs",
            f"storage={{endpoint_url: '{proxy.url}', region: us-east-1, addressing_style: path}}",
        )
        codes = []
        while not codes or codes[-1] == -signal.SIGKILL:
            command = ["run", *arguments(miniature, tmp_path, variants(), *LINES, *store), "--workdir", tmp_path / "w"]
            started = start(*command)
            for killer in killers:
                killer.command = started
            codes.append(started.wait())
    assert codes == [-signal.SIGKILL, -signal.SIGKILL, 0], started.stderr
    expected = outcome(folder_of(str(straight / "runs" / "small")))
    found = outcome(folder_of(f"s3://{bucket}/runs/small", s3_admin.endpoint_url))
    assert {key: found.get(key) for key in expected} == expected


def test_two_processes_equal_one(miniature: Path, tmp_path: Path, straight: Path) -> None:
    passes = ("training.batch_size=2", "training.gradient_accumulation=1", "evaluation.samples=null")
    pair = together("run", *arguments(miniature, tmp_path, variants(), *LINES, *passes), "--workdir", tmp_path / "work")
    assert ends(pair) == [0, 0]
    found = outcome(folder_of(str(tmp_path / "runs" / "small")))
    expected = outcome(folder_of(str(straight / "runs" / "small")))
    expected = {key: value for key, value in expected.items() if key.startswith("variants/") and "/samples/" not in key}
    assert {key: found.get(key) for key in expected} == expected


def test_a_row_whose_loss_is_not_finite_costs_the_others_nothing(
    miniature: Path, tmp_path: Path, straight: Path
) -> None:
    bad = {"bad": "lora: {rank: 16, alpha: 1.0e+15}, training: {optimizer: {learning_rate: 1}, max_skipped_steps: 1}"}
    lines = (variants(bad | ROWS), *LINES, "evaluation.samples=null")
    done = lora_job("run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "work")
    assert done.returncode == 45, done.stderr
    assert "bad, seed 1337 at step" in done.stderr.splitlines()[-1]
    run, other = tmp_path / "runs" / "small", straight / "runs" / "small"
    report = read(run / "report" / "comparison.json")
    assert {m["variant"] for m in report["members"] if m["diverged_at"] is not None} == {"bad"}
    assert [row["loss"] for row in rows_of(run, "bad")][1:] == [None] * 5
    for name, last in STEPS.items():
        assert {row["skipped"] for row in rows_of(run, name)} == {False}
        file = f"variants/{name}/seed-1337/checkpoints/step-{last:06d}/{name}.safetensors"
        weights, expected = load_file(run / file), load_file(other / file)
        assert weights.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(weights[key], value, rtol=1e-3, atol=2e-5, err_msg=f"{name} {key}")
        losses = [[row["loss"] for row in rows_of(each, name)] for each in (run, other)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_one_that_had_diverged_at_its_own_end_has_so_for_the_next_attempt_too(
    miniature: Path, straight: Path, copied: Path, tmp_path: Path
) -> None:
    """Its last checkpoint was stored before its losses were found not to be finite, and the others went on."""
    folder = copied / "variants" / "short" / "seed-1337"
    state, commit = (folder / "checkpoints" / "step-000003" / name for name in ("state.safetensors", "COMMIT.json"))
    tensors = load_file(state)
    tensors[next(key for key in tensors if key.startswith("adapter."))][0, 0] = float("nan")
    save_file(tensors, state)
    found, digest = read(commit), digest_of(state)
    (entry,) = (file for file in found["files"] if file["path"] == state.name)
    entry |= {"size": digest.size, "sha256": digest.sha256}
    commit.write_text(json.dumps(found))
    rows = [json.dumps(row) for row in rows_of(copied, "short", "validation.jsonl") if row["step"] < 3]
    (folder / "validation.jsonl").write_text("".join(f"{row}\n" for row in rows))
    for path in (folder / "best.json", folder / "final.json", copied / "_SUCCESS"):
        path.unlink()
    lines = (variants(), *LINES, f"output.destination={tmp_path / 'runs'}")
    done = lora_job("run", *arguments(miniature, straight, *lines), "--workdir", tmp_path / "work")
    assert done.returncode == 45, done.stderr
    assert "Diverged: short, seed 1337 at step 3." in done.stderr
    assert {name: read(copied / f"variants/{name}/seed-1337/final.json")["diverged_at"] for name in ROWS} == {
        name: 3 if name == "short" else None for name in ROWS
    }


@pytest.mark.parametrize(("variant", "last"), [("plain", 7), ("short", 4)])
def test_steps_of_one_variant_may_grow(
    miniature: Path, straight: Path, copied: Path, tmp_path: Path, variant: str, last: int
) -> None:
    before = outcome(folder_of(str(copied)))
    lines = (variants(), *LINES, f"output.destination={tmp_path / 'runs'}", f"variants.{variant}.training.steps={last}")
    done = lora_job("run", *arguments(miniature, straight, *lines), "--workdir", tmp_path / "work")
    assert done.returncode == 0, done.stderr
    began = re.search(r'"resumed", "pack": 0, "step": (\d)', done.stderr)
    assert began is not None
    assert int(began[1]) == STEPS[variant]
    again = f"what was trained up to step {max(STEPS.values())} is trained again"
    assert (again in done.stderr) == (STEPS[variant] < max(STEPS.values()))
    final = {name: read(copied / f"variants/{name}/seed-1337/final.json") for name in ROWS}
    assert {name: found["step"] for name, found in final.items()} == STEPS | {variant: last}
    after = outcome(folder_of(str(copied)))
    kept = [key for key in before if f"/step-{STEPS[variant]:06d}/" in key and "/checkpoints/" in key]
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    assert lora_job("verify", copied).returncode == 0
