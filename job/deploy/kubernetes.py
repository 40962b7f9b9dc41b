"""Makes a Job for Kubernetes, with its manifest in a ConfigMap.

It needs Kubernetes 1.26, or 1.29 where machines share a run.
"""

import hashlib
import json
from typing import Any
from urllib.parse import urlsplit

from job.deploy.retry import RETRIES, kubernetes_pod_failure_policy
from job.deploy.settings import SHARED_MEMORY_MIB, KubernetesSettings, quantity, thread_variables
from job.deploy.workload import Workload, check_size
from job.manifest.schema import Manifest

CONTAINER = "lora-job"
MANIFEST_FILE = "manifest.yaml"
_MANIFEST_FOLDER = "/manifest"
_SCRATCH_FOLDER = "/scratch"  # where the image puts all that it writes
_KEPT_SECONDS = 3 * 24 * 3600  # a finished Job can be looked at over a weekend
_LOGS_MIB = 1024  # logs count as ephemeral storage too
_LARGEST_DATA = 1024**2  # bytes that a ConfigMap may hold
_LONGEST_NAME = 52  # Kubernetes adds an index and five letters, and a name may have 63 characters
_DIGEST = 10  # letters of the name that are a hash

Document = dict[str, Any]


def kubernetes_documents(workload: Workload, settings: KubernetesSettings) -> tuple[Document, ...]:
    """ConfigMap, Job and, if asked for, NetworkPolicy, all under one name.

    Jobs and immutable ConfigMaps never change, so the name ends in a hash of their content: applying the same documents
    again is the same Job, and other documents make another.

    Raises:
        JobError: 40, the manifest is too large for a ConfigMap.
    """
    content = json.dumps(_documents(workload, settings, "")).encode()
    digest = hashlib.sha256(content).hexdigest()[:_DIGEST]
    start = workload.manifest.name[: _LONGEST_NAME - _DIGEST - 1].rstrip("-")
    return _documents(workload, settings, f"{start}-{digest}")


def _documents(workload: Workload, settings: KubernetesSettings, name: str) -> tuple[Document, ...]:
    """The documents under a name that is given."""
    documents = [] if workload.uri is not None else [_config_map(workload, settings, name)]
    documents.append(kubernetes_job(workload, settings, name, config_map=name))
    if settings.network_policy:
        documents.append(_network_policy(workload, settings, name))
    return tuple(documents)


def _config_map(workload: Workload, settings: KubernetesSettings, name: str) -> Document:
    text = workload.yaml()
    check_size("The ConfigMap", len(text.encode()), _LARGEST_DATA)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(workload, settings, name),
        "immutable": True,
        "data": {MANIFEST_FILE: text},
    }


def kubernetes_job(workload: Workload, settings: KubernetesSettings, name: str, config_map: str) -> Document:
    """The Job alone.

    Args:
        config_map: the name of the ConfigMap that holds the manifest.
    """
    metadata = _metadata(workload, settings, name)
    if settings.queue is not None:
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = settings.queue
    spec: Document = {"suspend": True} if settings.queue is not None else {}  # Kueue starts it
    machines = workload.machines
    if machines > 1:
        # There is no maxFailedIndexes: a failure of one pack says nothing about the others, and a cause that all share
        # ends each of them by itself.
        spec |= {"completionMode": "Indexed", "completions": machines, "parallelism": machines}
        spec["backoffLimitPerIndex"] = RETRIES
    else:
        spec["backoffLimit"] = RETRIES
    if workload.deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = workload.deadline_seconds
    spec["ttlSecondsAfterFinished"] = _KEPT_SECONDS
    spec["podFailurePolicy"] = kubernetes_pod_failure_policy(CONTAINER, indexed=machines > 1)
    template: Document = {"labels": _labels(workload.manifest)}
    if workload.uri is not None:  # the hash makes another text at the same URI another Job
        template["annotations"] = {"lora-job/manifest-sha256": hashlib.sha256(workload.yaml().encode()).hexdigest()}
    spec["template"] = {"metadata": template, "spec": _pod(workload, settings, config_map)}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _pod(workload: Workload, settings: KubernetesSettings, config_map: str) -> Document:
    """The pod's `spec`: one container, its volumes, and the rights it has not."""
    volumes: list[Document] = [
        {"name": "scratch", "emptyDir": {"sizeLimit": quantity(settings.scratch_mib)}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": quantity(SHARED_MEMORY_MIB)}},
    ]
    if workload.uri is None:
        volumes.insert(0, {"name": "manifest", "configMap": {"name": config_map}})
    pod: Document = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": workload.grace_seconds,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    }
    if settings.service_account is not None:
        pod["serviceAccountName"] = settings.service_account
    if settings.gpus:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return pod | {"containers": [_container(workload, settings)], "volumes": volumes}


def _container(workload: Workload, settings: KubernetesSettings) -> Document:
    """The container, which may write nothing but its mounts."""
    mounts: list[Document] = [
        {"name": "scratch", "mountPath": _SCRATCH_FOLDER},
        {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - a mount, not a file
    ]
    if workload.uri is None:
        mounts.insert(0, {"name": "manifest", "mountPath": _MANIFEST_FOLDER, "readOnly": True})
    container: Document = {
        "name": CONTAINER,
        "image": settings.image,
        "args": [_literal(argument) for argument in workload.arguments(f"{_MANIFEST_FOLDER}/{MANIFEST_FILE}")],
        "resources": _resources(settings),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",  # a killed container cannot write a message itself
        "volumeMounts": mounts,
    }
    variables = workload.variables() | thread_variables(settings)
    container["env"] = [{"name": name, "value": _literal(value)} for name, value in variables.items()]
    if settings.secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in settings.secrets]
    return container


def _literal(text: str) -> str:
    """The text as Kubernetes takes it for itself: it replaces $(VARIABLE) in arguments and variables, and $$ by $."""
    return text.replace("$", "$$")


def _resources(settings: KubernetesSettings) -> Document:
    """Requests and limits. CPUs have no limit, which would only slow the job down while the machine is idle."""
    limits: Document = {
        "memory": quantity(settings.memory_mib),
        "ephemeral-storage": quantity(settings.scratch_mib + _LOGS_MIB),
    }
    if settings.gpus:
        limits["nvidia.com/gpu"] = settings.gpus
    return {"requests": {"cpu": settings.cpus} | limits, "limits": limits}


def _network_policy(workload: Workload, settings: KubernetesSettings, name: str) -> Document:
    """A NetworkPolicy that lets nothing in, and out only DNS, HTTPS and the ports of the manifest's stores."""
    ports = [{"port": port, "protocol": "TCP"} for port in sorted({443} | _store_ports(workload.manifest))]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(workload, settings, name),
        "spec": {
            "podSelector": {"matchLabels": _labels(workload.manifest)},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [
                {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},
                {"ports": ports},
            ],
        },
    }


def _store_ports(manifest: Manifest) -> set[int]:
    """The TCP ports of the endpoints that the manifest names."""
    stores = (manifest.model_storage(), manifest.dataset_storage(), manifest.output_storage())
    urls = [urlsplit(store.endpoint_url) for store in stores if store.endpoint_url is not None]
    return {url.port or (80 if url.scheme == "http" else 443) for url in urls}


def _metadata(workload: Workload, settings: KubernetesSettings, name: str) -> Document:
    namespace = {} if settings.namespace is None else {"namespace": settings.namespace}
    return {"name": name, **namespace, "labels": _labels(workload.manifest)}


def _labels(manifest: Manifest) -> dict[str, str]:
    return {"app.kubernetes.io/name": "lora-job", "app.kubernetes.io/instance": manifest.name}
