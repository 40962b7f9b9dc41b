"""Says by exit code when a platform starts the job again: the one table that every document follows.

A code that stands in neither list counts against the platform's own limit of retries: storage or network (50), another
writer (52), a GPU that failed (53), a stall (54), and whatever the platform itself ends a process with (137, 143).
"""

from typing import Any

from job.errors import ExitCode

# Starting again would end in the same way.
NEVER = tuple(code for code in ExitCode if code.is_final)
# Work was committed, so every start gets further, and no limit of retries should count it.
FREE = (ExitCode.PREEMPTED, ExitCode.ATTEMPT_HOURS)
# The most that AWS Batch (which counts the first attempt) and GCP Batch (which does not) allow. Both count each start.
RETRIES = 10


def kubernetes_pod_failure_policy(container: str, *, indexed: bool = False) -> dict[str, Any]:
    """A Job's `spec.podFailurePolicy`. The first rule that matches a failed pod decides; others count.

    Args:
        indexed: the Job has `backoffLimitPerIndex`: a code in NEVER then ends its index, and not the whole Job.
    """
    return {
        "rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            _on_exit_codes("Ignore", container, FREE),
            _on_exit_codes("FailIndex" if indexed else "FailJob", container, NEVER),
        ]
    }


def _on_exit_codes(action: str, container: str, codes: tuple[ExitCode, ...]) -> dict[str, Any]:
    """A rule of the policy: take the action when the container ends with one of the codes."""
    return {"action": action, "onExitCodes": {"containerName": container, "operator": "In", "values": _numbers(codes)}}


def _numbers(codes: tuple[ExitCode, ...]) -> list[int]:
    return sorted(int(code) for code in codes)


def aws_batch_retry_strategy() -> dict[str, Any]:
    """A job definition's `retryStrategy`. The first condition that matches decides.

    AWS Batch takes at most five conditions, so the codes 40 to 49 are one pattern here. It counts every retry.
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
    """The fields of a `TaskSpec` for retries. GCP Batch takes one policy, and retries every code it does not name."""
    return {
        "maxRetryCount": RETRIES,
        "lifecyclePolicies": [{"action": "FAIL_TASK", "actionCondition": {"exitCodes": _numbers(NEVER)}}],
    }
