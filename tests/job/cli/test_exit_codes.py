"""Exit codes that no other test of the command provokes, and what must not be said on the way out."""

import json
import resource
import zipfile
from pathlib import Path

import pytest
import torch

import job.attempt
from job.cli.commands import app
from job.cli.exit import run_to_exit
from job.errors import ExitCode, JobError
from job.process.faults import resource_errors
from tests.job.small_run import arguments, drawings
from tests.lora_job import lora_job, start
from tests.s3_server import S3Server


def test_a_wrong_command_is_2() -> None:
    for command, told in (
        (["frobnicate"], "lora-job --help"),
        (["run", "--nonsense"], "lora-job run --help"),
        (["status"], "lora-job status --help"),
        (["render", "kubernetes", "--gpus", "x"], "lora-job render kubernetes --help"),
    ):
        done = lora_job(*command)
        assert done.returncode == 2
        assert f"Try `{told}`." in done.stderr.splitlines()[-1]
    nothing = lora_job("run", env={"LORA_JOB_MANIFEST": ""})
    assert nothing.returncode == 2
    assert "LORA_JOB_MANIFEST" in nothing.stderr


def test_a_bug_is_1_with_its_traceback(
    miniature: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("on line\ntwo")

    monkeypatch.setattr(job.attempt, "run_attempt", broken)
    monkeypatch.setattr("sys.argv", ["lora-job", "run", *map(str, arguments(miniature, tmp_path))])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        run_to_exit(app)
    assert ended.value.code == 1
    errors = capsys.readouterr().err
    assert "Traceback" in errors
    assert "ZeroDivisionError: on line two" in errors.splitlines()[-1]


def test_a_bucket_that_is_not_there_is_42(miniature: Path, tmp_path: Path, s3_admin: S3Server) -> None:
    lines = ("output.destination=s3://no-such-bucket/runs", f"storage={{endpoint_url: '{s3_admin.endpoint_url}'}}")
    done = lora_job("run", *arguments(miniature, tmp_path, *lines, "storage.region=us-east-1"))
    assert done.returncode == 42, done.stderr
    assert "no-such-bucket" in done.stderr.splitlines()[-1]


def test_an_archive_that_leads_out_is_47_and_writes_nothing_there(miniature: Path, tmp_path: Path) -> None:
    archive = tmp_path / "raw.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in drawings(tmp_path / "drawings").iterdir():
            packed.write(path, path.name)
        packed.writestr("../../../escaped.png", b"x")
    done = lora_job("run", *arguments(miniature, tmp_path, f"dataset.source={archive}"), "--workdir", tmp_path / "w")
    assert done.returncode == 47, done.stderr
    assert "../../../escaped.png" in done.stderr.splitlines()[-1]
    assert not [*tmp_path.parent.rglob("escaped.png")]


@pytest.mark.usefixtures("s3_admin")
def test_a_store_that_cannot_be_reached_is_50(miniature: Path, tmp_path: Path) -> None:
    lines = ("output.destination=s3://bucket/runs", "storage={endpoint_url: 'http://127.0.0.1:9', region: us-east-1}")
    lines += ("limits.storage_wait_minutes=0",)
    done = lora_job("run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "w")
    assert done.returncode == 50, done.stderr
    assert "127.0.0.1:9" in done.stderr.splitlines()[-1]


def test_a_full_disk_is_44_and_the_checkpoints_before_stand(miniature: Path, tmp_path: Path) -> None:
    command = ["run", *arguments(miniature, tmp_path, "training.steps=200"), "--workdir", tmp_path / "w"]
    started, run = start(*command), tmp_path / "runs" / "small"
    commit = run / "variants/blip/seed-1337/checkpoints/step-000002/COMMIT.json"
    while not commit.exists():
        assert started.poll() is None, started.stderr
    smaller = (commit.parent / "state.safetensors").stat().st_size - 1
    hard = resource.prlimit(started.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(started.pid, resource.RLIMIT_FSIZE, (smaller, hard))
    assert started.wait() == 44, started.stderr
    assert "disk" in started.stderr.splitlines()[-1]
    for variant in ("vanilla", "blip"):
        folder = run / f"variants/{variant}/seed-1337/checkpoints/step-000002"
        for entry in json.loads((folder / "COMMIT.json").read_text())["files"]:
            assert (folder / entry["path"]).stat().st_size == entry["size"]
    assert not [*run.rglob("*.part-*")]


def test_a_failed_gpu_is_53_and_a_full_one_44() -> None:
    failed = torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700)
    full = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    for error, code in ((failed, ExitCode.GPU_FAULT), (full, ExitCode.RESOURCES)):
        with pytest.raises(JobError) as caught, resource_errors():
            raise error
        assert caught.value.code == code


def test_no_secret_leaves(miniature: Path, tmp_path: Path, s3_admin: S3Server) -> None:
    """Neither in what is said, with tracebacks, nor in what is written, here or in the bucket."""
    bucket = s3_admin.make_bucket()
    secrets = ["canary-hub-token", s3_admin.admin.secret_key, s3_admin.admin.access_key, "canary-elsewhere"]
    env = {"HF_TOKEN": secrets[0], "HUGGING_FACE_HUB_TOKEN": secrets[0], "SOME_PASSWORD": secrets[3]}
    lines = (
        f"output.destination=s3://{bucket}/runs",
        f"storage={{endpoint_url: '{s3_admin.endpoint_url}', region: us-east-1, addressing_style: path}}",
    )
    said = ""
    for more, code in (
        (["training.steps=2", "limits.attempt_hours=0.00001"], 55),
        (["training.steps=2"], 0),
        (["training.steps=3"], 46),
        (["output.destination=s3://another/runs"], 42),
        (["name=other", "base_model.source=hf://canary/model", "limits.storage_wait_minutes=0"], 50),
    ):
        command = ["--debug", "run", *arguments(miniature, tmp_path, *lines, *more), "--workdir", tmp_path / "work"]
        done = lora_job(*command, env=env | {"HF_HUB_OFFLINE": "1"})
        assert done.returncode == code, done.stderr
        said += done.stdout + done.stderr
    client = s3_admin.client()
    stored = [
        client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
        for entry in client.list_objects_v2(Bucket=bucket)["Contents"]
    ]
    here = [path.read_bytes() for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert len(stored) > 40
    assert "Traceback" in said
    for secret in secrets:
        assert secret not in said
        assert not [data for data in (*stored, *here) if secret.encode() in data]
