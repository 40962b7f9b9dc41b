"""What docs/running/docker.md promises of the image; scripts/test-image runs it."""

import hashlib
import json
import secrets
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.image.container import IMAGE, STRANGER, Container, ask, stop, wait_until
from tests.job.small_run import drawings, folder_of, outcome
from tests.lora_job import ROOT
from tests.s3_server import S3Server

pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(not IMAGE, reason="scripts/test-image names an image"),
]
Run = Callable[..., Container]


@pytest.fixture
def run() -> Iterator[Run]:
    """Starts containers and removes them."""
    started: list[Container] = []

    def start(*arguments: str, **options: Any) -> Container:
        started.append(Container(*arguments, **options))
        return started[-1]

    yield start
    for container in started:
        container.remove()


@pytest.fixture
def volume() -> Iterator[str]:
    """A scratch volume that outlives a container."""
    name = f"lora-job-{secrets.token_hex(6)}"
    ask("volume", "create", name)
    yield name
    ask("volume", "rm", "--force", name)


@pytest.fixture
def bucket(s3_admin: S3Server) -> str:
    return s3_admin.make_bucket()


def quickstart(server: S3Server, bucket: str, **changes: Any) -> dict[str, Any]:
    """The quickstart's manifest with a bucket for its output."""
    manifest: dict[str, Any] = yaml.safe_load((ROOT / "manifests" / "quickstart.yaml").read_text())
    manifest["storage"] = {"endpoint_url": server.endpoint_url, "region": "us-east-1", "addressing_style": "path"}
    manifest["output"] = {"destination": f"s3://{bucket}/runs"}
    return manifest | changes


