"""Compares two adapters as each was trained, under equal prompts, and against each other at their best. Torch-free.

Shape legend: S training seeds, N held-out images.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from lora_engine.evaluation.statistics import Estimate, Interval, estimate

Prompts = Literal["a", "b", "none"]  # a's captions, b's captions, the empty prompt
Values = npt.NDArray[np.float64]

_CELLS: dict[str, Prompts] = {"under_a": "a", "under_b": "b", "no_prompt": "none"}  # of equal prompts

_BEYOND_THE_BASE = 0.05  # the level of the test that training gained anything, without which there is no margin
_CHANGED = 0.95  # of the interval that tells an adapter's loss from the base model's


@dataclass(frozen=True)
class AdapterLosses:
    """One adapter's losses, each [S, N]."""

    own: Values  # under its own captions, at all strata
    start: Values  # the base model's under the same
    under: Mapping[Prompts, Values]  # on the curve's strata


@dataclass(frozen=True)
class PairLosses:
    """All that a comparison of two adapters is computed from."""

    a: AdapterLosses
    b: AdapterLosses
    base: Mapping[Prompts, Values]  # the base model's losses, [S, N], on the curve's strata
    same_captions: bool


@dataclass(frozen=True)
class Compared:
    """What two adapters differ by. Below 0, `a` has the lower loss; of `beats`, the one that is lower as trained."""

    as_trained: Estimate
    cells: Mapping[str, Interval]  # as_trained, under_a, under_b, no_prompt
    base_as_trained: Interval  # the same as as_trained of the untouched base model: what the captions alone do
    beats: Mapping[str, Interval]  # loser_own, loser_same, loser_none: the other adapter prompted in each way
    gain: Interval  # what training gained over the base model, prompted its best
    margin: float | None  # the largest difference that does not matter; None where training gained nothing
    within: frozenset[str]  # the cells and beats that are within the margin
    loss_unchanged: bool  # whether of neither adapter the own loss is told from the base model's
    minimum_detectable: float | None  # the smallest difference as trained that is found in 80 of 100 such studies


def compare(
    losses: PairLosses, groups: npt.NDArray[np.str_], confidence: float, margin_share: float, level: float
) -> Compared:
    """Compare two adapters.

    Args:
        groups: the group of near-duplicates that each image belongs to, [N].
        confidence: of the intervals, in (0, 1).
        margin_share: the margin as a share of the gain.
        level: of the tests that a difference is within the margin.
    """
    a, b = losses.a, losses.b
    differences: dict[str, Values] = {"as_trained": a.own - b.own}
    for name, prompts in _CELLS.items():
        differences[name] = a.under[prompts] - b.under[prompts]
    if losses.same_captions:
        differences["under_a"] = differences["under_b"] = differences["as_trained"]
    gain_SN = _gain(losses)
    margin_SN = margin_share * gain_SN
    gain = estimate(gain_SN, groups)
    is_gain = estimate(-gain_SN, groups).is_below_zero(_BEYOND_THE_BASE)
    a_is_lower = bool(differences["as_trained"].mean() <= 0)
    against = _beats(losses, a_is_lower=a_is_lower)
    if losses.same_captions:
        against["loser_own"] = against["loser_same"] = differences["as_trained"] * (1 if a_is_lower else -1)

    def intervals(values: Mapping[str, Values]) -> dict[str, Interval]:
        return {name: estimate(each, groups).interval(confidence) for name, each in values.items()}

    changes = [estimate(adapter.start - adapter.own, groups).interval(_CHANGED) for adapter in (a, b)]
    as_trained = estimate(differences["as_trained"], groups)
    return Compared(
        as_trained=as_trained,
        cells=intervals(differences),
        base_as_trained=estimate(a.start - b.start, groups).interval(confidence),
        beats=intervals(against),
        gain=gain.interval(confidence),
        margin=margin_share * gain.mean if is_gain else None,
        within=frozenset(
            name
            for name, values_SN in (differences | against).items()
            if is_gain and is_within(values_SN, margin_SN, groups, level)
        ),
        loss_unchanged=all(change.sign == 0 for change in changes),
        minimum_detectable=as_trained.minimum_detectable(confidence),
    )


def is_within(values_SN: Values, margin_SN: Values, groups: npt.NDArray[np.str_], level: float) -> bool:
    """Whether two one-sided tests of that level, one for each sign, find a difference to be smaller than the margin.

    Source: Schuirmann, "A comparison of the two one-sided tests procedure and the power approach", 1987.
    """
    excesses = (values_SN - margin_SN, -values_SN - margin_SN)
    return all(estimate(excess_SN, groups).is_below_zero(level) for excess_SN in excesses)


def _gain(losses: PairLosses) -> Values:
    """What both adapters' own losses are below the base model's, prompted its best. [S, N].

    The prompts that are best for the base are those under which its mean loss is lowest.
    """
    best = min(losses.base, key=lambda prompts: float(losses.base[prompts].mean()))
    gain: Values = losses.base[best] - (losses.a.under["a"] + losses.b.under["b"]) / 2
    return gain


def _beats(losses: PairLosses, *, a_is_lower: bool) -> dict[str, Values]:
    """The loss of the adapter that is lower as trained, less the other's: under its own captions, its rival's, none."""
    lower, rival = (losses.a, losses.b) if a_is_lower else (losses.b, losses.a)
    own: Prompts = "a" if a_is_lower else "b"
    others: Prompts = "b" if a_is_lower else "a"
    lowest = lower.under[own]
    return {
        "loser_own": lowest - rival.under[others],
        "loser_same": lowest - rival.under[own],
        "loser_none": lowest - rival.under["none"],
    }
