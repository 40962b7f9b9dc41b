"""Makes a job for Google Cloud Batch, and the command that submits it."""

import shlex
from typing import Any

from job.deploy.retry import gcp_batch_retry_policy
from job.deploy.settings import SHARED_MEMORY_MIB, GcpBatchSettings
from job.deploy.workload import Workload, check_size
from job.manifest.schema import MANIFEST_VARIABLE

_LARGEST_VARIABLE = 128 * 1024 - 1  # bytes of a variable with its name that Linux takes
_SYSTEM_GIB = 40  # on the boot disk, for the system and the image, packed and unpacked
_DRIVER_FOLDER = "/usr/local/nvidia/lib64"  # where Container-Optimized OS puts the GPU's driver
_LONGEST_PREFIX = 26  # gcloud adds a hyphen and a UUID, and a name may have 63 characters


def gcp_batch_job(workload: Workload, settings: GcpBatchSettings) -> dict[str, Any]:
    """The job's configuration, as `gcloud batch jobs submit --config` reads it.

    Raises:
        JobError: 40, the manifest is too large for a variable.
    """
    labels = {"lora-job": workload.manifest.name}
    allocation: dict[str, Any] = {"instances": [_instance(settings)], "labels": labels}
    if settings.service_account is not None:
        allocation["serviceAccount"] = {"email": settings.service_account}
    group = {
        "taskCount": workload.machines,
        "parallelism": workload.machines,
        "taskCountPerNode": 1,
        "taskSpec": _task(workload, settings),
    }
    return {
        "taskGroups": [group],
        "allocationPolicy": allocation,
        "labels": labels,
        "logsPolicy": {"destination": "CLOUD_LOGGING"},
    }


def _task(workload: Workload, settings: GcpBatchSettings) -> dict[str, Any]:
    """The `taskSpec`: one container, what it may use, and when it is started again."""
    environment: dict[str, Any] = {"variables": _variables(workload)}
    if settings.secrets:
        environment["secretVariables"] = dict(secret.split("=", 1) for secret in settings.secrets)
    options = ["--read-only", "--mount type=volume,dst=/scratch", f"--shm-size {SHARED_MEMORY_MIB}m"]
    options.append(f"--stop-timeout {workload.grace_seconds}")
    if settings.gpus:
        options.append(f"--env LD_LIBRARY_PATH={_DRIVER_FOLDER}")
    container = {
        "imageUri": settings.image,
        "entrypoint": "lora-job",  # stated, since Batch drops an image's own where it adds a GPU
        "commands": workload.arguments(),
        "options": " ".join(options),
    }
    task: dict[str, Any] = {
        "runnables": [{"container": container}],
        "environment": environment,
        "computeResource": {"cpuMilli": settings.cpus * 1000, "memoryMib": settings.memory_mib},
    }
    if workload.deadline_seconds is not None:
        task["maxRunDuration"] = f"{workload.deadline_seconds}s"
    return task | gcp_batch_retry_policy()


def _variables(workload: Workload) -> dict[str, str]:
    """The environment that brings the manifest, or what a container needs to read it. 40 for one that is too large."""
    if workload.uri is not None:
        return workload.variables()
    text = workload.json()
    check_size("The variable", len(f"{MANIFEST_VARIABLE}={text}".encode()), _LARGEST_VARIABLE)
    return {MANIFEST_VARIABLE: text}


def _instance(settings: GcpBatchSettings) -> dict[str, Any]:
    """The machine to allocate for each container."""
    policy: dict[str, Any] = {
        "provisioningModel": "SPOT" if settings.spot else "STANDARD",
        "bootDisk": {"sizeGb": -(-settings.scratch_mib // 1024) + _SYSTEM_GIB},
    }
    if settings.machine_type is not None:
        policy["machineType"] = settings.machine_type
    if settings.accelerator is not None and settings.gpus:
        policy["accelerators"] = [{"type": settings.accelerator, "count": settings.gpus}]
    return {"policy": policy} | ({"installGpuDrivers": True} if settings.gpus else {})


def gcp_batch_command(workload: Workload, settings: GcpBatchSettings) -> str:
    """The command that submits the job, saved as `job.json`, each time under a new name that begins like the run's."""
    name = workload.manifest.name
    prefix = (name if name[0].isalpha() else f"run-{name}")[:_LONGEST_PREFIX].rstrip("-")
    command = ["gcloud", "batch", "jobs", "submit", "--job-prefix", prefix, "--location", settings.location]
    return shlex.join([*command, "--config", "job.json"])
