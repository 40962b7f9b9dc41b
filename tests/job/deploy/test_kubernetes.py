"""What the schema of Kubernetes does not say, and its API server, kubelet or users would."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from job.deploy.kubernetes import kubernetes_documents
from job.deploy.settings import KubernetesSettings
from job.deploy.workload import Workload
from job.manifest.load import load_manifest
from render_deploy import deploy_files
from tests.job.deploy.rendering import CASES, STUDY, golden_path, render, render_case

ROOT = Path(__file__).resolve().parents[3]
KUBECTL = Path(sys.executable).parent / "kubectl"
NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True)
UNITS = {"": 1, "Mi": 2**20, "Gi": 2**30}
CASE_NAMES = [name for name in CASES if name.startswith("kubernetes")]


def documents_of(name: str) -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all(golden_path(name).read_text())}


def amount(quantity: Any) -> int:
    match = re.fullmatch(r"(\d+)(|Mi|Gi)", str(quantity))
    assert match, quantity
    return int(match[1]) * UNITS[match[2]]


@pytest.mark.parametrize("name", CASE_NAMES)
def test_a_pod_asks_for_no_more_than_it_may_have(name: str) -> None:
    pod = documents_of(name)["Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    for resource, limit in limits.items():
        assert 0 < amount(requests[resource]) <= amount(limit)
    assert amount(requests["cpu"]) > 0
    assert ("nvidia.com/gpu" in limits) == ("tolerations" in pod) == (name != "kubernetes-cpu")
    sizes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume}
    assert amount(sizes["scratch"]["sizeLimit"]) < amount(limits["ephemeral-storage"])
    assert sizes["shared-memory"]["medium"] == "Memory"  # which counts as memory of the container
    assert amount(sizes["shared-memory"]["sizeLimit"]) < amount(limits["memory"])


@pytest.mark.parametrize("name", CASE_NAMES)
def test_what_is_mounted_exists_and_is_used(name: str) -> None:
    documents = documents_of(name)
    pod = documents["Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in pod["volumes"]]
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/manifest", "/scratch", "/dev/shm"]
    assert pod["volumes"][0]["configMap"]["name"] == documents["ConfigMap"]["metadata"]["name"]
    command, place = container["args"]
    assert command == "run"
    assert place.removeprefix("/manifest/") in documents["ConfigMap"]["data"]
    assert documents["ConfigMap"]["immutable"] is True


@pytest.mark.parametrize("name", CASE_NAMES)
def test_a_pod_meets_the_restricted_standard(name: str) -> None:
    pod = documents_of(name)["Job"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert {"hostNetwork", "hostPID", "hostIPC"}.isdisjoint(pod)
    assert all(volume.keys() & {"configMap", "emptyDir"} for volume in pod["volumes"])


@pytest.mark.parametrize("name", CASE_NAMES)
def test_the_failure_policy_is_one_that_the_api_server_takes(name: str) -> None:
    spec = documents_of(name)["Job"]["spec"]
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    for rule in spec["podFailurePolicy"]["rules"]:
        codes = rule.get("onExitCodes")
        assert (codes is None) != ("onPodConditions" not in rule)
        if codes is not None:
            assert codes["containerName"] in [container["name"] for container in pod["containers"]]
            assert 0 not in codes["values"]
            assert codes["values"] == sorted(set(codes["values"]))
        assert rule["action"] != "FailIndex" or "backoffLimitPerIndex" in spec
    indexed = spec.get("completionMode") == "Indexed"
    assert indexed == ("backoffLimitPerIndex" in spec) == ("backoffLimit" not in spec)
    assert not indexed or spec["completions"] == spec["parallelism"] > 1


def test_options_reach_the_documents() -> None:
    documents = documents_of("kubernetes-every-option")
    assert {document["metadata"]["namespace"] for document in documents.values()} == {"training"}
    job, policy = documents["Job"], documents["NetworkPolicy"]["spec"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert job["spec"]["suspend"] is True
    pod = job["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "trainer"
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "hub"}}, {"secretRef": {"name": "s3-keys"}}]
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy
    assert [port["port"] for rule in policy["egress"] for port in rule["ports"]] == [53, 53, 443, 9000]


def expanded(text: str, variables: dict[str, str]) -> str:
    """What a container gets of an argument: `$$` is a dollar, and `$(NAME)` the variable, if there is one."""

    def value(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", value, text)


def test_a_container_gets_the_texts_as_they_were_written() -> None:
    dollars = ("$(HOME)", "$$(HOME)", "$$$(HOME)", "a $HOME, $", "$$")
    loaded = load_manifest(STUDY.read_text(), "m.yaml")
    workload = Workload(loaded, "s3://b/$(HOME).yaml", tuple(f"variants.0.captions.text={text}" for text in dollars))
    (job,) = kubernetes_documents(workload, KubernetesSettings(image="i"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"][1] == "s3://b/$$(HOME).yaml"
    assert [expanded(text, {"HOME": "stolen"}) for text in container["args"]] == workload.arguments()


@pytest.mark.parametrize(("name", "cpus"), [("kubernetes-plain", "3"), ("kubernetes-every-option", "8")])
def test_a_pod_starts_no_more_threads_than_it_asks_for_processors(name: str, cpus: str) -> None:
    (container,) = documents_of(name)["Job"]["spec"]["template"]["spec"]["containers"]
    assert {"name": "OMP_NUM_THREADS", "value": cpus} in container["env"]
    assert str(container["resources"]["requests"]["cpu"]) == cpus


def test_another_document_has_another_name_and_the_same_has_the_same() -> None:
    def name(*options: str) -> str:
        rendered = render("kubernetes", STUDY, "--image", "lora-job:1", *options)
        names = {document["metadata"]["name"] for document in yaml.safe_load_all(rendered.document)}
        assert len(names) == 1
        return names.pop()

    assert name() == name()
    others = [("--set", "training.steps=7"), ("--image", "lora-job:2"), ("--memory", "13Gi"), ("--per-seed",)]
    assert len({name(), *(name(*options) for options in others)}) == 5


def test_a_single_pack_is_an_ordinary_job() -> None:
    text = STUDY.read_text().replace("seeds: [1, 2]", "seeds: [1]").replace(", lora: {rank: 4}", "")
    workload = Workload(load_manifest(text, "m.yaml", ("split_packs_by=[seed]",)))
    _, job = kubernetes_documents(workload, KubernetesSettings(image="lora-job"))
    assert "completionMode" not in job["spec"]


@settings(max_examples=100, deadline=None)
@given(name=NAMES, seeds=st.integers(1, 64), variants=st.integers(1, 3))
def test_names_fit_everywhere(name: str, seeds: int, variants: int) -> None:
    manifest = load_manifest(STUDY.read_text(), "m.yaml", ("split_packs_by=[variant, seed]",))
    copies = [manifest.variants[0].model_copy(update={"name": f"v{at}"}) for at in range(variants)]
    changed = {"name": name, "seeds": tuple(range(seeds)), "variants": tuple(copies)}
    workload = Workload(manifest.model_copy(update=changed))
    for document in kubernetes_documents(workload, KubernetesSettings(image="i", network_policy=True)):
        found = document["metadata"]["name"]
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", found)
        assert name.startswith(found[:-11])
        last = seeds * variants - 1
        assert len(f"{found}-{last}-abcde") <= 63
        for label in document["metadata"]["labels"].values():
            assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", label)


def test_the_base_is_what_the_code_gives() -> None:
    expected = deploy_files()
    found = {str(path.relative_to(ROOT / "deploy")) for path in (ROOT / "deploy").rglob("*") if path.is_file()}
    assert found == {*expected, "iam-policy.json"}  # which no manifest changes
    for name, text in expected.items():
        assert (ROOT / "deploy" / name).read_text() == text, "python scripts/render_deploy.py"


def overlay_of_the_page() -> str:
    page = (ROOT / "docs" / "running" / "kubernetes.md").read_text()
    block = re.search(r"```yaml\n# kustomization.yaml\n(.*?)```", page, re.DOTALL)
    assert block
    return block[1]


def test_an_overlay_brings_its_own_manifest_and_image(tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml").write_text(STUDY.read_text())
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    (tmp_path / "kustomization.yaml").write_text(overlay_of_the_page().replace("lora-job/deploy/", "deploy/"))
    built = subprocess.run([KUBECTL, "kustomize", tmp_path], check=True, capture_output=True, text=True).stdout
    documents = {document["kind"]: document for document in yaml.safe_load_all(built)}
    pod = documents["Job"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "registry.example/lora-job:0.1.0"
    assert pod["volumes"][0]["configMap"]["name"] == documents["ConfigMap"]["metadata"]["name"]
    assert load_manifest(documents["ConfigMap"]["data"]["manifest.yaml"], "m.yaml").name == "study"
    assert documents["ConfigMap"]["immutable"] is True


def test_the_command_applies_what_was_printed() -> None:
    assert render_case(CASES["kubernetes-plain"]).commands == ["kubectl apply --server-side -f job.yaml"]
