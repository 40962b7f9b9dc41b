"""Sums validation losses up in one number, and chooses the checkpoint with the lowest. Torch-free.

Shape legend: E caption sets, N held-out images, T timesteps an image, C timesteps an image on the curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lora_engine.records import ValidationRecord

Losses = npt.NDArray[np.float32] | npt.NDArray[np.float64]

_TIE = 1e-4  # relative difference below which two losses are not told apart

RULE = f"lowest curve loss; of losses within {_TIE:g} of the lowest, relatively, the earliest step"


@dataclass(frozen=True)
class Best:
    """The step with the lowest loss on the curve, and why it is that one."""

    step: int
    loss: float  # on the curve's timesteps
    rule: str  # RULE, in the words that the report shows
    reason: str  # how the rule led to this step


def primary_losses(losses_ENT: Losses, caption_sets: Sequence[str]) -> npt.NDArray[Any]:
    """The losses whose mean is the primary loss: under every caption set but the empty prompt's, which is named "".

    [E, N, T] to [E - 1, N, T], or as they are where the empty prompt was not scored.
    """
    return losses_ENT[[at for at, name in enumerate(caption_sets) if name]]


def summarise(
    step: int,
    losses_ENT: Losses,
    caption_sets: Sequence[str],
    curve_columns_NC: npt.NDArray[np.int64] | None,
) -> ValidationRecord:
    """Sum an adapter's losses at a step up in one row of `validation.jsonl`.

    Args:
        curve_columns_NC: each image's columns of a final grid, in [0, T), that are on the curve; None where the grid
            is the curve's own.
    """
    wide = losses_ENT.astype(np.float64)
    primary = on_curve = primary_losses(wide, caption_sets)
    if curve_columns_NC is not None:
        on_curve = np.take_along_axis(primary, curve_columns_NC[np.newaxis].repeat(len(primary), axis=0), axis=2)
    return ValidationRecord(
        step=step,
        loss=float(primary.mean()),
        curve_loss=float(on_curve.mean()),
        timesteps=losses_ENT.shape[2],
        images=losses_ENT.shape[1],
        caption_sets={name: float(wide[at].mean()) for at, name in enumerate(caption_sets)},
    )


def choose_best(records: Sequence[ValidationRecord]) -> Best:
    """The best of the evaluations that have a checkpoint, that is of all but step 0, which is the base model.

    Raises:
        ValueError: there is none.
    """
    candidates = [record for record in records if record.step > 0]
    lowest = min(record.curve_loss for record in candidates)
    tied = [record for record in candidates if record.curve_loss <= lowest * (1 + _TIE)]
    best = min(tied, key=lambda record: record.step)
    reason = f"its loss {best.curve_loss:.6f} is the lowest of {len(candidates)} evaluations"
    if len(tied) > 1:
        steps = ", ".join(str(record.step) for record in tied)
        reason = f"steps {steps} are within {_TIE:g} of the lowest loss {lowest:.6f}, and it is the earliest of them"
    return Best(best.step, best.curve_loss, RULE, reason)
