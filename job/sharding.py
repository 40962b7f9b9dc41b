"""How processes that share a run divide its packs: by lease, each beginning with its own."""

import math
from collections.abc import Callable, Sequence

from job import layout
from job.env import Shard
from job.errors import JobError, code_of
from job.manifest.packs import Pack
from job.run.context import Attempt
from job.run.lease import HeldError
from job.run.status import Status
from lora_engine.errors import EngineError


def distribute_packs(
    attempt: Attempt, packs: Sequence[Pack], shard: Shard | None, train: Callable[[Pack, float], None]
) -> None:
    """Train every pack that no other process is at.

    A process with a shard waits for its own packs as long as another is at them, and leaves the rest to others. One
    without knows of no other: it has to see the end of all, or say that it could not.

    Args:
        train: trains a pack after waiting for it for so many minutes.

    Raises:
        HeldError: without a shard; another process did not finish in time.
    """
    held = []
    for pack in shard.in_turn(packs) if shard else packs:
        foreign = shard is not None and not shard.owns(pack, packs)
        if not _try(attempt, pack, train, foreign=foreign) and not foreign:
            held.append(pack)
    for pack in held:
        train(pack, math.inf if shard else attempt.manifest.limits.lease_wait)


def _try(attempt: Attempt, pack: Pack, train: Callable[[Pack, float], None], *, foreign: bool) -> bool:
    """Train the pack unless another process is at it; whether none was.

    A foreign pack that fails so that trying again would end the same is for its own shard to fail with.
    """
    status = attempt.run.read_stored(layout.unit_status(pack.unit), Status) if foreign else None
    if status is not None and status.failed_for_good:
        attempt.progress.warn(f"{pack.unit} failed before and is left to its own process: {status.cause}")
        return True
    try:
        train(pack, 0)
    except HeldError:
        return False
    except (JobError, EngineError) as error:
        if not foreign or not code_of(error).is_final:
            raise
        attempt.stop.check()  # a limit of the whole run is no fault of the pack
        attempt.progress.warn(f"{pack.unit} failed and is left to its own process: {error}")
    return True