def small(server: S3Server, bucket: str, *, steps: int = 2) -> str:
    """A manifest for twelve drawings at /data, done in seconds."""
    manifest = quickstart(server, bucket, name="small")
    manifest["dataset"] = {"source": "/data", "validation_min": 3}
    manifest["variants"] = manifest["variants"][:2]
    manifest["training"] |= {"steps": steps, "schedule": {"name": "constant", "warmup_steps": 0}}
    manifest["evaluation"] |= {"every": max(2, steps // 3), "final_timesteps": 2}
    manifest["evaluation"]["samples"] |= {"prompts": ["a heart"], "steps": 2}
    return yaml.safe_dump(manifest)


@pytest.fixture
def data(tmp_path: Path) -> tuple[str, ...]:
    """Options that mount the drawings."""
    return ("--volume", f"{drawings(tmp_path / 'drawings')}:/data:ro")


def keys_of(server: S3Server, bucket: str) -> set[str]:
    pages = server.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {entry["Key"] for page in pages for entry in page.get("Contents", [])}


def mounted(tmp_path: Path, text: str) -> tuple[str, ...]:
    (tmp_path / "manifest.yaml").write_text(text)
    return ("--volume", f"{tmp_path / 'manifest.yaml'}:/manifest.yaml:ro")


def test_the_quickstart_from_a_mounted_manifest_leaves_its_artifacts_in_the_bucket(
    run: Run, volume: str, tmp_path: Path, s3_admin: S3Server, bucket: str
) -> None:
    user = f"{secrets.randbelow(10**6) + 100_000}:0"
    options = (*mounted(tmp_path, yaml.safe_dump(quickstart(s3_admin, bucket))), "--volume", f"{volume}:/scratch")
    container = run("run", "/manifest.yaml", options=options, env=s3_admin.admin.environment(), user=user)
    assert container.wait() == 0, container.stderr
    keys = keys_of(s3_admin, bucket)
    assert {f"runs/quickstart/{key}" for key in ("_SUCCESS", "report/comparison.json", "report/samples.png")} <= keys
    for variant in ("vanilla", "blip", "blip_plus"):
        checkpoint = f"runs/quickstart/variants/{variant}/seed-1337/checkpoints/step-000200"
        assert {f"{checkpoint}/{variant}.safetensors", f"{checkpoint}/COMMIT.json"} <= keys
    assert all(json.loads(line)["event"] for line in container.stderr.splitlines()), "a library said something"


@pytest.mark.parametrize("way", ["stdin", "s3", "environment"])
def test_a_manifest_comes_by_stdin_bucket_and_environment(
    way: str, run: Run, data: tuple[str, ...], s3_admin: S3Server, bucket: str
) -> None:
    text, env = small(s3_admin, bucket), dict(s3_admin.admin.environment())
    if way == "stdin":  # as an editor on Windows writes it
        container = run("run", "-", options=data, env=env, stdin=text.replace("\n", "\r\n").encode())
    elif way == "s3":
        s3_admin.client().put_object(Bucket=bucket, Key="manifests/small.yaml", Body=text.encode())
        env |= {"AWS_ENDPOINT_URL": s3_admin.endpoint_url, "AWS_REGION": "us-east-1"}
        container = run("run", f"s3://{bucket}/manifests/small.yaml", options=data, env=env)
    else:
        container = run("run", options=data, env=env | {"LORA_JOB_MANIFEST": text})
    assert container.wait() == 0, container.stderr
    assert "runs/small/_SUCCESS" in keys_of(s3_admin, bucket)


def test_a_stopped_run_ends_with_51_and_the_next_start_finishes_it(
    run: Run, data: tuple[str, ...], tmp_path: Path, s3_admin: S3Server, bucket: str
) -> None:
    options = (*data, *mounted(tmp_path, small(s3_admin, bucket, steps=30)))
    first = run("run", "/manifest.yaml", options=options, env=s3_admin.admin.environment())
    commit = "runs/small/variants/blip/seed-1337/checkpoints/step-000010/COMMIT.json"
    wait_until(lambda: first.has_ended() or commit in keys_of(s3_admin, bucket), "a checkpoint")
    ask("stop", first.name)
    assert first.wait() == 51, first.stderr
    assert "Start the same manifest again" in first.stderr.splitlines()[-1]
    again = run("run", "/manifest.yaml", options=options, env=s3_admin.admin.environment())
    assert again.wait() == 0, again.stderr
    assert outcome(folder_of(f"s3://{bucket}/runs/small", s3_admin.endpoint_url))["success"]


@pytest.mark.parametrize("seconds", [0, 2, 4])
def test_a_signal_in_the_first_seconds_is_heard(
    seconds: int, run: Run, data: tuple[str, ...], s3_admin: S3Server, bucket: str
) -> None:
    env = s3_admin.admin.environment() | {"LORA_JOB_MANIFEST": small(s3_admin, bucket)}
    container = run("run", options=data, env=env)
    wait_until(container.has_started, "the container")
    time.sleep(seconds)
    assert stop(container) in (51, 143), container.stderr


def test_a_signal_is_heard_while_a_manifest_is_awaited(run: Run) -> None:
    container = run("run", "-", stdin=b"")  # which comes only with `wait`
    wait_until(container.has_started, "the container")
    time.sleep(2)
    assert stop(container) in (51, 143), container.stderr


def test_exit_codes_come_through(run: Run, tmp_path: Path, s3_admin: S3Server, bucket: str) -> None:
    env = s3_admin.admin.environment()
    wrong = run("run", "-", env=env, stdin=b"apiVersion: lora-job/v1\nname: x\nsteps: 3\n")
    assert wrong.wait() == 40
    assert "steps" in wrong.stderr
    usage = run("frobnicate")
    assert usage.wait() == 2
    missing = run("run", "-", env=env, stdin=yaml.safe_dump(quickstart(s3_admin, "no-such-bucket")).encode())
    assert missing.wait() == 42
    assert "no-such-bucket" in missing.stderr.splitlines()[-1]
    options = mounted(tmp_path, small(s3_admin, bucket))
    (tmp_path / "manifest.yaml").chmod(0o600)
    unreadable = run("run", "/manifest.yaml", env=env, options=options)
    assert unreadable.wait() == 40
    assert "Permission denied" in unreadable.stderr.splitlines()[-1]


def test_the_last_line_is_kubernetes_termination_message(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    log.chmod(0o666)
    wrong = run("run", "-", options=("--volume", f"{log}:/dev/termination-log"), stdin=b"apiVersion: lora-job/v1\n")
    assert wrong.wait() == 40
    assert log.read_text().startswith("40: The manifest has")
    assert wrong.stderr.endswith(f"lora-job: {log.read_text().removeprefix('40: ')}\n")


@pytest.mark.parametrize("user", ["12345:0", STRANGER])
def test_any_user_may_run_it_without_a_volume(
    user: str, run: Run, data: tuple[str, ...], s3_admin: S3Server, bucket: str
) -> None:
    env = s3_admin.admin.environment() | {"LORA_JOB_MANIFEST": small(s3_admin, bucket)}
    container = run("run", options=data, env=env, user=user)
    assert container.wait() == 0, container.stderr


def test_scratch_may_be_memory_that_nothing_is_executed_from(
    run: Run, data: tuple[str, ...], s3_admin: S3Server, bucket: str
) -> None:
    env = s3_admin.admin.environment() | {"LORA_JOB_MANIFEST": small(s3_admin, bucket)}
    options = (*data, "--tmpfs", "/scratch:rw,noexec,nosuid,nodev,mode=1777,size=1g")
    container = run("run", options=options, env=env)
    assert container.wait() == 0, container.stderr


def test_nothing_is_written_outside_scratch_even_where_it_could_be(
    run: Run, data: tuple[str, ...], s3_admin: S3Server, bucket: str
) -> None:
    env = s3_admin.admin.environment() | {"LORA_JOB_MANIFEST": small(s3_admin, bucket)}
    container = run("run", options=data, env=env, user="0:0", locked=False)
    assert container.wait() == 0, container.stderr
    mount_points = {"/data", "/etc", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/mtab", "/proc", "/dev"}
    mount_points |= {"/run", "/run/.containerenv", "/run/secrets", "/sys", "/var", "/var/run", "/scratch"}
    changed = {line.split(maxsplit=1)[1] for line in ask("diff", container.name).splitlines()}
    assert not changed - mount_points


def test_without_buckets_and_hubs_no_network_is_needed(
    run: Run, data: tuple[str, ...], s3_admin: S3Server, bucket: str
) -> None:
    manifest = yaml.safe_load(small(s3_admin, bucket)) | {"output": {"destination": "/scratch/runs"}}
    container = run("run", options=data, env={"LORA_JOB_MANIFEST": yaml.safe_dump(manifest)}, network="none")
    assert container.wait() == 0, container.stderr


def test_a_closed_standard_output_harms_nothing(
    run: Run, data: tuple[str, ...], s3_admin: S3Server, bucket: str
) -> None:
    env = s3_admin.admin.environment() | {"LORA_JOB_MANIFEST": small(s3_admin, bucket)}
    container = run("-c", "exec lora-job run >&-", options=(*data, "--entrypoint", "/bin/sh"), env=env)
    assert container.wait() == 0, container.stderr


def python(run: Run, code: str) -> str:
    container = run("-c", code, options=("--entrypoint", "/opt/lora-job/bin/python"))
    assert container.wait() == 0, container.stderr
    return container.stdout


def test_the_sbom_lists_what_is_installed(run: Run) -> None:
    listed = json.loads(python(run, "print(open('/opt/lora-job/sbom.cdx.json').read())"))
    found = python(
        run, "from importlib.metadata import distributions as d\nfor p in d(): print(p.metadata['Name'], p.version)"
    )
    assert listed["bomFormat"] == "CycloneDX"
    components = [*listed["components"], listed["metadata"]["component"]]
    assert {(part["name"], part["version"]) for part in components} == {
        tuple(line.split()) for line in found.splitlines()
    }


def test_the_image_holds_no_compiler_no_pip_and_no_cache(run: Run) -> None:
    code = """
import importlib.util, os, shutil
print([n for n in ("cc", "gcc", "g++", "clang", "ld", "nvcc", "make", "pip", "pip3", "git", "curl") if shutil.which(n)])
print([n for n in ("pip", "ensurepip", "cyclonedx_py", "pytest") if importlib.util.find_spec(n)])
print([f"{d}/{n}" for d, _, names in os.walk("/") if not d.startswith(("/proc", "/sys")) for n in names
       if n.endswith((".whl", ".deb"))])
print(os.listdir("/scratch"), os.path.exists("/root/.cache"), os.listdir("/var/lib/apt/lists"))
"""
    assert python(run, code).splitlines() == ["[]", "[]", "[]", "[] False []"]


def test_the_image_holds_this_code_and_not_what_a_builder_kept(run: Run) -> None:
    code = """
import hashlib, json, job
from pathlib import Path
folder = Path(job.__file__).parents[1]
files = [path for name in ("job", "lora_engine") for path in (folder / name).rglob("*.py")]
print(json.dumps({str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}))
"""
    sources = [path for name in ("job", "lora_engine") for path in (ROOT / name).rglob("*.py")]
    expected = {str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sources}
    assert json.loads(python(run, code)) == expected


def test_labels_and_configuration() -> None:
    config: Mapping[str, Any] = json.loads(ask("image", "inspect", IMAGE))[0]
    labels, settings = config.get("Labels") or config["Config"]["Labels"], config["Config"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels["org.opencontainers.image.title"] == project["name"]
    assert labels["org.opencontainers.image.version"] == project["version"]
    assert labels["org.opencontainers.image.licenses"] == project["license"]
    assert labels["org.opencontainers.image.created"].endswith("Z")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert labels["org.opencontainers.image.revision"] == head.stdout.strip()
    assert settings["Entrypoint"] == ["lora-job"]
    assert settings["User"] == "10001:0"
    assert settings["Volumes"] == {"/scratch": {}}
    env = dict(entry.split("=", 1) for entry in settings["Env"])
    assert env["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    for name in ("HOME", "TMPDIR", "LORA_JOB_WORKDIR", "HF_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TRITON_CACHE_DIR"):
        assert env[name].startswith("/scratch"), name
