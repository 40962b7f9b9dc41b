"""Signals, second writers, damage and divergence, through the command."""

import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from job import layout
from job.run.success import write_success
from job.storage.files import digest_of
from tests.http_fault_proxy import HttpFaultProxy, Request, matching
from tests.job.small_run import arguments, drawings, folder_of, outcome
from tests.lora_engine.images.hostile import hostile_files
from tests.lora_job import lora_job, start
from tests.rclone_server import RcloneServer
from tests.s3_server import Keys, S3Server

STAGES = ("preprocess", "caption", "latents", "embeddings", "measure", "train", "evaluate", "sample")


@pytest.fixture(scope="module")
def finished(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the drawings and an uninterrupted run of them."""
    folder = tmp_path_factory.mktemp("straight")
    done = lora_job("run", *arguments(miniature, folder), "--workdir", folder / "work")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def straight(finished: Path) -> dict[str, Any]:
    """The outcome of an uninterrupted run."""
    return outcome(folder_of(str(finished / "runs" / "small")))


def assert_as_straight(folder: Path, straight: dict[str, Any]) -> None:
    found = outcome(folder_of(str(folder / "runs" / "small")))
    assert {key: found.get(key) for key in straight} == straight


@pytest.mark.parametrize("stages", [3, pytest.param(len(STAGES), marks=pytest.mark.slow)])
def test_a_signal_in_any_stage_saves_once_and_the_next_start_goes_on(
    miniature: Path, tmp_path: Path, straight: dict[str, Any], stages: int
) -> None:
    """In so many of them, other ones each time."""
    seed = random.randrange(2**32)
    print("seed", seed)
    some = sorted(random.Random(seed).sample(range(len(STAGES)), stages))
    command = ["run", *arguments(miniature, tmp_path)]
    for at, stage in ((at, STAGES[at]) for at in some):
        started = start(*command, "--workdir", tmp_path / f"machine-{at}")
        assert started.wait_until_it_says(f'"stage started", "stage": "{stage}"'), f"{stage}: {started.stderr}"
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            started.send_signal(number)
            time.sleep(0.02)
        assert started.wait() == 51, started.stderr
        # Of signals that wait for a busy process, the system delivers the one with the lowest number first.
        assert any(f"Stopped by {name};" in started.stderr.splitlines()[-1] for name in ("SIGTERM", "SIGINT", "SIGHUP"))
        assert "Traceback" not in started.stderr
    done = lora_job(*command, "--workdir", tmp_path / "last")
    assert done.returncode == 0, done.stderr
    assert_as_straight(tmp_path, straight)


def test_a_checkpoint_on_its_way_holds_nothing_up_and_the_end_waits_for_it(
    miniature: Path, tmp_path: Path, straight: dict[str, Any], s3_admin: S3Server
) -> None:
    """The store is given a file of the first checkpoint only once it has seen that checkpoint's evaluation."""
    first, evaluation = (
        matching("PUT", f".*/{name}") for name in ("step-000002/vanilla.safetensors", "validation.jsonl")
    )
    seen, evaluated, waited = [], threading.Event(), []

    def arrived(request: Request) -> None:
        seen.append(request.path)
        if evaluation(request) and any(path.endswith("/validation/step-000002.safetensors") for path in seen):
            evaluated.set()
        if first(request):
            waited.append(evaluated.wait(60))

    bucket = s3_admin.make_bucket()
    with HttpFaultProxy(s3_admin.port, arrived=arrived) as proxy:
        lines = (
            f"output.destination=s3://{bucket}/runs",
            f"storage={{endpoint_url: '{proxy.url}', region: us-east-1, addressing_style: path}}",
        )
        done = lora_job("run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "work")
    assert done.returncode == 0, done.stderr
    assert waited == [True]
    found = outcome(folder_of(f"s3://{bucket}/runs/small", s3_admin.endpoint_url))
    assert {key: found.get(key) for key in straight} == straight


@pytest.mark.slow
def test_an_evaluation_goes_on_where_it_was_stopped(miniature: Path, tmp_path: Path, straight: dict[str, Any]) -> None:
    """What was scored before the stop is marked, and the mark is found in the end.

    It is the base model's evaluation, which does not keep the first updates waiting.
    """
    command = ["run", *arguments(miniature, tmp_path, "evaluation.batch_size=1"), "--workdir", tmp_path / "work"]
    started = start(*command)
    assert started.wait_until_it_says('"stage started", "stage": "evaluate"')
    started.send_signal(signal.SIGTERM)
    assert started.wait() == 51
    rows = (tmp_path / "runs/small" / layout.metrics(layout.Member("blip", 1337))).read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2]
    begun = tmp_path / "runs/small/units/pack-0/evaluation.safetensors"
    with safe_open(begun, "pt") as file:
        facts, losses, done = file.metadata(), file.get_tensor("losses"), int(file.get_tensor("done"))
    assert 0 < done < losses.numel()
    losses[:done] = 123.0  # of one model, pass after pass: captions, images, timesteps
    save_file({"losses": losses, "done": torch.tensor(done)}, begun, facts)
    again = lora_job(*command)
    assert again.returncode == 0, again.stderr
    assert not begun.exists()
    for key in (key for key in straight if key.endswith("step-000000.safetensors")):
        found = load_file(tmp_path / "runs" / "small" / key)["losses"]
        expected = torch.frombuffer(bytearray(straight[key]["losses"]), dtype=torch.float32).view_as(found)
        marked = found == 123.0
        assert marked.sum() == done
        torch.testing.assert_close(found[~marked], expected[~marked], equal_nan=True)


def test_two_starts_of_one_run_end_as_one(miniature: Path, tmp_path: Path, straight: dict[str, Any]) -> None:
    command = ["run", *arguments(miniature, tmp_path)]
    both = [start(*command, "--workdir", tmp_path / f"machine-{at}") for at in range(2)]
    assert [started.wait() for started in both] == [0, 0], [started.stderr for started in both]
    assert any("waiting for another process" in started.stderr for started in both)
    assert_as_straight(tmp_path, straight)


def test_a_second_writer_is_refused_and_a_frozen_one_that_wakes_writes_nothing(
    miniature: Path, tmp_path: Path, straight: dict[str, Any]
) -> None:
    run = tmp_path / "runs" / "small"
    lines = ("limits={lease_seconds: 2, lease_wait: 0.01}", "training.steps=4")
    command = ["run", *arguments(miniature, tmp_path, *lines)]
    first = start(*command, "--workdir", tmp_path / "first")
    assert first.wait_until_it_says('"stage started", "stage": "train"')
    first.send_signal(signal.SIGSTOP)
    while [*run.rglob("*.part-*")]:  # in a folder a process that is frozen within a write keeps others out of the file
        first.send_signal(signal.SIGCONT)
        time.sleep(0.01)
        first.send_signal(signal.SIGSTOP)
    second = lora_job(*command, "--workdir", tmp_path / "second")
    assert second.returncode == 0, second.stderr
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    first.send_signal(signal.SIGCONT)
    assert first.wait() == 52, first.stderr
    assert "pack-0" in first.stderr.splitlines()[-1]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert_as_straight(tmp_path, straight)
    epochs = {json.loads(path.read_text())["epoch"] for path in run.rglob("COMMIT.json")}
    assert epochs <= {1, 2}
    assert 2 in epochs


def test_a_live_writer_is_waited_for_and_then_left_alone(miniature: Path, tmp_path: Path) -> None:
    lines = ("limits={lease_seconds: 1, lease_wait: 0}", "training.steps=200", "evaluation.every=200")
    command = ["run", *arguments(miniature, tmp_path, *lines)]
    first = start(*command, "--workdir", tmp_path / "first")
    assert first.wait_until_it_says('"stage started", "stage": "train"')
    second = lora_job(*command, "--workdir", tmp_path / "second")
    assert second.returncode == 52, second.stderr
    assert "limits.lease_wait" in second.stderr
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 51


METRICS = "variants/blip/seed-1337/metrics.jsonl"


def unconcluded(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, as it is before its last pack is concluded."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "runs" / "small"
    for path in [run / "_SUCCESS", *run.glob("variants/*/*/final.json")]:
        path.unlink()
    return run


def unreported(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, as it is before it is reported as a whole."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    run = tmp_path / "runs" / "small"
    (run / "_SUCCESS").unlink()
    return run


def contents(run: Path) -> dict[str, bytes]:
    """The files about images and training by their keys; they do not tell who made them, when and from which source."""
    paths = [path for folder in ("data", "variants") for path in (run / folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths if path.name != "source.json"}


@pytest.mark.parametrize(
    "damage", ["lost", *(pytest.param(damage, marks=pytest.mark.slow) for damage in ("cut", "commit"))]
)
def test_a_last_checkpoint_that_is_gone_is_trained_again(
    miniature: Path, tmp_path: Path, finished: Path, straight: dict[str, Any], damage: str
) -> None:
    checkpoint = unreported(finished, tmp_path) / "variants/blip/seed-1337/checkpoints/step-000004"
    if damage == "cut":
        (checkpoint / "blip.safetensors").write_bytes(b"")
    elif damage == "commit":
        (checkpoint / "COMMIT.json").write_text("{")
    else:
        shutil.rmtree(checkpoint)
    folders = tmp_path / "runs" / "small" / "variants", tmp_path / "runs" / ".cache"
    left = [folder / f"that-a-killed-process-left.part-{'0a' * 8}" for folder in folders]
    for path in left:
        path.touch()
        os.utime(path, (0, 0))
    again = lora_job("run", *arguments(miniature, tmp_path), "--workdir", tmp_path / "elsewhere")
    assert again.returncode == 0, again.stderr
    assert not any(path.exists() for path in left)
    assert_as_straight(tmp_path, straight)


def test_a_run_that_is_called_finished_and_lacks_its_checkpoint_is_not_done(
    miniature: Path, tmp_path: Path, finished: Path
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    run, command = tmp_path / "runs" / "small", ["run", *arguments(miniature, tmp_path), "--workdir", tmp_path / "w"]
    done = lora_job(*command)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(run / "variants/blip/seed-1337/checkpoints")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    lacks = lora_job(*command)
    assert lacks.returncode == 46, lacks.stderr
    assert "variants/blip/seed-1337/checkpoints/step-00000" in lacks.stderr.splitlines()[-1]
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("key", "was", "named"),
    [
        (METRICS, '"skipped": false', "metrics.jsonl was changed since the checkpoint of step 4"),
        ("data/captions/vanilla.jsonl", "a drawing", "captions/vanilla.jsonl was altered"),
    ],
)
def test_rows_that_were_edited_between_two_attempts_are_named(
    miniature: Path, tmp_path: Path, finished: Path, key: str, was: str, named: str
) -> None:
    run = unconcluded(finished, tmp_path)
    path = run / key
    assert was in path.read_text()
    path.write_text(path.read_text().replace(was, was.replace("false", "true").replace("drawing", "painting"), 1))
    before = contents(run)
    again = lora_job("run", *arguments(miniature, tmp_path), "--workdir", tmp_path / "elsewhere")
    assert again.returncode == 46, again.stderr
    assert named in again.stderr.splitlines()[-1]
    assert contents(run) == before


@pytest.mark.parametrize(
    ("lost", "named"),
    [("variants/blip", "checkpoints of all of"), (METRICS, "metrics.jsonl")],
)
def test_what_cannot_be_trained_again_is_not_begun_anew(
    miniature: Path, tmp_path: Path, finished: Path, lost: str, named: str
) -> None:
    run = unconcluded(finished, tmp_path)
    if (run / lost).is_dir():
        shutil.rmtree(run / lost)
    else:
        (run / lost).unlink()
    before = contents(run)
    again = lora_job("run", *arguments(miniature, tmp_path), "--workdir", tmp_path / "elsewhere")
    assert again.returncode == 46, again.stderr
    assert named in again.stderr.splitlines()[-1]
    assert contents(run) == before


def test_damage_that_a_report_meets_is_named(tmp_path: Path, finished: Path) -> None:
    run = unreported(finished, tmp_path)
    checkpoints = run / "variants/blip/seed-1337/checkpoints"
    shutil.copytree(checkpoints / "step-000004", checkpoints / "step-000004 (copy)")
    done = lora_job("report", run)
    assert done.returncode == 0, done.stderr
    losses = run / "variants/blip/seed-1337/validation/step-000004.safetensors"
    for data in (losses.read_bytes()[:-1], b"", b"\xff" * 100):
        losses.write_bytes(data)
        refused = lora_job("report", run)
        assert refused.returncode == 46, refused.stderr
        assert "step-000004.safetensors is damaged" in refused.stderr


@pytest.mark.parametrize("is_done", [pytest.param(True, marks=pytest.mark.slow), False])
def test_other_images_or_models_are_another_run(
    miniature: Path, tmp_path: Path, finished: Path, straight: dict[str, Any], *, is_done: bool
) -> None:
    run = unreported(finished, tmp_path)
    if is_done:
        write_success(folder_of(str(run)))
    before = contents(run)
    drawings, model = tmp_path / "other-drawings", tmp_path / "other-model"
    shutil.copytree(tmp_path / "drawings", drawings)
    shutil.copytree(miniature / "sd", model)
    picture, *others = sorted(drawings.glob("*.png"))
    shutil.copy(others[0], picture)
    weights = load_file(model / "unet/diffusion_pytorch_model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, model / "unet/diffusion_pytorch_model.safetensors", {"format": "pt"})
    for line in (f"dataset.source={drawings}", f"base_model.source={model}"):
        other = lora_job("run", *arguments(miniature, tmp_path, line), "--workdir", tmp_path / "elsewhere")
        assert other.returncode == 46, other.stderr
        assert "--set name=" in other.stderr.splitlines()[-1]
        assert contents(run) == before
    shutil.copytree(tmp_path / "drawings", tmp_path / "moved")
    moved = arguments(miniature, tmp_path, f"dataset.source={tmp_path / 'moved'}")
    same = lora_job("run", *moved, "--workdir", tmp_path / "elsewhere")
    assert same.returncode == 0, same.stderr
    assert_as_straight(tmp_path, straight)


def flipped(data: bytes) -> bytes:
    """The data with one bit changed, in the middle."""
    result = bytearray(data)
    result[len(data) // 2] ^= 1
    return bytes(result)


@pytest.mark.parametrize(
    "damage", ["flip", "commit", *(pytest.param(damage, marks=pytest.mark.slow) for damage in ("cut", "lost"))]
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    miniature: Path, tmp_path: Path, finished: Path, straight: dict[str, Any], damage: str
) -> None:
    run = unconcluded(finished, tmp_path)
    checkpoint = run / "variants/blip/seed-1337/checkpoints/step-000004"
    state = checkpoint / "state.safetensors"
    data = state.read_bytes()
    if damage == "flip":
        state.write_bytes(flipped(data))
    elif damage == "cut":
        state.write_bytes(data[:-1])
    elif damage == "lost":
        (checkpoint / "blip.safetensors").unlink()
    else:
        (checkpoint / "COMMIT.json").write_text("{")
    again = lora_job("run", *arguments(miniature, tmp_path), "--workdir", tmp_path / "elsewhere")
    assert again.returncode == 0, again.stderr
    assert "continues from the checkpoint before" in again.stderr
    assert '"event": "resumed", "pack": 0, "step": 2' in again.stderr
    assert_as_straight(tmp_path, straight)


def test_if_all_checkpoints_are_damaged_nothing_is_restarted(miniature: Path, tmp_path: Path, finished: Path) -> None:
    run = unconcluded(finished, tmp_path)
    for state in run.glob("variants/blip/*/checkpoints/*/state.safetensors"):
        state.write_bytes(b"")
    before = {path: path.read_bytes() for path in run.glob("variants/**/*") if path.is_file()}
    again = lora_job("run", *arguments(miniature, tmp_path), "--workdir", tmp_path / "elsewhere")
    assert again.returncode == 46
    assert "whole" in again.stderr.splitlines()[-1]
    assert {path: path.read_bytes() for path in run.glob("variants/**/*") if path.is_file()} == before


@pytest.mark.parametrize("damage", ["flip", pytest.param("cut", marks=pytest.mark.slow)])
def test_damaged_entries_of_the_cache_are_computed_anew(
    miniature: Path, tmp_path: Path, finished: Path, straight: dict[str, Any], damage: str
) -> None:
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "runs" / "small")
    entries = sorted((tmp_path / "runs" / ".cache").rglob("*.shard"))
    assert {path.parts[-3] for path in entries} == {"captions", "embeddings", "latents"}
    whole = {path: path.read_bytes() for path in entries}
    for path, data in whole.items():
        path.write_bytes(flipped(data) if damage == "flip" else data[: len(data) // 2])
    done = lora_job("run", *arguments(miniature, tmp_path), "--workdir", tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr
    for path in entries:
        assert f"{path} is damaged" in done.stderr
    assert {path: path.read_bytes() for path in entries} == whole
    assert_as_straight(tmp_path, straight)


@pytest.mark.slow
def test_damaged_copies_of_a_cache_in_a_bucket_are_fetched_again(
    miniature: Path, tmp_path: Path, finished: Path, straight: dict[str, Any], s3_admin: S3Server
) -> None:
    root = f"s3://{s3_admin.make_bucket()}/runs"
    bucket = folder_of(root, s3_admin.endpoint_url)
    whole = {}
    for entry in (finished / "runs" / ".cache").rglob("*.shard"):
        key = entry.relative_to(finished / "runs" / ".cache")
        bucket.upload(entry, f".cache/{key}")
        copy = tmp_path / "work" / "small" / "cache" / key
        copy.parent.mkdir(parents=True)
        whole[copy] = entry.read_bytes()
        copy.write_bytes(flipped(whole[copy]))
    storage = f"storage={{endpoint_url: '{s3_admin.endpoint_url}', region: us-east-1, addressing_style: path}}"
    lines = (f"output.destination={root}", storage)
    done = lora_job("run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "work")
    assert done.returncode == 0, done.stderr
    assert {path.parts[-3] for path in whole} == {"captions", "embeddings", "latents"}
    for path, data in whole.items():
        assert f"{path}, a copy of {root}" in done.stderr
        assert path.read_bytes() == data
    found = outcome(folder_of(f"{root}/small", s3_admin.endpoint_url))
    assert {key: found.get(key) for key in straight} == straight


def test_a_variant_that_diverges_is_frozen_and_the_others_finish(miniature: Path, tmp_path: Path) -> None:
    lines = ("training.max_skipped_steps=0", "training.steps=6", "evaluation.every=2", "evaluation.samples=null")
    command = ["run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "work"]
    started = start(*command)
    run = tmp_path / "runs" / "small"
    while not (run / "variants/vanilla/seed-1337/checkpoints/step-000002/COMMIT.json").exists():
        assert started.poll() is None, started.stderr
    started.send_signal(signal.SIGTERM)
    assert started.wait() == 51
    commit = sorted(run.glob("variants/blip/seed-1337/checkpoints/*/COMMIT.json"))[-1]
    state = commit.parent / "state.safetensors"
    tensors = load_file(state)
    weight = next(key for key in tensors if key.startswith("adapter."))
    tensors[weight][0, 0] = float("nan")
    save_file(tensors, state)
    record = json.loads(commit.read_text())
    rows = run / layout.validation(layout.Member("blip", 1337))
    scored = [json.loads(row)["step"] for row in rows.read_text().splitlines()] if rows.exists() else []
    last = record["step"]
    # where its losses are found not to be finite: at the next evaluation
    step = last if last % 2 == 0 and last not in scored else (last // 2 + 1) * 2
    entry = next(file for file in record["files"] if file["path"] == state.name)
    digest = digest_of(state)
    entry |= {"size": digest.size, "sha256": digest.sha256}
    commit.write_text(json.dumps(record))
    for _ in range(2):
        again = lora_job(*command)
        assert again.returncode == 45, again.stderr
        assert f"blip, seed 1337 at step {step}" in again.stderr.splitlines()[-1]
        report = json.loads((run / "report" / "comparison.json").read_text())
        assert [(m["variant"], m["diverged_at"]) for m in report["members"]] == [("vanilla", None), ("blip", step)]
        assert report["members"][0]["steps"] == 6
        assert report["members"][0]["validation"][-1]["step"] == 6
        assert [m["final_loss"] is None for m in report["members"]] == [False, True]
        assert report["members"][1]["skipped_steps"] <= step  # frozen, it had no update to refuse
        (pair,) = report["pairs"]
        assert (pair["cells"], pair["verdict"]["code"], pair["verdict"]["winner"]) == (None, "withheld", None)
        assert f"blip, seed 1337, diverged at step {step}" in pair["verdict"]["sentence"]
        assert any("diverged" in note for note in report["notes"])
        assert not (run / "_SUCCESS").exists()


@pytest.mark.slow
def test_old_checkpoints_are_removed_but_for_the_newest_and_the_best(miniature: Path, tmp_path: Path) -> None:
    """And for those of the step at which another adapter ends, from which all go on when its steps grow."""
    lines = ("output.keep_checkpoints=2", "training.steps=6", "evaluation.every=1", "evaluation.samples=null")
    lines += ("training.schedule={name: constant}", "variants.blip.training.steps=2")
    command = ("run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "work")
    for grown, end in (((), 2), (("--set", "variants.blip.training.steps=3"), 3)):
        done = lora_job(*command, *grown)
        assert done.returncode == 0, done.stderr
        for variant, newest in (("vanilla", {5, 6}), ("blip", {end - 1, end})):
            member = tmp_path / "runs" / "small" / "variants" / variant / "seed-1337"
            kept = {path.name for path in (member / "checkpoints").iterdir() if [*path.iterdir()]}
            best = json.loads((member / "best.json").read_text())["checkpoint"].rpartition("/")[2]
            assert kept == {f"step-{step:06d}" for step in (*newest, end)} | {best}
            for path in (member / "checkpoints").iterdir():
                assert (path.name in kept) == (path / "COMMIT.json").exists()


def test_a_new_machine_does_not_fetch_what_is_in_storage(miniature: Path, tmp_path: Path) -> None:
    command = ["run", *arguments(miniature, tmp_path, "evaluation.samples=null")]
    first = start(*command, "--workdir", tmp_path / "first")
    assert first.wait_until_it_says('"stage started", "stage": "train"')
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    again = lora_job(*command, "--workdir", tmp_path / "second")
    assert again.returncode == 0, again.stderr
    assert '"stage": "preprocess"' not in again.stderr
    assert not [*(tmp_path / "second").rglob("*.png")]


def test_a_run_of_an_older_version_takes_defaults_for_what_it_lacks(
    miniature: Path, tmp_path: Path, finished: Path
) -> None:
    resolved = unconcluded(finished, tmp_path) / "resolved.json"
    command = ["run", *arguments(miniature, tmp_path), "--workdir", tmp_path / "elsewhere"]
    stored = json.loads(resolved.read_text())
    del stored["identity"]["preprocess"]["deduplicate"]
    del stored["identity"]["variants"]["blip"]["training"]["optimizer"]["beta2"]
    del stored["fenced"]
    resolved.write_text(json.dumps(stored))
    again = lora_job(*command)
    assert again.returncode == 0, again.stderr
    other = lora_job(*command, "--set", "preprocess.deduplicate=none")
    assert other.returncode == 46
    assert "preprocess.deduplicate" in other.stderr


@pytest.mark.slow
def test_a_store_that_ignores_conditions_is_refused_unless_the_manifest_says_so(
    miniature: Path, tmp_path: Path, use_keys: Callable[[Keys], None], straight: dict[str, Any]
) -> None:
    (tmp_path / "store").mkdir()
    with RcloneServer(tmp_path / "store") as server:
        use_keys(server.keys)
        root = f"s3://{server.bucket}/runs"
        storage = f"storage={{endpoint_url: '{server.endpoint_url}', region: us-east-1, addressing_style: path}}"
        command = ["run", *arguments(miniature, tmp_path, f"output.destination={root}", storage)]
        refused = lora_job(*command, "--workdir", tmp_path / "work")
        assert refused.returncode == 42, refused.stderr
        assert "output.unfenced" in refused.stderr.splitlines()[-1]
        done = lora_job(*command, "--set", "output.unfenced=true", "--workdir", tmp_path / "work")
        assert done.returncode == 0, done.stderr
        run = folder_of(f"{root}/small", server.endpoint_url)
        report = run.read_json("report/comparison.json")
        assert report is not None
        assert any("conditional" in note for note in report["notes"])
        assert not run.exists("units/pack-0/lease.json")
        found = outcome(run)
        assert {key: found.get(key) for key in straight} == straight


@pytest.mark.slow
def test_files_that_no_image_program_should_meet_go_through_a_whole_run(miniature: Path, tmp_path: Path) -> None:
    folder = drawings(tmp_path / "drawings")
    files = hostile_files()
    for at, case in enumerate(files.values()):
        (folder / f"hostile-{at:03d}.png").write_bytes(case.data)
    (folder / "link.png").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe.png")
    lines = ("preprocess.max_rejected_fraction=1", "evaluation.samples=null")
    command = ["run", *arguments(miniature, tmp_path, *lines)]
    done = lora_job(*command, "--workdir", tmp_path / "work")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    data = json.loads((tmp_path / "runs/small/report/comparison.json").read_text())["data"]
    assert data["files"] >= len(files) + 12
    rejected = sum(data["rejected"].values())
    assert data["train"] + data["validation"] + data["duplicates"] + data["ignored"] + rejected == data["files"]
    published = b"".join(path.read_bytes() for path in (tmp_path / "runs").rglob("*") if path.is_file())
    assert b"GPS" not in published
    strict = lora_job(*command, "--set", "preprocess.max_rejected_fraction=0.05", "--set", "name=strict")
    assert strict.returncode == 41
