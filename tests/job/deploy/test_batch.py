"""What the shapes of AWS Batch and GCP Batch do not say, and the services or their users would."""

import json
import re
import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.deploy.aws_batch import aws_batch_commands, aws_batch_job_definition
from job.deploy.gcp_batch import gcp_batch_command, gcp_batch_job
from job.deploy.settings import AwsBatchSettings, GcpBatchSettings
from job.deploy.workload import Workload
from job.manifest.load import load_manifest
from tests.job.deploy.rendering import CASES, STUDY, golden_path, render_case

NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
AWS_CASES = [name for name in CASES if name.startswith("aws-batch")]
GCP_CASES = [name for name in CASES if name.startswith("gcp-batch")]


def document(name: str) -> Any:
    return json.loads(golden_path(name).read_text())


@pytest.mark.parametrize("name", AWS_CASES)
def test_numbers_of_aws_batch_are_within_its_limits(name: str) -> None:
    definition = document(name)
    assert 1 <= definition["retryStrategy"]["attempts"] <= 10
    assert len(definition["retryStrategy"]["evaluateOnExit"]) <= 5
    assert definition["timeout"]["attemptDurationSeconds"] >= 60
    values = {r["type"]: r["value"] for r in definition["containerProperties"]["resourceRequirements"]}
    assert all(re.fullmatch(r"[1-9][0-9]*", value) for value in values.values())
    assert ("GPU" in values) == (name != "aws-batch-cpu")
    assert definition["containerProperties"]["linuxParameters"]["sharedMemorySize"] < int(values["MEMORY"])
    assert len(json.dumps(definition)) <= 24 * 1024


@pytest.mark.parametrize("name", AWS_CASES)
def test_volumes_of_aws_batch_are_mounted_where_the_image_writes(name: str) -> None:
    container = document(name)["containerProperties"]
    assert [volume["name"] for volume in container["volumes"]] == [m["sourceVolume"] for m in container["mountPoints"]]
    assert container["mountPoints"][0]["containerPath"] == "/scratch"
    assert container["readonlyRootFilesystem"] is True
    names = [variable["name"] for key in ("environment", "secrets") for variable in container.get(key, [])]
    assert len(set(names)) == len(names)
    assert not any(name.startswith("AWS_BATCH") for name in names)


def test_an_array_has_a_job_for_each_pack() -> None:
    sizes = {name: re.findall(r"size=(\d+)", render_case(CASES[name]).commands[1]) for name in AWS_CASES}
    assert sizes == {
        "aws-batch-plain": [],
        "aws-batch-per-variant": ["2"],
        "aws-batch-cpu": [],
        "aws-batch-every-option": ["4"],
    }


@pytest.mark.parametrize("name", GCP_CASES)
def test_numbers_of_gcp_batch_are_within_its_limits(name: str) -> None:
    job = document(name)
    (group,), (instance,) = job["taskGroups"], job["allocationPolicy"]["instances"]
    task = group["taskSpec"]
    assert 0 <= task["maxRetryCount"] <= 10
    assert len(task["lifecyclePolicies"]) == 1
    assert re.fullmatch(r"[1-9][0-9]*s", task["maxRunDuration"])
    assert group["taskCountPerNode"] == 1  # tasks on one machine would share its GPU
    assert instance.get("installGpuDrivers", False) == (name != "gcp-batch-cpu")
    assert instance["policy"]["bootDisk"]["sizeGb"] >= 70
    variables, secrets = (task["environment"].get(key, {}) for key in ("variables", "secretVariables"))
    assert variables.keys().isdisjoint(secrets)


def test_gpus_of_gcp_batch_come_with_the_machine_or_by_type() -> None:
    def policy(name: str) -> Any:
        return document(name)["allocationPolicy"]["instances"][0]["policy"]

    assert policy("gcp-batch-plain")["machineType"] == "g2-standard-4"
    assert "accelerators" not in policy("gcp-batch-plain")
    assert policy("gcp-batch-every-option")["accelerators"] == [{"type": "nvidia-tesla-t4", "count": 2}]
    assert policy("gcp-batch-every-option")["provisioningModel"] == "SPOT"
    assert policy("gcp-batch-cpu").keys() == {"provisioningModel", "bootDisk"}


@settings(max_examples=100, deadline=None)
@given(name=NAMES)
def test_names_fit_both_services(name: str) -> None:
    manifest = load_manifest(STUDY.read_text(), "m.yaml")
    workload = Workload(manifest.model_copy(update={"name": name}))
    aws = AwsBatchSettings(image="i", queue="q")
    definition = aws_batch_job_definition(workload, aws)
    assert re.fullmatch(r"[A-Za-z0-9][-_A-Za-z0-9]{0,127}", definition["jobDefinitionName"])
    submit = shlex.split(aws_batch_commands(workload, aws)[1])
    assert submit[submit.index("--job-definition") + 1] == definition["jobDefinitionName"]
    gcp = GcpBatchSettings(image="i", location="l", gpus=0)
    assert re.fullmatch(r"[a-z0-9]([-_a-z0-9]{0,62})", gcp_batch_job(workload, gcp)["labels"]["lora-job"])
    command = shlex.split(gcp_batch_command(workload, gcp))
    job_id = command[command.index("--job-prefix") + 1] + "-5f7bc2b8-98a1-4fb5-8d5c-7a2e0b8a4c11"
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", job_id)
