"""The whole job through its command, on a real S3 server and on local folders."""

import hashlib
import json
import math
import shlex
import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from job.report.usage import use_in_diffusers
from lora_engine import miniature as miniature_data
from lora_engine.system.device import has_bf16
from tests.job import small_run
from tests.job.report.pictures_by_hand import assert_pictures_hold
from tests.job.report.test_usage import pixels, run_in, usages
from tests.job.small_run import quickstart
from tests.lora_job import COLD, lora_job
from tests.s3_server import S3Server
from tests.single_file import write_single_file

DRAWINGS = miniature_data.folder("drawings")


def few_drawings(folder: Path) -> Path:
    """20 of the drawings with their captions."""
    if not folder.exists():
        folder.mkdir()
        for path in sorted(DRAWINGS.glob("*-100000.*")):
            shutil.copy(path, folder)
    return folder


def manifest(miniature: Path, tmp_path: Path, *lines: str, steps: int = 6) -> list[str | Path]:
    """Arguments that make the quickstart a short run of our own."""
    values = {
        "base_model.source": miniature / "sd",
        "captioner.source": miniature / "blip",
        "training.steps": steps,
        "training.schedule.warmup_steps": 1,
        "evaluation.every": 3,
        "evaluation.timesteps": 2,
        "evaluation.final_timesteps": 4,
        "evaluation.samples.steps": 2,
        "evaluation.samples.prompts": '["a heart", "a key"]',
        "dataset.source": few_drawings(tmp_path / "drawings"),
        "dataset.validation_min": 5,
        "output.destination": tmp_path / "runs",
    }
    return quickstart(values, lines)


# Of the run that tests copy: its destination is relative, so that a copy is the same run where it is continued.
COPIED = ("evaluation.samples.seeds=[0, 3]", "output.destination=runs")


@pytest.fixture(scope="module")
def finished(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the drawings and a finished run of them."""
    folder = tmp_path_factory.mktemp("finished")
    done = lora_job("run", *manifest(miniature, folder, *COPIED), "--workdir", folder / "w", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run, which is continued in `tmp_path`."""
    shutil.copytree(finished / "runs", tmp_path / "runs")
    return tmp_path / "runs" / "quickstart"


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def snapshot(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def weights(run: Path) -> dict[str, str]:
    return {
        path.relative_to(run).as_posix(): json.loads(path.read_text())["weights_sha256"]
        for path in sorted(run.rglob("COMMIT.json"))
    }


def read_losses(path: Path) -> tuple[list[str], npt.NDArray[np.float64]]:
    """What was scored, and its losses."""
    with safe_open(path, "np") as file:
        scored = json.loads(file.metadata()["caption_sets"])
        return scored, file.get_tensor("losses").astype(np.float64)


def check_artifacts(run: Path) -> None:
    """Every hash in every commit, and every number of the comparison against the files that it comes from."""
    commits = sorted(run.glob("variants/*/seed-*/checkpoints/*/COMMIT.json"))
    assert len(commits) == 3 * 2
    for commit in commits:
        listed = json.loads(commit.read_text())["files"]
        assert len(listed) == 3
        for entry in listed:
            data = (commit.parent / entry["path"]).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["size"], entry["sha256"])
    report = json.loads((run / "report" / "comparison.json").read_text())
    images = rows(run / "data" / "images.jsonl")
    assert report["data"]["train"] == sum(row["split"] == "train" for row in images)
    assert report["data"]["validation"] == sum(row["split"] == "validation" for row in images)
    assert report["fair"] == {"1337": True}
    final = {}
    for member in report["members"]:
        folder = run / "variants" / member["variant"] / "seed-1337"
        validation = rows(folder / "validation.jsonl")
        assert [point["step"] for point in member["validation"]] == [0, 3, 6]
        for point, row in zip(member["validation"], validation, strict=True):
            assert point.pop("change") is None or row["step"] > 0
            assert point == {key: value for key, value in row.items() if key != "images"}
            scored, losses = read_losses(folder / f"validation/step-{row['step']:06d}.safetensors")
            own = losses[scored.index(member["caption_set"])]
            assert own.mean() == pytest.approx(row["loss"], rel=1e-6)
            means = np.nanmean(losses, axis=(1, 2))
            assert row["caption_sets"] == pytest.approx(dict(zip(scored, means, strict=True)), rel=1e-6)
            if row["step"] == 3:
                assert scored == [member["caption_set"]]
        metrics = rows(folder / "metrics.jsonl")
        assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]
        assert [point["loss"] for point in member["train"]] == [row["loss"] for row in metrics]
        assert member["base_loss"] == pytest.approx(validation[0]["loss"], rel=1e-9)
        assert member["final_loss"] == pytest.approx(validation[-1]["loss"], rel=1e-9)
        assert member["best"]["loss"] in [pytest.approx(row["curve_loss"], rel=1e-9) for row in validation[1:]]
        final[member["variant"]] = own.mean(axis=1)
        others = {"vanilla", "blip", "blip_plus", ""}
        assert others <= set(scored) <= others | {"blip shuffled", "blip_plus shuffled"}
    for found in report["pairs"]:
        difference = found["cells"]["as_trained"]
        assert difference["mean"] == pytest.approx((final[found["a"]] - final[found["b"]]).mean(), rel=1e-9)
        assert difference["low"] <= difference["mean"] <= difference["high"]
        assert (found["factor"], found["like_for_like"], found["withheld"]) == (["captions"], True, [])
        assert found["verdict"]["sentence"]
    assert [(found["a"], found["b"]) for found in report["pairs"]] == [
        ("vanilla", "blip"),
        ("vanilla", "blip_plus"),
        ("blip", "blip_plus"),
    ]


