"""The manifest as containers get it: the same, or refused where it could not work there."""

import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from job.deploy.workload import Workload
from job.env import read_manifest
from job.manifest.load import load_manifest
from job.manifest.yaml_reader import read_yaml, write_yaml
from job.plan import make_plan
from tests.job.deploy.rendering import AWS, CASES, GCP, IMAGE, ROLE, STUDY, golden_path, render
from tests.s3_server import S3Server

ROOT = Path(__file__).resolve().parents[3]
TARGETS = {"kubernetes": (), "aws-batch": AWS, "gcp-batch": (*GCP, "--gpus", "0")}
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cc", "Cs"], include_characters="\t\n"), max_size=200),
    st.sampled_from(
        ["", "no", "1e-4", "0o17", "1_000", "1:30", "~", "2024-01-01", ".5", "=", "<<", "a\n", " a\nb ", "!x"]
    ),
)


def embedded(name: str) -> str:
    text = golden_path(name).read_text()
    if name.startswith("kubernetes"):
        return str(next(yaml.safe_load_all(text))["data"]["manifest.yaml"])
    document = json.loads(text)
    if name.startswith("aws-batch"):
        variables = {pair["name"]: pair["value"] for pair in document["containerProperties"]["environment"]}
        return str(variables["LORA_JOB_MANIFEST"])
    return str(document["taskGroups"][0]["taskSpec"]["environment"]["variables"]["LORA_JOB_MANIFEST"])


def overrides(arguments: tuple[str, ...]) -> list[str]:
    by = [name for name in ("variant", "seed") if f"--per-{name}" in arguments]
    sets = [value for option, value in pairwise(arguments) if option == "--set"]
    return sets + ([f"split_packs_by=[{', '.join(by)}]"] if by else [])


@pytest.mark.parametrize("name", CASES)
def test_the_embedded_manifest_is_the_same_with_its_overrides(name: str) -> None:
    expected = load_manifest(STUDY.read_text(), "study.yaml", overrides(CASES[name]))
    text, origin = read_manifest(None, {"LORA_JOB_MANIFEST": embedded(name)}, None)
    found = load_manifest(text, origin)
    assert found == expected
    assert found.model_fields_set == expected.model_fields_set  # nothing is stated that was not


@pytest.mark.parametrize(("seconds", "grace"), [(None, 120), (20, 50), (89.5, 120)])
@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("kubernetes", "terminationGracePeriodSeconds: {}\n"),
        ("gcp-batch", "--stop-timeout {} "),
        ("aws-batch", "ECS_CONTAINER_STOP_TIMEOUT={}s "),
    ],
)
def test_a_platform_waits_longer_than_the_job_takes_to_stop(
    target: str, said: str, seconds: float | None, grace: int
) -> None:
    sets = () if seconds is None else ("--set", f"limits.stop_seconds={seconds}")
    options = (*("--machine-type", "g2-standard-4"), *GCP) if target == "gcp-batch" else TARGETS[target]
    rendered = render(target, STUDY, *IMAGE, *options, *sets)
    assert said.format(grace) in rendered.document + rendered.said


@settings(max_examples=100, deadline=None)
@given(prompt=TEXTS, hints=TEXTS, number=st.floats(1e-300, 1))
def test_no_text_or_number_changes_on_its_way(prompt: str, hints: str, number: float) -> None:
    manifest = load_manifest(STUDY.read_text(), "study.yaml")
    data = manifest.model_dump(mode="json", exclude_unset=True)
    data["variants"][0]["captions"]["text"] = prompt
    data["variants"][1]["captions"]["style_hints"] = hints
    data["training"]["optimizer"]["learning_rate"] = number
    workload = Workload(load_manifest(json.dumps(data, ensure_ascii=False), "study.json"))
    for text in (workload.yaml(), workload.json()):
        assert load_manifest(text, "embedded") == workload.manifest
    assert "\n" not in workload.json()


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_yaml_is_read_alike_by_readers_of_all_versions(text: str) -> None:
    written = write_yaml({"key": text, "list": [text, text]})
    assert read_yaml(written.encode(), "mine").data == yaml.safe_load(written) == {"key": text, "list": [text, text]}


WRONG = [
    ("dataset.source=images", "dataset.source", "relative path"),
    ("base_model.source=./sd", "base_model.source", "relative path"),
    ("base_model={source: /sd.safetensors, components: sd}", "base_model.components", "relative path"),
    ("captioner.source=~/blip", "captioner.source", "a path without ~"),
    ("evaluation.samples={prompts: [a], clip: {source: clip}}", "evaluation.samples.clip.source", "absolute path"),
    ("output.cache=cache", "output.cache", "relative path"),
    ("output.destination=runs", "output.destination", "s3://bucket/prefix"),
    ("output.destination=/runs", "output.destination", "s3://bucket/prefix"),
    ("output.destination=file:///runs", "output.destination", "s3://bucket/prefix"),
    ("dataset.source=gs://bucket/images", "dataset.source", "storage.endpoint_url"),
    ("storage.endpoint_url=http://localhost:9000", "storage.endpoint_url", "containers reach"),
    ("output.storage.endpoint_url=http://127.0.0.1:9000", "output.storage.endpoint_url", "containers reach"),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("option", "key", "phrase"), WRONG, ids=[row[0] for row in WRONG])
