"""What the commands say to odd paths, streams and options, each in a process of its own as a shell starts it."""

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from job import layout
from job.run.checkpoints import Commit
from job.storage import StorageSettings, open_storage
from job.storage.folder import RunFolder
from lora_engine import miniature
from lora_engine.records import FileEntry
from tests.job.small_run import drawings, folder_of
from tests.lora_job import ROOT, lora_job
from tests.s3_server import S3Server
from tests.single_file import write_single_file

LONG = "x" * 300  # bytes; a name has at most 255
CLI = [sys.executable, "-m", "job"]
# Root reads everything; without these it is held to a file's mode, as any user.
AS_A_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"] if os.geteuid() == 0 else []
MOMENT = "2026-01-01T00:00:00+00:00"
STATUS = {"unit": "pack-0", "state": "done", "updated": MOMENT, "started": MOMENT}


def command(cwd: Path, *arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)} | options.pop("env", {})  # type: ignore[operator]
    streams = {"stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options
    return subprocess.run(
        [*AS_A_USER, *CLI, *map(str, arguments)],
        cwd=cwd,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **streams,  # type: ignore[call-overload]
    )


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with a manifest that is right, `m.yaml`, and its images; a folder that nobody may read, `locked`."""
    drawings(tmp_path / "imgs")
    manifest = {
        "apiVersion": "lora-job/v1",
        "name": "m",
        "base_model": {"source": "miniature://stable-diffusion"},
        "dataset": {"source": "imgs"},
        "variants": [{"name": "vanilla", "captions": {"strategy": "constant", "text": "a drawing"}}],
        "training": {"steps": 1},
        "output": {"destination": "runs"},
    }
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(manifest))
    (tmp_path / "locked").mkdir(mode=0)
    return tmp_path


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run `runs/m` with one checkpoint."""
    folder = folder_of(str(tmp_path / "runs" / "m"))
    root = layout.checkpoint(layout.Member("vanilla", 1), 2)
    entries = []
    for name in ("state.safetensors", "vanilla.safetensors"):
        digest = folder.write(f"{root}/{name}", name.encode())
        entries.append(FileEntry(name, digest.size, digest.sha256))
    commit = Commit(
        variant="vanilla", seed=1, step=2, files=tuple(entries), weights_sha256="", initial_weights_sha256=""
    )
    folder.write_stored(f"{root}/{layout.COMMIT_NAME}", commit)
    return folder


@pytest.mark.parametrize(
    ("key", "code"), [("dataset.source", 41), ("base_model.source", 43), ("output.destination", 42)]
)
@pytest.mark.parametrize("place", ["locked/x", "locked", LONG])
def test_a_place_that_cannot_be_looked_into_is_named(study: Path, key: str, code: int, place: str) -> None:
    done = command(study, "validate", "m.yaml", "--set", f"{key}={place}")
    assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
    assert "File name too long" in done.stderr if place == LONG else "Permission denied" in done.stderr


@pytest.mark.parametrize("place", ["locked/x", "locked", "sd"])
def test_components_that_cannot_be_looked_into_are_named(study: Path, place: str) -> None:
    sd = shutil.copytree(miniature.folder("stable-diffusion"), study / "sd")
    write_single_file(sd, study / "whole.safetensors")
    (sd / "text_encoder").chmod(0)
    base = f"base_model={{source: whole.safetensors, components: {place}}}"
    done = command(study, "validate", "m.yaml", "--set", base)
    assert (done.returncode, done.stderr.count("\n")) == (43, 1), done.stderr
    assert "base_model.components: " in done.stderr
    assert "Permission denied" in done.stderr


def test_a_model_that_cannot_be_read_is_not_called_damaged(study: Path) -> None:
    shutil.copytree(miniature.folder("stable-diffusion"), study / "sd")
    weights = study / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.chmod(0)
    done = command(study, "validate", "m.yaml", "--set", "base_model.source=sd")
    assert done.returncode == 43, done.stderr
    assert f"{weights.relative_to(study)} cannot be read: Permission denied" in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("place", ["locked/x", "locked", LONG])
def test_a_run_cannot_be_collected_where_nothing_can_be_written(study: Path, place: str) -> None:
    done = command(study, "collect", "runs/m", place)
    assert (done.returncode, done.stderr.count("\n")) == (42, 1), done.stderr


@pytest.mark.parametrize(
    ("state", "seconds", "shown"), [("running", 59.0, "silent"), ("done", 59.0, "done"), ("failed", 0.0, "failed")]
)
def test_following_ends_when_nothing_is_at_work(
    tmp_path: Path, run: RunFolder, state: str, seconds: float, shown: str
) -> None:
    then = datetime.now(UTC) - timedelta(seconds=seconds)
    row = {"unit": "pack-0", "state": state, "updated": then.isoformat(), "started": then.isoformat()}
    run.write_json(layout.unit_status("pack-0"), row)
    done = command(tmp_path, "status", "runs/m", "--follow", timeout=60)
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout


def test_a_closed_standard_input_matters_only_to_who_reads_it(study: Path) -> None:
    def closed(*arguments: str) -> subprocess.CompletedProcess[str]:
        return command(study, *arguments, stdin=None, preexec_fn=lambda: os.close(0))

    assert closed("validate", "--offline", "m.yaml").returncode == 0
    for arguments in (["validate", "-"], ["render", "kubernetes", "--image", "x", "-"]):
        done = closed(*arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "Standard input is closed" in done.stderr


def test_a_run_is_not_collected_into_itself(tmp_path: Path, run: RunFolder) -> None:
    before = [key for key, _ in run.list()]
    (tmp_path / "link").symlink_to("runs")
    for place in ("runs/m/sub", "runs/m", "link/m/sub"):
        done = command(tmp_path, "collect", "runs/m", place)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert [key for key, _ in run.list()] == before
    assert command(tmp_path, "collect", "runs/m", "runs/m2").returncode == 0


def test_a_file_that_a_commit_lists_is_missed(tmp_path: Path, run: RunFolder) -> None:
    root = layout.checkpoint(layout.Member("vanilla", 1), 2)
    run.delete(f"{root}/state.safetensors")
    done = command(tmp_path, "collect", "runs/m", "there")
    assert done.returncode == 46, done.stdout
    assert f"{root}/state.safetensors" in done.stderr
    assert (tmp_path / "there" / root / "vanilla.safetensors").exists()
    run.delete(f"{root}/{layout.COMMIT_NAME}")  # as a checkpoint that is being removed
    assert command(tmp_path, "collect", "runs/m", "there").returncode == 0


def test_output_that_nobody_reads_ends_quietly(study: Path, run: RunFolder) -> None:
    run.write_json(layout.unit_status("pack-0"), STATUS)
    for arguments in (["schema"], ["--help"], ["status", "runs/m"], ["plan", "m.yaml"]):
        reader, writer = os.pipe()
        os.close(reader)
        done = command(study, *arguments, stdout=writer)
        os.close(writer)
        assert (done.returncode, done.stderr) == (141, ""), arguments


def test_a_full_disk_behind_the_output_is_44(study: Path, run: RunFolder) -> None:
    run.write_json(layout.unit_status("pack-0"), STATUS)
    for arguments in (["schema"], ["--help"], ["status", "runs/m"], ["plan", "m.yaml"]):
        with Path("/dev/full").open("wb") as full:
            done = command(study, *arguments, stdout=full)
        assert (done.returncode, done.stderr.count("\n")) == (44, 1), done.stderr
        assert "No space left on device" in done.stderr


def test_what_the_terminal_cannot_show_is_escaped_and_documents_are_utf_8(study: Path, run: RunFolder) -> None:
    latin = {"PYTHONIOENCODING": "latin-1"}
    changes = [
        "output.destination=s3://bucket/runs/画",
        "dataset.source=s3://bucket/raw/画",
        "variants.0.captions.text=画",
    ]
    sets = [part for change in changes for part in ("--set", change)]
    done = command(study, "render", "kubernetes", "m.yaml", "--image", "x", *sets, env=latin)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("画") == 3
    run.write_json(layout.unit_status("pack-0"), STATUS | {"cause": "画"})
    done = command(study, "status", "runs/m", env=latin)
    assert done.returncode == 0, done.stderr
    assert "\\u753b" in done.stdout


@pytest.mark.parametrize("remote", [False, True])
def test_a_model_that_is_not_all_there_is_missed(study: Path, s3_admin: S3Server, s3_bucket: str, remote: bool) -> None:
    for name in ("stable-diffusion", "blip"):
        shutil.copytree(miniature.folder(name), study / "models" / name)
    prefix = f"s3://{s3_bucket}/{study.name}" if remote else str(study / "models")
    settings = StorageSettings(s3_admin.endpoint_url, region="us-east-1", addressing_style="path")
    storage = open_storage(prefix, settings)
    endpoint = f"storage={{endpoint_url: '{s3_admin.endpoint_url}', region: us-east-1, addressing_style: path}}"
    write_single_file(miniature.folder("stable-diffusion"), study / "models" / "whole.safetensors")
    if remote:
        for path in (study / "models").rglob("*.*"):
            storage.upload(path, f"{prefix}/{path.relative_to(study / 'models')}")
    base, blip = f"base_model.source={prefix}/stable-diffusion", f"captioner.source={prefix}/blip"
    single = f"base_model={{source: {prefix}/whole.safetensors, components: {prefix}/blip}}"

    def validate(*sets: str) -> tuple[int, str]:
        options = (part for line in (endpoint, *sets) for part in ("--set", line))
        done = lora_job("validate", "m.yaml", *options, cwd=study)
        return done.returncode, done.stdout + done.stderr

    assert validate(base, blip)[0] == 0
    for line, key, what in (
        (f"base_model.source={prefix}/blip", "base_model.source", "config.json"),
        (single, "base_model.components", "config.json"),
        (f"captioner.source={prefix}/stable-diffusion", "captioner.source", "config.json"),
    ):
        code, said = validate(line)
        assert code == 43, said
        assert key in said
        assert what in said
    storage.delete(f"{prefix}/stable-diffusion/vae/diffusion_pytorch_model.safetensors")
    storage.delete(f"{prefix}/blip/model.safetensors")
    assert (validate(base)[0], validate(blip)[0]) == (43, 43)


def test_a_gpu_that_is_not_there_is_44(study: Path) -> None:
    none = {"CUDA_VISIBLE_DEVICES": ""}
    for command_name in ("validate", "run"):
        done = lora_job(command_name, "m.yaml", "--set", "device=cuda", env=none, cwd=study)
        assert done.returncode == 44, done.stderr
        assert "device is cuda" in done.stderr.splitlines()[-1]
        assert done.stderr.splitlines()[-1].endswith("or set device: auto.")
    assert lora_job("validate", "m.yaml", "--offline", "--set", "device=cuda", env=none, cwd=study).returncode == 0
    assert lora_job("validate", "m.yaml", "--set", "device=cpu", cwd=study).returncode == 0
    done = lora_job("validate", "m.yaml", "--offline", "--set", "device=gpu", cwd=study)
    assert done.returncode == 40
    assert "auto" in done.stderr


def test_a_run_that_appears_later_is_waited_for(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*CLI, "status", "runs/m", "--follow"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stderr is not None
        assert "There is no run at runs/m yet; waiting for it" in started.stderr.readline()
        folder_of(str(tmp_path / "runs" / "m")).write_json(layout.unit_status("pack-0"), STATUS | {"state": "failed"})
        out, said = started.communicate(timeout=60)
    assert (started.returncode, said) == (0, "")
    assert "failed" in out