def test_a_study_from_a_zip_in_s3_to_a_collected_report(s3_admin: S3Server, miniature: Path, tmp_path: Path) -> None:
    bucket, client = s3_admin.make_bucket(), s3_admin.client()
    archive = tmp_path / "raw.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(DRAWINGS.glob("*-10000[01].*")):
            packed.write(path, f"set/{path.name}")
        packed.writestr("__MACOSX/set/._heart-100000.png", b"x")
        packed.writestr("set/broken.png", b"not an image")
    client.upload_file(str(archive), bucket, "raw.zip")
    for path in sorted((miniature / "sd").rglob("*")):
        if path.is_file():
            client.upload_file(str(path), bucket, f"models/sd/{path.relative_to(miniature / 'sd').as_posix()}")
    arguments = manifest(
        miniature,
        tmp_path,
        f"dataset.source=s3://{bucket}/raw.zip",
        "dataset.validation_min=8",  # as many as intervals need
        f"output.destination=s3://{bucket}/runs",
        f"base_model.source=s3://{bucket}/models/sd",
        f"storage={{endpoint_url: '{s3_admin.endpoint_url}', region: us-east-1, addressing_style: path}}",
    )
    done = lora_job("run", *arguments, "--workdir", tmp_path / "work")
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stderr.splitlines()[-1])
    environ = {"AWS_ENDPOINT_URL_S3": s3_admin.endpoint_url, "AWS_REGION": "us-east-1"}
    collected = lora_job("collect", f"s3://{bucket}/runs/quickstart", tmp_path / "got", env=environ)
    assert collected.returncode == 0, collected.stderr
    check_artifacts(tmp_path / "got")
    report = json.loads((tmp_path / "got" / "report" / "comparison.json").read_text())
    assert report["data"]["rejected"] == {"not a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF image": 1}
    assert report["data"]["ignored"] == 1
    assert (ended["event"], ended["verdict"]) == ("done", report["verdict"]["sentence"])
    assert ended["adapters"] == f"s3://{bucket}/runs/quickstart/adapters"
    *variables, program, command, run, name, option = shlex.split(ended["collect"])
    assert (program, command, name) == ("lora-job", "collect", "quickstart")
    said = dict(variable.split("=") for variable in variables)
    assert lora_job(command, run, tmp_path / name, option, env=said).returncode == 0
    assert {path.name for path in (tmp_path / name).iterdir()} == {"adapters", "report"}
    before = {o["Key"]: o["LastModified"] for o in client.list_objects_v2(Bucket=bucket, Prefix="runs/")["Contents"]}
    again = lora_job("run", *arguments, "--workdir", tmp_path / "elsewhere")
    assert again.returncode == 0, again.stderr
    after = {o["Key"]: o["LastModified"] for o in client.list_objects_v2(Bucket=bucket, Prefix="runs/")["Contents"]}
    assert after == before


