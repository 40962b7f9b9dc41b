"""When a platform starts the job again, by exit code: the one table that every document for a platform follows.

A code that stands in neither list counts against the platform's own limit of retries: storage or network (50), another
writer (52), a GPU that failed (53), a stall (54), and whatever the platform itself ends a process with (137, 143).
"""

from typing import Any

from job.errors import ExitCode

# Starting again would end the same.
NEVER = tuple(code for code in ExitCode if code.is_final)
# Work was committed, so that every start gets further; no limit of retries should count it.
FREE = (ExitCode.PREEMPTED, ExitCode.ATTEMPT_HOURS)
# The most that AWS Batch (with the first attempt) and GCP Batch (without it) take. Both count every start that is lost.
RETRIES = 10


def kubernetes_pod_failure_policy(container: str, *, indexed: bool = False) -> dict[str, Any]:
    """A Job's `spec.podFailurePolicy`. The first rule that matches a failed pod decides; others count.

    Args:
        indexed: of a Job with `backoffLimitPerIndex`, where a code that never mends ends its index, not the Job.
    """
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            _on_exit_codes("Ignore", container, FREE),
            _on_exit_codes("FailIndex" if indexed else "FailJob", container, NEVER),
        ]
    }


def _on_exit_codes(action: str, container: str, codes: tuple[ExitCode, ...]) -> dict[str, Any]:
    return {"action": action, "onExitCodes": {"containerName": container, "operator": "In", "values": _numbers(codes)}}


def _numbers(codes: tuple[ExitCode, ...]) -> list[int]:
    return sorted(int(code) for code in codes)


def aws_batch_retry_strategy() -> dict[str, Any]:
    """A job definition's `retryStrategy`. The first condition that matches decides.

    AWS Batch takes five conditions at most and has no retry that does not count, so 4x is a pattern here.
    """
    return {
        "attempts": RETRIES,
        "evaluateOnExit": [
            {"onStatusReason": "Host EC2*", "action": "RETRY"},  # the machine was taken away
            {"onExitCode": "4*", "action": "EXIT"},
            {"onExitCode": str(int(ExitCode.BUG)), "action": "EXIT"},
            {"onExitCode": str(int(ExitCode.USAGE)), "action": "EXIT"},
            {"onReason": "*", "action": "RETRY"},
        ],
    }


def gcp_batch_retry_policy() -> dict[str, Any]:
    """The fields of a `TaskSpec` that say it. GCP Batch takes one policy, and retries what that does not name."""
    return {
        "maxRetryCount": RETRIES,
        "lifecyclePolicies": [{"action": "FAIL_TASK", "actionCondition": {"exitCodes": _numbers(NEVER)}}],
    }
