"""Divides the packs of a run among the processes that share it: leases keep two from training one pack."""

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
    """Train every pack that no other process works on.

    A process with a shard waits for its own packs for as long as another process works on them, and leaves other packs
    to whoever holds them. A process without a shard knows of no other, so all packs are its own; it waits for them for
    `limits.lease_wait` minutes.

    Args:
        train: trains a pack after waiting for its lease for so many minutes.

    Raises:
        HeldError: 52 when this process has no shard, and another one still held a pack after the wait.
    """
    held_by_others = []
    for pack in shard.in_turn(packs) if shard else packs:
        foreign = shard is not None and not shard.owns(pack, packs)
        if not _train_if_free(attempt, pack, train, foreign=foreign) and not foreign:
            held_by_others.append(pack)
    for pack in held_by_others:
        train(pack, math.inf if shard else attempt.manifest.limits.lease_wait)


def _train_if_free(attempt: Attempt, pack: Pack, train: Callable[[Pack, float], None], *, foreign: bool) -> bool:
    """Train the pack and return True, or return False where another process works on it.

    Args:
        foreign: whether the pack is another shard's own. One that has failed, or fails now, in a way that trying again
            would end in, too, is left to that shard, and counts as dealt with.
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
        attempt.stop.check()  # Code 48 is final, too, but a limit of the whole run is no fault of the pack.
        attempt.progress.warn(f"{pack.unit} failed and is left to its own process: {error}")
    return True
