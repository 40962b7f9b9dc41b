"""Compares every pair of variants: one row a seed and, with enough of them, one over all seeds.

Shape legend: S training seeds, N held-out images.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from job.report import words
from job.report.factors import Factor, hashes_that_differ
from job.report.members import Trained, Values
from job.report.obstacles import obstacle
from job.report.parts import Interval
from job.report.pictures import Pictures
from job.report.schema import Beats, Cells, Pair, Verdict
from job.run.held_out import HeldOut
from job.run.resolved import Resolved
from lora_engine.evaluation.comparison import AdapterLosses, Compared, PairLosses, Prompts, compare
from lora_engine.evaluation.components import NO_PROMPT, Weights
from lora_engine.evaluation.loss_file import EvaluationLosses
from lora_engine.evaluation.statistics import CONFIDENCE, FEWEST_GROUPS, FEWEST_SEEDS, estimate, wanted_size
from lora_engine.evaluation.summary import choose_best
from lora_engine.evaluation.verdicts import WINS, Evidence, decide


@dataclass(frozen=True)
class _Row:
    """A row of the comparison before anything is computed: the two adapters of each seed."""

    a: str
    b: str
    seed: int | None  # None over all seeds
    adapters: tuple[tuple[Trained, Trained], ...]  # of each seed
    has_verdict: bool

    @property
    def finished(self) -> tuple[tuple[Trained, Trained], ...]:
        """Those of which both were trained to the end."""
        return tuple(pair for pair in self.adapters if all(each.final is not None for each in pair))


def compare_pairs(
    resolved: Resolved,
    held_out: HeldOut,
    members: Sequence[Trained],
    factors: Mapping[tuple[str, str], Factor],
    pictures: Pictures,
) -> list[Pair]:
    """Compare the pairs of variants that the study asks for.

    Args:
        factors: pair of variants to what the two differ in.
        pictures: the study's samples.

    Raises:
        NotScoredError: an adapter was not scored under captions that a comparison needs.
    """
    rows = _rows(held_out, members)
    # Of several intervals, one is likelier to miss than each by itself. They are widened (Bonferroni), so that all
    # intervals over seeds hold together with the stated confidence, and all those of single seeds do.
    count = Counter(row.seed is None for row in rows)
    return [
        _compared(resolved, held_out, row, factors[row.a, row.b], pictures, count[row.seed is None]) for row in rows
    ]


def _rows(held_out: HeldOut, members: Sequence[Trained]) -> list[_Row]:
    trained = {(each.member.variant, each.member.seed): each for each in members}
    seeds = list(dict.fromkeys(each.member.seed for each in members))
    over_seeds = len(seeds) >= FEWEST_SEEDS
    rows = []
    for a, b in held_out.pairs:
        adapters = {seed: (trained[a, seed], trained[b, seed]) for seed in seeds}
        rows += [_Row(a, b, seed, (pair,), has_verdict=not over_seeds) for seed, pair in adapters.items()]
        if over_seeds:
            rows.append(_Row(a, b, None, tuple(adapters.values()), has_verdict=True))
    return rows


def _compared(resolved: Resolved, held_out: HeldOut, row: _Row, factor: Factor, pictures: Pictures, rows: int) -> Pair:
    """One row.

    Args:
        rows: how many there are whose intervals are to hold together.
    """
    level = (1 - CONFIDENCE) / rows  # of everything that is read off this row by itself
    differing = dict.fromkeys(field for pair in row.adapters for field in hashes_that_differ(*pair, factor))
    finished, share = row.finished, resolved.manifest.evaluation.equivalence_margin
    found = None
    if finished:
        found = compare(_pair_losses(held_out, row.a, row.b, finished), held_out.groups, 1 - level, share, level)
    groups = len(np.unique(held_out.groups))
    pair = Pair(
        a=row.a,
        b=row.b,
        seed=row.seed,
        seeds=len(finished),
        factor=list(factor.names),
        values=dict(factor.values),
        like_for_like=not differing,
        withheld=list(differing),
        images=len(held_out.image_ids),
        groups=groups,
        best_as_trained=_best_against_best(held_out, finished, 1 - level),
        method=_method(groups, len(finished)),
        pictures=pictures.pair([a.member for a, _ in finished], [b.member for _, b in finished], rows),
        verdict=None,
        **_statistics(found),
    )
    if not row.has_verdict:
        return pair
    return pair.model_copy(update={"verdict": _verdict(pair, row, found, 1 - level, share)})


def _statistics(found: Compared | None) -> dict[str, Any]:
    """The fields of a row that a comparison gives; None in all of them where there is none."""
    if found is None:
        names = ("cells", "base_as_trained", "beats", "gain", "margin", "minimum_detectable", "skew")
        return dict.fromkeys(names)
    return {
        "cells": Cells(**{name: Interval.of(cell) for name, cell in found.cells.items()}),
        "base_as_trained": Interval.of(found.base_as_trained),
        "beats": Beats(**{name: Interval.of(each) for name, each in found.beats.items()}),
        "gain": Interval.of(found.gain),
        "margin": found.margin,
        "minimum_detectable": found.minimum_detectable,
        "skew": found.as_trained.skew,
    }


def _method(groups: int, seeds: int) -> str:
    if groups < 2 or seeds == 0:
        return "no interval: fewer than two independent groups of images, or no adapter of both trained to the end"
    over = f", and {seeds} seeds" if seeds > 1 else ""
    few = f"; fewer than {FEWEST_GROUPS} groups, so that no verdict is read off it" if groups < FEWEST_GROUPS else ""
    return f"t interval, jackknife over groups of images{over}{few}"


def _pair_losses(held_out: HeldOut, a: str, b: str, adapters: Iterable[tuple[Trained, Trained]]) -> PairLosses:
    """The losses of both, stacked over seeds."""
    own = held_out.components.own
    prompts: dict[Prompts, Weights] = {"a": own[a], "b": own[b], "none": {NO_PROMPT: 1}}
    pairs = list(adapters)

    def stacked(found: Iterable[EvaluationLosses], weights: Weights, *, curve: bool) -> Values:
        return np.stack([each.per_image(weights, held_out.curve_NC if curve else None) for each in found])

    def adapter(at: int, weights: Weights) -> AdapterLosses:
        finals = [pair[at].final for pair in pairs]
        lasts = [final for final in finals if final is not None]
        under = {whose: stacked(lasts, each, curve=True) for whose, each in prompts.items()}
        bases = [pair[at].base for pair in pairs]
        return AdapterLosses(stacked(lasts, weights, curve=False), stacked(bases, weights, curve=False), under)

    bases = [pair[0].base for pair in pairs]
    base = {whose: stacked(bases, weights, curve=True) for whose, weights in prompts.items()}
    return PairLosses(adapter(0, own[a]), adapter(1, own[b]), base, same_captions=own[a] == own[b])


def _best_against_best(
    held_out: HeldOut, adapters: Sequence[tuple[Trained, Trained]], confidence: float
) -> Interval | None:
    """Best checkpoint less best checkpoint, each chosen on half of the groups and scored on the other, and back.

    An image on which a checkpoint was chosen flatters it. None where there is no such checkpoint, or only one group.
    """
    numbers = np.unique(held_out.groups, return_inverse=True)[1] % 2
    if (
        held_out.is_earlier
        or not adapters
        or len(np.unique(numbers)) < 2
        or any(len(each.curve) < 2 for pair in adapters for each in pair)
    ):
        return None
    differences = np.zeros((len(adapters), len(numbers)))
    for half in (0, 1):
        chosen_on, scored_on = numbers == half, numbers != half
        for s, pair in enumerate(adapters):
            a, b = (
                each.curve[
                    choose_best({k: v[chosen_on] for k, v in each.curve.items()}, held_out.groups[chosen_on]).step
                ]
                for each in pair
            )
            differences[s, scored_on] = (a - b)[scored_on]
    return Interval.of(estimate(differences, held_out.groups).interval(confidence))


def _verdict(pair: Pair, row: _Row, found: Compared | None, confidence: float, share: float) -> Verdict:
    """What can be said of a pair."""
    why_not = obstacle(pair, row.adapters)
    evidence = Evidence(
        withheld=why_not is not None,
        untrained=not any(each.moved for adapters in row.adapters for each in adapters),
        identical=all(a.weights_sha256 == b.weights_sha256 and a.moved for a, b in row.adapters),
        groups=pair.groups,
        loss_unchanged=found is not None and found.loss_unchanged,
        cells={} if found is None else found.cells,
        beats={} if found is None else found.beats,
        within=frozenset() if found is None else found.within,
    )
    code = decide(evidence)
    more_images = more_seeds = None
    if code == "cannot_tell" and pair.groups < FEWEST_GROUPS:
        more_images = FEWEST_GROUPS - pair.groups
    elif code == "cannot_tell" and found is not None and found.margin is not None:
        wanted = wanted_size(found.as_trained, found.margin, confidence)
        if wanted is not None:
            images, seeds = wanted[0] - pair.groups, wanted[1] - pair.seeds
            more_images, more_seeds = (images or None), (seeds or None)
    lower = None
    if found is not None:
        lower = pair.a if found.as_trained.mean <= 0 else pair.b
    return Verdict(
        code=code,
        winner=lower if code in WINS else None,
        sentence=words.sentence(pair, row.adapters, code, evidence, why_not, share, (more_images, more_seeds)),
        more_images=more_images,
        more_seeds=more_seeds,
    )
