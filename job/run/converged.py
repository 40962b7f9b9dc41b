"""Whether the adapters of a run were trained: none diverged, and each was updated at least once."""

from collections.abc import Iterable, Sequence

from job import layout
from job.layout import Member
from job.run.checkpoints import FinalPointer
from job.storage.folder import RunFolder
from lora_engine.errors import DivergedError
from lora_engine.records import StepRecord

_EXPLODED = 100.0  # times an adapter's first loss: a loss beyond that grew by too large updates
_TOO_FAST = "Lower training.optimizer.learning_rate or use precision: bf16 or fp32, with --set name=..."
_NOT_TOO_FAST = (
    "The losses stayed finite and small, so the learning rate is not the cause: use training.precision: fp32, with "
    "--set name=...; if gradients are refused there, too, lower lora.alpha, or try another device or base model."
)


def require_converged(run: RunFolder, members: Sequence[Member]) -> None:
    """Make sure that every member whose training has ended was trained.

    Raises:
        DivergedError: some have diverged, or had all of their updates refused.
    """
    finals = {member: run.read_stored(layout.final(member), FinalPointer) for member in members}
    diverged = {m: final.diverged_at for m, final in finals.items() if final and final.diverged_at is not None}
    if diverged:
        where = "; ".join(f"{member.variant}, seed {member.seed} at step {step}" for member, step in diverged.items())
        raise DivergedError(
            f"Diverged: {where}. It keeps the weights that it had; the others are trained and reported.",
            _remedy([row for row in _rows(run, m) if row.step <= step] for m, step in diverged.items()),
        )
    ended = {member: _rows(run, member) for member, final in finals.items() if final is not None}
    untrained = [m for m, rows in ended.items() if rows and all(row.skipped for row in rows)]
    if untrained:
        names = "; ".join(f"{member.variant}, seed {member.seed}" for member in untrained)
        raise DivergedError(
            f"Never trained: {names}. All {len(ended[untrained[0]])} updates were refused, since a loss or a gradient "
            "was not finite.",
            _remedy(ended.values()),
        )


def _rows(run: RunFolder, member: Member) -> list[StepRecord]:
    return run.read_rows(layout.metrics(member), StepRecord) or []


def _remedy(of_members: Iterable[Sequence[StepRecord]]) -> str:
    """What to do about the updates that were refused: another learning rate only where a loss had grown.

    Args:
        of_members: the rows of each member while it was trained.
    """
    refused = [(rows[0].loss, row) for rows in of_members for row in rows if row.grad_norm is None or row.loss is None]
    if not refused:
        return _TOO_FAST  # Only the held-out losses were not finite.
    exploded = any(row.loss is None or (first is not None and row.loss > _EXPLODED * first) for first, row in refused)
    return _TOO_FAST if exploded else _NOT_TOO_FAST
