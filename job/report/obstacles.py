"""Why a pair of variants gets no verdict, whatever its numbers are."""

from collections.abc import Sequence

from job.report.members import Trained
from job.report.schema import Pair
from job.report.words import refused

_REFUSED = 0.01  # share of the steps: adapters of which one was refused so many more updates cannot be compared
_HASHES = {
    "initial_weights_sha256": "initial weights",
    "order_sha256": "order of images",
    "timesteps_sha256": "timesteps",
    "noise_sha256": "noise",
}


def obstacle(pair: Pair, adapters: Sequence[tuple[Trained, Trained]]) -> str | None:
    """What stands in the way of a verdict, in words; None where nothing does.

    Args:
        adapters: those of the pair, of each seed.
    """
    both = f"{pair.a} and {pair.b}"
    if pair.withheld:
        fields = ", ".join(f"{_HASHES[field]} ({field})" for field in pair.withheld)
        return f"{both} are not like for like: unlike {fields}, which nothing in the manifest explains"
    for one in (each.report for two in adapters for each in two):
        if one.diverged_at is not None:
            return f"{one.variant}, seed {one.seed}, diverged at step {one.diverged_at}: {both} are not compared"
    for a, b in ((two[0].report, two[1].report) for two in adapters):
        if abs(a.skipped_steps - b.skipped_steps) > _REFUSED * min(a.steps, b.steps):
            apart = f"{refused(a, b)}, which is more than {_REFUSED:.0%} of the steps apart"
            return f"{both} cannot be compared: with seed {a.seed}, {apart}"
    return None
