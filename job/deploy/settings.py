"""The settings of a platform's document besides the manifest: options of `lora-job render`, checked."""

import re
from dataclasses import dataclass
from typing import NoReturn

from job.errors import ExitCode, JobError

SHARED_MEMORY_MIB = 1024  # the size of /dev/shm
_LEAST_MEMORY_MIB = 2048
_LEAST_SCRATCH_MIB = 1024
_MIB_OF = {"Mi": 1, "Gi": 1024, "Ti": 1024**2}

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = (
    rf"(?:[a-z0-9][a-z0-9.-]*(?::[0-9]+)?/)?{_COMPONENT}(?:/{_COMPONENT})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?"
)
_DNS_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_DNS_NAME = rf"(?=.{{1,253}}\Z){_DNS_LABEL}(?:\.{_DNS_LABEL})*"
_ARN = r"arn:aws[a-z-]*:{service}:[^\s=]+"
_VARIABLE = r"(?!AWS_BATCH)[A-Za-z_][A-Za-z0-9_]*"


def mebibytes(option: str, text: str) -> int:
    """The size that an option gives, such as 12Gi, in MiB.

    Raises:
        JobError: 2, it is no size.
    """
    match = re.fullmatch(r"([0-9]{1,6})([MGT]i)", text)
    if match is None:
        _refuse(option, text, "a whole number with Mi, Gi or Ti, such as 12Gi")
    return int(match[1]) * _MIB_OF[match[2]]


def quantity(mib: int) -> str:
    """The size as `mebibytes` reads it and Kubernetes writes it."""
    return f"{mib}Mi" if mib % 1024 else f"{mib // 1024}Gi"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that every platform has. A wrong value raises `JobError` 2."""

    image: str
    gpus: int = 1
    cpus: int = 3
    memory_mib: int = 12 * 1024  # three CPUs and this fit the smallest machines with a GPU: four CPUs, 15 or 16 GiB
    secrets: tuple[str, ...] = ()
    service_account: str | None = None

    def __post_init__(self) -> None:
        _check("image", self.image, _IMAGE, "an image, such as registry.example/lora-job:0.1.0")
        if self.memory_mib < _LEAST_MEMORY_MIB:
            _refuse("memory", f"{self.memory_mib}Mi", "at least 2Gi")


def thread_variables(settings: Settings) -> dict[str, str]:
    """Variables for a platform on which `cpus` are a request, that the container cannot see, and no quota.

    Without them it would start a thread for each core of the node, and those of its neighbours' containers, too.
    """
    return {"OMP_NUM_THREADS": str(settings.cpus)}


@dataclass(frozen=True, kw_only=True)
class ScratchSettings(Settings):
    """Settings of a platform that gives each container as much disk as it asks for."""

    scratch_mib: int = 30 * 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scratch_mib < _LEAST_SCRATCH_MIB:
            _refuse("scratch", f"{self.scratch_mib}Mi", "at least 1Gi")


@dataclass(frozen=True, kw_only=True)
class KubernetesSettings(ScratchSettings):
    """Settings of a Kubernetes Job. `secrets` are names of Secrets whose keys become variables."""

    namespace: str | None = None
    queue: str | None = None  # a LocalQueue of Kueue
    network_policy: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for secret in self.secrets:
            _check("secret", secret, _DNS_NAME, "the name of a Secret, whose keys become variables")
        _check("service-account", self.service_account, _DNS_NAME, "the name of a ServiceAccount")
        _check("namespace", self.namespace, _DNS_LABEL, "the name of a namespace")
        _check("queue", self.queue, _DNS_LABEL, "the name of a LocalQueue")


@dataclass(frozen=True, kw_only=True)
class AwsBatchSettings(Settings):
    """Settings of an AWS Batch job definition. `secrets` are VARIABLE=ARN; `service_account` is the role of the job."""

    queue: str
    execution_role: str | None = None  # the role of the ECS agent, which reads the secrets

    def __post_init__(self) -> None:
        super().__post_init__()
        arn = _ARN.format(service="(?:secretsmanager|ssm)")
        for secret in self.secrets:
            _check("secret", secret, f"{_VARIABLE}={arn}", "VARIABLE=ARN of a secret or parameter")
        role = _ARN.format(service="iam")
        _check("service-account", self.service_account, role, "the ARN of a role, arn:aws:iam::<account>:role/<name>")
        _check("execution-role", self.execution_role, role, "the ARN of a role, arn:aws:iam::<account>:role/<name>")
        _check("queue", self.queue, rf"[A-Za-z0-9][-_A-Za-z0-9]{{0,127}}|{_ARN.format(service='batch')}", "a job queue")
        if self.secrets and self.execution_role is None:
            cause = "--secret without --execution-role: AWS Batch reads secrets by the execution role."
            raise JobError(ExitCode.USAGE, cause, "Add --execution-role ARN.")


@dataclass(frozen=True, kw_only=True)
class GcpBatchSettings(ScratchSettings):
    """Settings of a Google Cloud Batch job.

    `secrets` are VARIABLE=projects/P/secrets/S/versions/V; `service_account` is an e-mail address.
    """

    location: str
    machine_type: str | None = None
    accelerator: str | None = None
    spot: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        name = r"[a-z][-a-z0-9]{0,62}"
        version = r"projects/[^/\s]+/secrets/[^/\s]+/versions/[^/\s]+"
        for secret in self.secrets:
            _check("secret", secret, f"{_VARIABLE}={version}", "VARIABLE=projects/P/secrets/S/versions/V")
        _check("service-account", self.service_account, r"[^@\s]+@[^@\s]+", "the address of a service account")
        _check("location", self.location, name, "a region, such as us-central1")
        _check("machine-type", self.machine_type, name, "a machine type, such as g2-standard-4")
        _check("accelerator", self.accelerator, name, "a type of GPU, such as nvidia-tesla-t4")
        if self.gpus and self.machine_type is None and self.accelerator is None:
            cause = f"--gpus {self.gpus} does not say which GPU."
            remedy = "Add --accelerator nvidia-tesla-t4, or --machine-type g2-standard-4, which has a GPU of its own."
            raise JobError(ExitCode.USAGE, cause, remedy)


def _check(option: str, value: str | None, pattern: str, allowed: str) -> None:
    if value is not None and re.fullmatch(pattern, value) is None:
        _refuse(option, value, allowed)


def _refuse(option: str, value: str, allowed: str) -> NoReturn:
    raise JobError(ExitCode.USAGE, f"--{option} {value!r} cannot be used.", f"Write {allowed}.")