def test_variants_share_a_pack_unless_a_pass_is_shaped_otherwise(miniature: Path, tmp_path: Path) -> None:
    arguments = manifest(
        miniature,
        tmp_path,
        "variants.blip.lora.rank=2",
        "variants.blip_plus.lora.rank=1",
        "variants.blip_plus.training.batch_size=2",
        "seeds=[0, 1]",
        "evaluation.samples=null",
        steps=3,
    )
    done = lora_job("run", *arguments, "--workdir", tmp_path / "w")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "runs/quickstart/report/comparison.json").read_text())
    assert [pack["members"] for pack in report["packs"]] == [
        ["vanilla/seed-0", "vanilla/seed-1", "blip/seed-0", "blip/seed-1"],
        ["blip_plus/seed-0", "blip_plus/seed-1"],
    ]
    assert [pack["differs"] for pack in report["packs"]] == [[], ["training.batch_size"]]
    assert any("training.batch_size" in note for note in report["notes"])
    assert any("fewer than 3 seeds" in note for note in report["notes"])
    order = {(m["variant"], m["seed"]): m["fairness"]["order_sha256"] for m in report["members"]}
    assert order["blip", 0] == order["vanilla", 0] != order["vanilla", 1]
    assert order["blip_plus", 0] != order["vanilla", 0]
    # Other ranks are drawn other initial weights: the factor says so, and explains it.
    factors = {(pair["a"], pair["b"]): pair["factor"] for pair in report["pairs"] if pair["seed"] == 0}
    ranks, batches = ["captions", "lora.rank"], ["captions", "lora.rank", "training.batch_size"]
    pairs = (("vanilla", "blip"), ("vanilla", "blip_plus"), ("blip", "blip_plus"))
    assert factors == dict(zip(pairs, (ranks, batches, batches), strict=True))
    assert all(pair["like_for_like"] and pair["withheld"] == [] for pair in report["pairs"])
    assert report["fair"] == {"0": True, "1": True}
    initial = {m["fairness"]["initial_weights_sha256"] for m in report["members"] if m["seed"] == 0}
    assert len(initial) == 3


@pytest.mark.slow
def test_three_seeds_speak_of_strategies_and_steps_grow_for_one_or_all_of_a_pack(
    miniature: Path, tmp_path: Path
) -> None:
    lines = (
        "seeds=[0, 1, 2]",
        "dataset.validation_min=6",
        "evaluation.samples=null",
        "dataset.validation_fraction=0.4",
    )

    def run(*more: str, steps: int) -> tuple[int, str]:
        done = lora_job("run", *manifest(miniature, tmp_path, *lines, *more, steps=steps), "--workdir", tmp_path / "w")
        return done.returncode, done.stderr

    def report() -> dict[str, Any]:
        read: dict[str, Any] = json.loads((tmp_path / "runs/quickstart/report/comparison.json").read_text())
        return read

    constant = "training.schedule={name: constant}"
    code, said = run(constant, steps=1)
    assert code == 0, said
    found = report()
    assert not any("fewer than 3 seeds" in note for note in found["notes"])
    single = [pair for pair in found["pairs"] if pair["seed"] is not None]
    strategies = [pair for pair in found["pairs"] if pair["seed"] is None]
    assert (len(single), len(strategies)) == (9, 3)
    for one in strategies:
        own = [d["cells"]["as_trained"]["mean"] for d in single if (d["a"], d["b"]) == (one["a"], one["b"])]
        difference = one["cells"]["as_trained"]
        assert difference["mean"] == pytest.approx(np.mean(own))
        assert (one["seeds"], len(own)) == (3, 3)
        assert difference["low"] < difference["mean"] < difference["high"]
        assert one["verdict"]["sentence"].startswith("Of these strategies (over 3 seeds), ")
    assert [pair["verdict"] for pair in single] == [None] * 9
    assert [pair["cells"]["as_trained"]["confidence"] for pair in single] == [pytest.approx(1 - 0.05 / 9)] * 9
    assert [pair["cells"]["as_trained"]["confidence"] for pair in strategies] == [pytest.approx(1 - 0.05 / 3)] * 3
    assert all(pair["like_for_like"] for pair in found["pairs"])

    resolved = tmp_path / "runs/quickstart/resolved.json"
    begun = resolved.read_text()
    resolved.write_text(json.dumps({key: value for key, value in json.loads(begun).items() if key != "packing"}))
    code, said = run(constant, "variants.blip.training.steps=2", steps=1)  # of a run whose packs are of equal settings
    assert code == 46
    assert "training.steps" in said.splitlines()[-1]
    resolved.write_text(begun)
    grown = {"vanilla": 1, "blip": 2, "blip_plus": 1}
    for steps, more in ((grown, ("variants.blip.training.steps=2",)), (dict.fromkeys(grown, 2), ())):
        for _ in range(2):
            code, said = run(constant, *more, steps=steps["vanilla"])
            assert code == 0, said
            assert {member["variant"]: member["steps"] for member in report()["members"]} == steps


