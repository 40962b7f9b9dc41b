"""The shipped retry policies against the table of exit codes."""

import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from job.deploy.retry import aws_batch_retry_strategy, gcp_batch_retry_policy, kubernetes_pod_failure_policy
from job.errors import ExitCode

ROOT = Path(__file__).resolve().parents[3]
FAILURES = [code for code in ExitCode if code != ExitCode.DONE]


def by_kubernetes(policy: dict[str, Any], code: int) -> str:
    """What the first rule that matches says, as the Job controller reads them."""
    for rule in policy["rules"]:
        if code in rule.get("onExitCodes", {}).get("values", ()):
            return str(rule["action"])
    return "Count"


def by_aws_batch(strategy: dict[str, Any], code: int) -> str:
    """What the first condition that matches says, as AWS Batch reads them; patterns are globs."""
    facts = {"onExitCode": str(code), "onReason": "Essential container in task exited", "onStatusReason": "Task failed"}
    for condition in strategy["evaluateOnExit"]:
        patterns = {key: value for key, value in condition.items() if key != "action"}
        if all(fnmatch.fnmatchcase(facts[key], pattern) for key, pattern in patterns.items()):
            return str(condition["action"])
    return "RETRY"


def by_gcp_batch(policy: dict[str, Any], code: int) -> str:
    """What its one lifecycle policy says; a failure that it does not name is treated the opposite way."""
    (rule,) = policy["lifecyclePolicies"]
    opposite = {"FAIL_TASK": "RETRY_TASK", "RETRY_TASK": "FAIL_TASK"}[rule["action"]]
    return str(rule["action"] if code in rule["actionCondition"]["exitCodes"] else opposite)


def expected(code: ExitCode) -> str:
    """DESIGN: 4x never, 5x again; a bug or a wrong command would end the same."""
    if code in (ExitCode.PREEMPTED, ExitCode.ATTEMPT_HOURS):
        return "free"
    return "never" if code < 50 else "again"


@pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
def test_policies_follow_the_table(code: ExitCode) -> None:
    shipped = yaml.safe_load((ROOT / "deploy" / "kubernetes-pod-failure-policy.yaml").read_text())
    for policy, never in (
        (shipped, "FailJob"),
        (kubernetes_pod_failure_policy("c"), "FailJob"),
        (kubernetes_pod_failure_policy("c", indexed=True), "FailIndex"),
    ):
        assert by_kubernetes(policy, code) == {"never": never, "free": "Ignore", "again": "Count"}[expected(code)]
    assert by_gcp_batch(gcp_batch_retry_policy(), code) == ("FAIL_TASK" if expected(code) == "never" else "RETRY_TASK")
    shipped = json.loads((ROOT / "deploy" / "aws-batch-retry-strategy.json").read_text())
    for strategy in (shipped, aws_batch_retry_strategy()):
        assert by_aws_batch(strategy, code) == {"never": "EXIT", "free": "RETRY", "again": "RETRY"}[expected(code)]


def test_a_process_that_the_platform_killed_is_started_again() -> None:
    for code in (137, 143):
        assert by_kubernetes(kubernetes_pod_failure_policy("c"), code) == "Count"
        assert by_aws_batch(aws_batch_retry_strategy(), code) == "RETRY"
        assert by_gcp_batch(gcp_batch_retry_policy(), code) == "RETRY_TASK"
    assert by_gcp_batch(gcp_batch_retry_policy(), 50001) == "RETRY_TASK"  # how Batch tells of a spot machine taken away


def test_the_operations_page_has_every_code() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)] == sorted(ExitCode)