def test_a_manifest_that_cannot_work_in_a_container_is_refused(target: str, option: str, key: str, phrase: str) -> None:
    rendered = render(target, STUDY, *IMAGE, *TARGETS[target], "--set", option)
    assert (rendered.code, rendered.document) == (40, "")
    assert f"{key}: found" in rendered.said
    assert phrase in rendered.said


def test_several_machines_need_a_store_that_keeps_them_apart() -> None:
    unfenced = ("--set", "output.unfenced=true")
    assert render("kubernetes", STUDY, *IMAGE, *unfenced).code == 0
    rendered = render("kubernetes", STUDY, *IMAGE, *unfenced, "--per-seed")
    assert rendered.code == 40
    assert "output.unfenced: found true, for several machines" in rendered.said


def test_what_lies_in_the_image_or_the_package_is_fine() -> None:
    sets = [
        f"{key}.source=miniature://{name}"
        for key, name in (("base_model", "stable-diffusion"), ("dataset", "drawings"))
    ]
    options = [argument for option in (*sets, "captioner.source=/models/blip") for argument in ("--set", option)]
    assert render("kubernetes", STUDY, *IMAGE, *options).code == 0


@pytest.mark.parametrize("path", sorted((ROOT / "manifests").glob("tattoo-*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("target", TARGETS)
def test_every_shipped_study_can_be_rendered(target: str, path: Path) -> None:
    assert render(target, path, *IMAGE, *TARGETS[target], "--per-variant").code == 0


BAD_OPTIONS = [
    ("kubernetes", ("--memory", "10 apples"), "such as 12Gi"),
    ("kubernetes", ("--memory", "16"), "such as 12Gi"),
    ("kubernetes", ("--memory", "0Gi"), "at least 2Gi"),
    ("kubernetes", ("--scratch", "1Mi"), "at least 1Gi"),
    ("kubernetes", ("--gpus", "-1"), "lora-job render kubernetes --help"),
    ("kubernetes", ("--cpus", "0"), "lora-job render kubernetes --help"),
    ("kubernetes", ("--cpus", "many"), "lora-job render kubernetes --help"),
    ("kubernetes", ("--image", ""), "Write an image"),
    ("kubernetes", ("--image", "a b"), "Write an image"),
    ("kubernetes", ("--image", "Team/lora-job"), "Write an image"),
    ("kubernetes", ("--namespace", "Training"), "name of a namespace"),
    ("kubernetes", ("--secret", "HF_TOKEN=x"), "name of a Secret"),
    ("kubernetes", ("--service-account", "a b"), "name of a ServiceAccount"),
    ("kubernetes", ("--queue", "a/b"), "name of a LocalQueue"),
    ("aws-batch", ("--queue", "a b"), "a job queue"),
    ("aws-batch", ("--secret", "hub", "--execution-role", f"{ROLE}/e"), "VARIABLE=ARN"),
    ("aws-batch", ("--secret", "T=arn:aws:ssm:r:1:parameter/x"), "--execution-role"),
    ("aws-batch", ("--service-account", "trainer"), "ARN of a role"),
    ("aws-batch", ("--scratch", "1Gi"), "lora-job render aws-batch --help"),
    ("gcp-batch", ("--gpus", "1"), "--accelerator"),
    ("gcp-batch", ("--location", ""), "a region"),
    ("gcp-batch", ("--machine-type", "G2"), "a machine type"),
    ("gcp-batch", ("--accelerator", "T4!"), "a type of GPU"),
    ("gcp-batch", ("--secret", "T=token"), "projects/P/secrets/S/versions/V"),
    ("gcp-batch", ("--service-account", "trainer"), "address of a service account"),
]


@pytest.mark.parametrize(("target", "options", "phrase"), BAD_OPTIONS, ids=[" ".join(row[1]) for row in BAD_OPTIONS])
def test_a_bad_option_ends_with_2_and_a_remedy(target: str, options: tuple[str, ...], phrase: str) -> None:
    rendered = render(target, STUDY, *IMAGE, *TARGETS[target], *options)
    assert (rendered.code, rendered.document) == (2, "")
    assert phrase in rendered.said
    assert len(rendered.said.splitlines()) == 1


@pytest.mark.parametrize("arguments", [("docker",), ("kubernetes",), ("aws-batch", *IMAGE), ("gcp-batch", *IMAGE)])
def test_an_unknown_target_or_a_missing_option_ends_with_2(arguments: tuple[str, ...]) -> None:
    target, *options = arguments
    assert render(target, STUDY, *options).code == 2


@pytest.mark.parametrize("target", ["aws-batch", "gcp-batch"])
def test_a_manifest_too_large_for_the_document_has_to_be_in_the_store(target: str) -> None:
    prompts = ", ".join(f"{at}{'a' * 1998}" for at in range(64))
    large = ("--set", f"evaluation.samples={{prompts: [{prompts}], negative_prompt: {'a' * 2000}}}")
    large += ("--set", f"variants.plain.captions.text={'a' * 2000}")
    rendered = render(target, STUDY, *IMAGE, *TARGETS[target], *large)
    assert (rendered.code, rendered.document) == (40, "")
    assert "s3://bucket/name.yaml" in rendered.said
    assert render("kubernetes", STUDY, *IMAGE, *large).code == 0


@pytest.mark.parametrize("target", TARGETS)
def test_a_manifest_in_the_store_is_read_from_there(
    target: str, s3_admin: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3_admin.make_bucket()
    place = f"s3://{bucket}/study.yaml"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3_admin.endpoint_url)
    put(s3_admin, place, STUDY.read_bytes())
    arguments = (*IMAGE, *TARGETS[target], "--per-seed", "--set", "lora.alpha=4")
    rendered = render(target, place, *arguments)
    assert rendered.code == 0, rendered.said
    (container,) = containers(yaml.safe_load_all(rendered.document))
    command = container.get("args") or container.get("command") or container["commands"]
    assert command == ["run", place, "--set", "lora.alpha=4", "--set", "split_packs_by=[seed]"]
    assert "eu-central-1" in rendered.document  # AWS_REGION, without which the manifest would not be found
    assert "apiVersion: lora-job" not in rendered.document
    assert "ConfigMap" not in rendered.document
    put(s3_admin, place, STUDY.read_bytes().replace(b"steps: 100", b"steps: 101"))
    assert (render(target, place, *arguments).document == rendered.document) == (target != "kubernetes")


def put(server: S3Server, place: str, data: bytes) -> None:
    bucket, _, key = place.removeprefix("s3://").partition("/")
    server.client().put_object(Bucket=bucket, Key=key, Body=data)


def containers(documents: Any) -> list[dict[str, Any]]:
    """Of whatever platform."""
    found = []
    for document in documents:
        if document.get("kind") == "Job":
            found += document["spec"]["template"]["spec"]["containers"]
        elif "containerProperties" in document:
            found.append(document["containerProperties"])
        else:
            found += [runnable["container"] for runnable in document["taskGroups"][0]["taskSpec"]["runnables"]]
    return found


def test_rendering_imports_neither_torch_nor_boto3() -> None:
    code = (
        "import sys, contextlib\n"
        "from job.__main__ import main\n"
        f"sys.argv = ['lora-job', 'render', 'kubernetes', {str(STUDY)!r}, '--image', 'lora-job']\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "names = ('torch', 'boto3', 'diffusers', 'transformers', 'scipy', 'matplotlib')\n"
        "print([name for name in names if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.startswith("apiVersion: v1\n")
    assert printed.endswith("\n[]\n")


def commands_of(page: Path) -> list[list[str]]:
    """Every `lora-job render` of a page, as a shell would take it."""
    text = page.read_text().replace("\\\n", " ")
    return [shlex.split(line.partition(" > ")[0]) for line in text.splitlines() if line.startswith("lora-job render")]


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "running").glob("*.md")), ids=lambda page: page.stem)
def test_the_commands_of_the_pages_work(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for _, _, target, manifest, *options in commands_of(page):
        rendered = render(target, manifest, *options)
        assert rendered.code == 0, rendered.said
        for command in rendered.commands:
            assert command in page.read_text()


def test_the_hours_of_the_page_are_those_of_the_plan() -> None:
    path = ROOT / "manifests" / "tattoo-captions.yaml"
    hours = make_plan(load_manifest(path.read_bytes(), path.name)).training_hours
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \|", (ROOT / "docs" / "running" / "README.md").read_text(), re.MULTILINE)
    assert rows == [(device, f"{figure:g}") for device, figure in hours.items()]


@pytest.mark.parametrize(
    ("device", "gpus", "code"), [("cuda", 0, 2), ("cpu", 1, 2), ("cpu", 0, 0), ("cuda", 1, 0), ("auto", 0, 0)]
)
def test_containers_have_a_gpu_where_the_manifest_has_a_use_for_it(device: str, gpus: int, code: int) -> None:
    rendered = render("kubernetes", STUDY, *IMAGE, "--set", f"device={device}", "--gpus", str(gpus))
    assert rendered.code == code, rendered.said
    assert ("nvidia.com/gpu" in rendered.document) == bool(gpus and not code)
    assert bool(code) == (f"device is {device}, but --gpus is {gpus}" in rendered.said)
