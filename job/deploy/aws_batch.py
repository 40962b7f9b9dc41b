"""Makes a job definition for AWS Batch on EC2, and the commands that submit it."""

import json
import shlex
from typing import Any

from job.deploy.retry import aws_batch_retry_strategy
from job.deploy.settings import SHARED_MEMORY_MIB, AwsBatchSettings, thread_variables
from job.deploy.workload import Workload, check_size
from job.manifest.schema import MANIFEST_VARIABLE

_LARGEST = 24 * 1024  # bytes that a job definition may have


def aws_batch_job_definition(workload: Workload, settings: AwsBatchSettings) -> dict[str, Any]:
    """The input of RegisterJobDefinition. Registered again, it is a new revision of the same name.

    The manifest stands here and not among the overrides of a submission, which may have only 8192 characters.

    Raises:
        JobError: 40, the manifest is too large for a job definition.
    """
    definition: dict[str, Any] = {
        "jobDefinitionName": workload.manifest.name,
        "type": "container",
        "platformCapabilities": ["EC2"],
        "containerProperties": _container(workload, settings),
        "retryStrategy": aws_batch_retry_strategy(),
        "propagateTags": True,
        "tags": {"lora-job": workload.manifest.name},
    }
    if workload.deadline_seconds is not None:
        definition["timeout"] = {"attemptDurationSeconds": workload.deadline_seconds}
    check_size("The job definition", len(json.dumps(definition)), _LARGEST)
    return definition


def _container(workload: Workload, settings: AwsBatchSettings) -> dict[str, Any]:
    """The definition's `containerProperties`."""
    variables = workload.variables() | thread_variables(settings)
    if workload.uri is None:
        variables[MANIFEST_VARIABLE] = workload.json()
    resources = {"VCPU": settings.cpus, "MEMORY": settings.memory_mib, "GPU": settings.gpus}
    container: dict[str, Any] = {
        "image": settings.image,
        "command": workload.arguments(),
        "environment": [{"name": name, "value": value} for name, value in variables.items()],
        "resourceRequirements": [{"type": kind, "value": str(value)} for kind, value in resources.items() if value],
        "readonlyRootFilesystem": True,
        # Docker makes a volume where the host gives no path, and lets the image's user write there.
        "volumes": [{"name": "scratch", "host": {}}],
        "mountPoints": [{"sourceVolume": "scratch", "containerPath": "/scratch", "readOnly": False}],
        "linuxParameters": {"sharedMemorySize": SHARED_MEMORY_MIB},
    }
    if settings.service_account is not None:
        container["jobRoleArn"] = settings.service_account
    if settings.execution_role is not None:
        container["executionRoleArn"] = settings.execution_role
    if settings.secrets:
        pairs = (secret.split("=", 1) for secret in settings.secrets)
        container["secrets"] = [{"name": name, "valueFrom": arn} for name, arn in pairs]
    return container


def aws_batch_commands(workload: Workload, settings: AwsBatchSettings) -> tuple[str, ...]:
    """Commands that register the definition, saved as `job-definition.json`, and submit its newest revision."""
    name = workload.manifest.name
    submit = ["aws", "batch", "submit-job", "--job-name", name, "--job-queue", settings.queue, "--job-definition", name]
    if workload.machines > 1:
        submit += ["--array-properties", f"size={workload.machines}"]
    return (
        "aws batch register-job-definition --cli-input-json file://job-definition.json",
        shlex.join(submit),
    )
