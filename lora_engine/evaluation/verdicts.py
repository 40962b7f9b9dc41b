"""What can be said of two adapters in a word: one verdict for every pair, read off its shown intervals. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from lora_engine.evaluation.statistics import FEWEST_GROUPS, Interval

Code = Literal[
    "withheld",
    "identical",
    "cannot_tell",
    "nothing_measurable",
    "different_within_margin",
    "lower",
    "lower_but_depends",
    "lower_by_captions",
    "equivalent",
    "equivalent_as_trained",
]

WINS: tuple[Code, ...] = ("lower", "lower_but_depends")  # the verdicts that name a winner


@dataclass(frozen=True)
class Evidence:
    """All that a verdict is read off."""

    withheld: bool  # whether the two are not like for like, or one was not trained to its end
    untrained: bool  # whether neither adapter's weights moved from where they began
    identical: bool  # whether the weights are equal in every seed, and moved from where they began
    groups: int  # independent groups of held-out images
    loss_unchanged: bool  # whether neither adapter's loss under its own captions is told from the base model's
    cells: Mapping[str, Interval]  # `as_trained`, and those under equal prompts
    beats: Mapping[str, Interval]  # of the one with the lower loss against the other, prompted in each way
    within: frozenset[str]  # the names of the cells and beats that are within the margin


def decide(evidence: Evidence) -> Code:
    """The first verdict that fits."""
    cells, beats = evidence.cells, evidence.beats
    if evidence.withheld:
        return "withheld"
    if evidence.identical:
        return "identical"
    if evidence.groups < FEWEST_GROUPS:
        return "cannot_tell"
    sign = cells["as_trained"].sign
    alike = _signs(cell for name, cell in cells.items() if name != "as_trained")
    if evidence.untrained or (evidence.loss_unchanged and not any(alike)):
        return "nothing_measurable"
    if sign == 0:
        if evidence.within >= cells.keys():
            return "equivalent"
        return "equivalent_as_trained" if "as_trained" in evidence.within else "cannot_tell"
    if "as_trained" in evidence.within:
        return "different_within_margin"
    if evidence.within & beats.keys() or any(beaten != -1 for beaten in _signs(beats.values())):
        return "lower_by_captions"
    return "lower" if set(_signs(cells.values())) == {sign} else "lower_but_depends"


def _signs(intervals: Iterable[Interval]) -> list[int]:
    return [interval.sign for interval in intervals]