@pytest.mark.slow
def test_a_run_in_bf16_and_a_warning_where_that_is_emulated(miniature: Path, tmp_path: Path) -> None:
    lines = ("training.precision=bf16", f"variants=[{small_run.VANILLA}]", "evaluation.samples=null")
    done = lora_job("run", *small_run.arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "w", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = (tmp_path / "runs/small/variants/vanilla/seed-1337/metrics.jsonl").read_text().splitlines()
    assert all(math.isfinite(json.loads(row)["loss"]) for row in metrics)
    assert len(metrics) == 4
    assert ("which this device emulates" in done.stderr) != has_bf16(torch.device("cpu"))

    # Beside a pack in fp32 it sees the same text embeddings as by itself: those of a text encoder in bf16.
    bf16 = "{name: vanilla, captions: {strategy: constant, text: a drawing}, training: {precision: bf16}}"
    lines = ("training.precision=fp32", f"variants=[{small_run.BLIP}, {bf16}]", "evaluation.samples=null")
    beside = small_run.arguments(miniature, tmp_path, *lines, name="beside")
    done = lora_job("run", *beside, "--workdir", tmp_path / "w", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = rows(tmp_path / "runs/beside/variants/vanilla/seed-1337/metrics.jsonl")
    assert [row["loss"] for row in found] == [json.loads(row)["loss"] for row in metrics]


@pytest.mark.slow
def test_other_strategies_and_archives(miniature: Path, tmp_path: Path) -> None:
    archive = tmp_path / "raw.tar.gz"
    subprocess.run(["tar", "czf", archive, "-C", few_drawings(tmp_path / "drawings"), "."], check=True)
    mix = (
        "{strategy: mix, caption_dropout: 0.1, parts: [{weight: 2, captions: {strategy: existing}},"
        " {captions: {strategy: constant, text: a drawing}}]}"
    )
    own_captions = "{strategy: existing, style_hints: stencil}"
    arguments = manifest(
        miniature,
        tmp_path,
        f"dataset.source={archive}",
        f"variants=[{{name: own, captions: {own_captions}}}, {{name: mixed, captions: {mix}}}]",
        "evaluation.samples=null",
        steps=3,
    )
    done = lora_job("run", *arguments, "--workdir", tmp_path / "w")
    assert done.returncode == 0, done.stderr
    own = rows(tmp_path / "runs/quickstart/data/captions/own.jsonl")
    assert "a heart, stencil" in {row["texts"][0] for row in own}
    mixed = rows(tmp_path / "runs/quickstart/data/captions/mixed.jsonl")
    assert all(row["texts"][1] == "a drawing" for row in mixed)


@pytest.mark.parametrize(
    ("lines", "code", "phrase"),
    [
        (["training.steps=0"], 40, "training.steps"),
        (["dataset.source=/nowhere"], 41, "dataset.source"),
        (["base_model.source=/nowhere"], 43, "base_model.source"),
        (["lora.target_modules=[to_x]"], 43, "to_x"),
        (["training.precision=fp16"], 44, "fp16"),
        (["limits.max_hours=0.0001"], 48, "limits.max_hours"),
        (["limits.attempt_hours=0.0001"], 55, "limits.attempt_hours"),
        (["limits.stall_minutes=0.001"], 54, "limits.stall_minutes"),
        (["output.destination=ftp://x/y"], 40, "ftp"),
        (["output.destination=miniature://drawings"], 40, "allowed: a path, file:///path, s3://bucket/prefix."),
        (["base_model.source=miniature://sdxl"], 40, "stable-diffusion"),
        (["evaluation.samples.clip.source=/nowhere"], 43, "evaluation.samples.clip.source"),
        (["evaluation.samples.clip.source=miniature://blip"], 43, "CLIP"),
        (["dataset.source=manifests"], 41, "holds no images"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_code(
    miniature: Path, tmp_path: Path, lines: list[str], code: int, phrase: str
) -> None:
    done = lora_job("run", *manifest(miniature, tmp_path, *lines), "--workdir", tmp_path / "w")
    assert done.returncode == code, done.stderr
    assert phrase in done.stderr
    assert "Traceback" not in done.stderr
    if code in (40, 43, 44):
        assert '"stage": "preprocess"' not in done.stderr  # found out before any work


def test_another_run_under_the_same_name_is_refused(
    miniature: Path, tmp_path: Path, finished: Path, copied: Path
) -> None:
    before = snapshot(copied)
    arguments = manifest(miniature, finished, *COPIED, "lora.rank=2")
    other = lora_job("run", *arguments, "--workdir", tmp_path / "w", cwd=tmp_path)
    assert other.returncode == 46
    assert "variants.blip.lora.rank" in other.stderr
    assert "--set name=" in other.stderr
    assert snapshot(copied) == before


def test_status_and_report_read_a_finished_run(copied: Path) -> None:
    status = lora_job("status", copied, "--json", "--follow")
    assert [unit["state"] for unit in json.loads(status.stdout)] == ["done", "done", "done"]
    before = (copied / "report" / "comparison.json").read_bytes()
    assert lora_job("report", copied).returncode == 0
    assert (copied / "report" / "comparison.json").read_bytes() == before
    with Image.open(copied / "report" / "curves.png") as picture:
        assert picture.width > 800


def test_a_run_without_a_standard_error_ends_as_others_do(miniature: Path, finished: Path, copied: Path) -> None:
    command = [COLD, *("run", *manifest(miniature, finished, *COPIED)), "--workdir", copied / "w"]
    done = subprocess.run(["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *command], cwd=copied.parents[1], check=False)
    assert done.returncode == 0  # what it has to say is that it is already done


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("validation.jsonl", "loss", 0.5),
        ("validation.jsonl", "curve_loss", 0.001),
        ("validation.jsonl", "timesteps", 999),
        ("best.json", "loss", 1e-9),
        ("best.json", "step", 4),
        ("final.json", "loss", 1e-9),
        ("final.json", "step", 3),
    ],
)
def test_a_number_that_the_losses_do_not_bear_out_is_not_reported(
    copied: Path, name: str, key: str, value: float
) -> None:
    (copied / "_SUCCESS").unlink()  # What is listed is compared before.
    changed = copied / "variants/blip/seed-1337" / name
    *before, last = changed.read_text().splitlines() if name.endswith("l") else [changed.read_text()]
    changed.write_text("".join(f"{line}\n" for line in (*before, json.dumps(json.loads(last) | {key: value}))))
    refused = lora_job("report", copied)
    assert refused.returncode == 46
    assert "validation.jsonl" in refused.stderr or name in refused.stderr


def test_samples_are_measured_and_drawn_again_where_they_are_lost(
    miniature: Path, tmp_path: Path, finished: Path, copied: Path
) -> None:
    run, before = copied, snapshot(copied)
    report = assert_pictures_hold(run)
    assert len(rows(run / "data" / "line_art.jsonl")) == report["data"]["train"] + report["data"]["validation"]
    for member in report["members"]:
        assert [point["step"] for point in member["samples"]] == [0, 3, 6]
        for point in member["samples"]:
            for prompting in ("bare", "as_trained"):
                assert (point[prompting]["images"], point[prompting]["not_finite"]) == (4, 0)
    with Image.open(run / "report" / "samples.png") as grid:
        assert grid.width > 300
    lost = run / "variants" / "blip" / "seed-1337" / "samples" / "step-000003"
    shutil.rmtree(lost)
    (run / "variants" / "vanilla" / "seed-1337" / "samples" / "step-000000" / "samples.json").unlink()
    (run / "_SUCCESS").unlink()
    again = lora_job("run", *manifest(miniature, finished, *COPIED), "--workdir", tmp_path / "elsewhere", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    after = snapshot(run)
    assert {key for key in before if before[key] != after[key] and not key.startswith("units/")} <= {
        "_SUCCESS",  # which lists what follows
        "environment.json",
        "report/comparison.json",  # its timing
        "report/report.html",  # which shows it
    }


def test_a_lost_score_of_the_base_model_is_found_anew_and_never_made_up(
    miniature: Path, tmp_path: Path, finished: Path, copied: Path
) -> None:
    (copied / "_SUCCESS").unlink()  # What is listed is compared before.
    found = sorted(copied.glob("variants/*/seed-*/validation.jsonl"))
    before = [path.read_bytes() for path in found]
    for path in found:
        path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines()[1:]))
    refused = lora_job("report", copied)
    assert refused.returncode == 46
    assert "step 0" in refused.stderr
    for path in copied.glob("variants/*/seed-*/final.json"):
        path.unlink()
    again = lora_job("run", *manifest(miniature, finished, *COPIED), "--workdir", tmp_path / "w", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert [path.read_bytes() for path in found] == before


@pytest.mark.slow
def test_other_prompts_are_drawn_for_a_finished_run_beside_the_old_ones(
    miniature: Path, tmp_path: Path, finished: Path, copied: Path
) -> None:
    arguments, run = manifest(miniature, finished, *COPIED, "evaluation.samples.seeds=[0]"), copied
    before = {key: value for key, value in snapshot(run).items() if "/checkpoints/" in key or "/samples/" in key}
    other = [*arguments, "--set", 'evaluation.samples.prompts=["a cup"]', "--workdir", tmp_path / "w"]
    for _ in range(2):  # it fails on its way to the samples, and is as unfinished the second time
        assert (
            lora_job("run", *other, "--set", "evaluation.samples.clip.source=miniature://blip", cwd=tmp_path).returncode
            == 43
        )
    again = lora_job("run", *other, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    indices = sorted(run.glob("samples/study-*/*/seed-*/step-*/samples.json"))
    assert len(indices) == 3 * 3
    for path in indices:
        names = {"samples.json", "samples.safetensors", "prompt-00-seed-0.png"}
        if "/blip/" not in path.as_posix():
            names.add("prompt-00-seed-0-as-trained.png")
        assert {each.name for each in path.parent.iterdir()} == names
        assert json.loads(path.read_text())["settings"]["prompts"] == ["a cup"]
    assert snapshot(run).items() >= before.items()
    assert (run / "_SUCCESS").exists()
    last = [*arguments, "--set", 'evaluation.samples.prompts=["a moon"]', "--set", "evaluation.samples.when=end"]
    assert lora_job("run", *last, "--workdir", tmp_path / "w", cwd=tmp_path).returncode == 0
    report = assert_pictures_hold(run)
    assert [[point["step"] for point in member["samples"]] for member in report["members"]] == [[6], [6], [6]]
    assert len(list(run.glob("samples/study-*"))) == 2
    first = manifest(miniature, finished, *COPIED)
    back = lora_job("run", *first, "--workdir", tmp_path / "w", cwd=tmp_path)
    assert back.returncode == 0, back.stderr
    assert '"stage": "sample"' not in back.stderr
    assert [[point["step"] for point in m["samples"]] for m in assert_pictures_hold(run)["members"]] == [[0, 3, 6]] * 3
    assert len(list(run.glob("samples/study-*"))) == 2
    assert snapshot(run).items() >= before.items()


def test_the_grid_has_a_column_for_every_step_at_which_any_variant_drew(miniature: Path, tmp_path: Path) -> None:
    arguments = small_run.arguments(miniature, tmp_path, "variants.blip.training.steps=3")
    done = lora_job("run", *arguments, "--workdir", tmp_path / "w")
    assert done.returncode == 0, done.stderr
    report = tmp_path / "runs" / "small" / "report"
    steps = {
        m["variant"]: [p["step"] for p in m["samples"]]
        for m in json.loads((report / "comparison.json").read_text())["members"]
    }
    assert steps == {"vanilla": [0, 2, 4], "blip": [0, 2, 3]}
    with Image.open(report / "samples.png") as grid:
        assert grid.width == 684  # 260 for the labels, 96 for each of 0, 2, 3 and 4, 20 on either side


@pytest.mark.slow
def test_a_checkpoint_in_one_file_is_a_base_model(all_layers: Path, tmp_path: Path) -> None:
    """Twice, on an empty scratch folder and on one that holds it converted."""
    write_single_file(all_layers, tmp_path / "base.safetensors")
    lines = (
        f"base_model={{source: {tmp_path}/base.safetensors, components: {all_layers}}}",
        "variants=[{name: one, captions: {strategy: constant, text: a drawing}}]",
        "captioner=null",
        "evaluation.samples=null",
    )
    for name in ("first", "second"):
        command = ("run", *manifest(all_layers, tmp_path, *lines, f"name={name}", steps=1), "--workdir", tmp_path / "w")
        done = lora_job(*command)
        assert done.returncode == 0, done.stderr
    reports = [tmp_path / "runs" / name / "report" / "comparison.json" for name in ("first", "second")]
    first, second = (json.loads(path.read_text())["members"][0]["final_loss"] for path in reports)
    assert first == second
    run = tmp_path / "runs" / "second"
    program = use_in_diffusers(replace(usages(run)["one"], steps=1))
    assert f'from_single_file("{tmp_path}/base.safetensors", config="{all_layers}"' in program
    run_in(run, program)
    assert pixels(run / "one.png").std() > 0
