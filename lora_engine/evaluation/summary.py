"""Sums validation losses up in one number, and chooses the best checkpoint. Torch-free.

Shape legend: N held-out images, C timesteps an image on the curve.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lora_engine.evaluation.components import Weights
from lora_engine.evaluation.loss_file import EvaluationLosses
from lora_engine.evaluation.statistics import CONFIDENCE, FEWEST_GROUPS, estimate
from lora_engine.records import ValidationRecord

_TIE = 1e-4  # relative difference below which the earlier rule does not tell two losses apart

RULE = (
    f"lowest curve loss as trained; of the steps whose loss, paired by image, is not told from the lowest at "
    f"{CONFIDENCE:.0%}, the earliest"
)
EARLIER_RULE = f"lowest curve loss; of losses within {_TIE:g} of the lowest, relatively, the earliest step"


@dataclass(frozen=True)
class Best:
    """The best step on the curve, and why it is that one."""

    step: int
    loss: float  # on the curve's timesteps
    rule: str  # RULE or EARLIER_RULE, in the words that the report shows
    reason: str  # how the rule led to this step


def summarise(
    losses: EvaluationLosses, weights: Weights, curve_columns_NC: npt.NDArray[np.int64] | None
) -> ValidationRecord:
    """Sum an adapter's losses at a step up in one row of `validation.jsonl`.

    Args:
        weights: of the components that the loss is the mean over.
        curve_columns_NC: each image's columns of a final grid, in [0, T), that are on the curve; None where the grid
            is the curve's own.

    Raises:
        NotScoredError: a component was not scored at all timesteps.
    """
    means = np.nanmean(losses.losses_ENT.astype(np.float64), axis=(1, 2))
    images, timesteps = losses.timesteps_NT.shape
    return ValidationRecord(
        step=losses.step,
        loss=float(losses.per_image(weights).mean()),
        curve_loss=float(losses.per_image(weights, curve_columns_NC).mean()),
        timesteps=timesteps,
        images=images,
        caption_sets={name: float(mean) for name, mean in zip(losses.components, means, strict=True)},
    )


def choose_best(losses: Mapping[int, npt.NDArray[np.float64]], groups: npt.NDArray[np.str_]) -> Best:
    """The best of the evaluations that have a checkpoint, that is of all but step 0, which is the base model.

    A loss that is lower by less than its noise says nothing, and training on only invites memorising.

    Args:
        losses: each step's loss as trained on the curve's timesteps, of each image [N].
        groups: the group of near-duplicates that each image belongs to, [N].

    Raises:
        ValueError: there is no step above 0.
    """
    steps = sorted(step for step in losses if step > 0)
    lowest = min(steps, key=lambda step: (losses[step].mean(), step))
    value = float(losses[lowest].mean())
    among = f"the lowest of {len(steps)} checkpoints"
    if len(np.unique(groups)) < FEWEST_GROUPS:
        return Best(lowest, value, RULE, f"its loss {value:.6f} is {among}; too few images to tell any two apart")
    alike = [s for s in steps if s == lowest or _is_alike(losses[s] - losses[lowest], groups)]
    best = alike[0]
    if best == lowest:
        return Best(best, value, RULE, f"its loss {value:.6f} is {among}, and is told from every earlier one")
    found = float(losses[best].mean())
    reason = f"its loss {found:.6f} is not told from {value:.6f} at step {lowest}, {among}, and it is the earliest such"
    return Best(best, found, RULE, reason)


def _is_alike(differences_N: npt.NDArray[np.float64], groups: npt.NDArray[np.str_]) -> bool:
    return estimate(differences_N[np.newaxis], groups).interval(CONFIDENCE).sign == 0


def choose_lowest(losses: Mapping[int, float]) -> Best:
    """The best of the evaluations that have a checkpoint, as earlier versions chose it.

    Args:
        losses: each step's loss on the curve's timesteps.

    Raises:
        ValueError: there is no step above 0.
    """
    candidates = {step: losses[step] for step in sorted(losses) if step > 0}
    lowest = min(candidates.values())
    tied = [step for step, loss in candidates.items() if loss <= lowest * (1 + _TIE)]
    best = tied[0]
    reason = f"its loss {candidates[best]:.6f} is the lowest of {len(candidates)} evaluations"
    if len(tied) > 1:
        steps = ", ".join(map(str, tied))
        reason = f"steps {steps} are within {_TIE:g} of the lowest loss {lowest:.6f}, and it is the earliest of them"
    return Best(best, candidates[best], EARLIER_RULE, reason)
