"""Writes what of deploy/ follows from code: a Kustomize base, and the retry policies for documents of one's own."""

import json
from pathlib import Path

from job.deploy.kubernetes import CONTAINER, MANIFEST_FILE, kubernetes_job
from job.deploy.retry import aws_batch_retry_strategy, kubernetes_pod_failure_policy
from job.deploy.settings import KubernetesSettings
from job.deploy.workload import Workload
from job.manifest.load import load_manifest
from job.manifest.yaml_reader import write_yaml

ROOT = Path(__file__).resolve().parents[1]
_CONFIG_MAP = "lora-job-manifest"
_KUSTOMIZATION = f"""\
# A base to lay your own manifest and image over; docs/running/kubernetes.md shows how.
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [job.yaml]
configMapGenerator:
- name: {_CONFIG_MAP}
  files: [{MANIFEST_FILE}]
generatorOptions: {{immutable: true}}
"""


def deploy_files() -> dict[str, str]:
    """Text of each file below deploy/."""
    text = (ROOT / "manifests" / "tattoo-captions.yaml").read_text()
    # an overlay brings another name and other limits
    workload = Workload(load_manifest(text, "tattoo-captions.yaml", ("name=lora-job", "limits={}")))
    job = kubernetes_job(workload, KubernetesSettings(image="lora-job"), "lora-job", _CONFIG_MAP)
    policy = write_yaml(kubernetes_pod_failure_policy(CONTAINER))
    return {
        "kubernetes/kustomization.yaml": _KUSTOMIZATION,
        "kubernetes/job.yaml": write_yaml(job),
        f"kubernetes/{MANIFEST_FILE}": text,
        "kubernetes-pod-failure-policy.yaml": "# A Job's spec.podFailurePolicy (needs restartPolicy: Never); "
        f"docs/operations.md says why.\n{policy}",
        "aws-batch-retry-strategy.json": json.dumps(aws_batch_retry_strategy(), indent=2) + "\n",
    }


if __name__ == "__main__":
    for name, text in deploy_files().items():
        path = ROOT / "deploy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
