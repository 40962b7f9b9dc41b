"""Studies of people's votes of which the truth is known.

A rater likes a picture by what its contender is worth, how the contender does on that prompt, how the rater likes that
contender and this very picture, and by the moment. What is liked better by more than a threshold is called better.
Careless raters choose at random.

Shape legend: R raters, P prompts, K contenders, T catch trials.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from lora_engine.evaluation.ratings.catch import Answer, Caught, caught
from lora_engine.evaluation.ratings.comparisons import Comparisons

Floats = npt.NDArray[np.float64]
Bests = npt.NDArray[np.int64]  # [..., 2]: the places of the best and of the worst, -1 where none is named

THRESHOLD = 0.25  # standard deviations of what is liked
OF_THE_MOMENT = 0.1  # share of the variance


@dataclass(frozen=True)
class Design:
    """A study."""

    raters: int  # who look
    prompts: int
    contenders: int
    win_rate: float  # of the first against each of the others, in a trial of two
    careless: int = 0  # raters besides those who look
    of_prompts: float = 0.15  # share of the variance of what is liked
    of_raters: float = 0.1
    answered: float = 1.0  # share of the trials that a rater answers

    @property
    def worth(self) -> float:
        """Of the first, where all others' is 0."""
        normal = NormalDist(0, np.sqrt(2))

        def excess(worth: float) -> float:
            return (normal.cdf(worth - THRESHOLD) + normal.cdf(worth + THRESHOLD)) / 2 - self.win_rate

        return float(brentq(excess, -5, 5))


@dataclass(frozen=True)
class Study:
    """What came out of it."""

    votes: Comparisons  # of those who were not found careless
    caught: tuple[Caught, ...]  # by rater, the careless ones last
    truth: dict[tuple[int, int], float]  # by pair: of people, or of the rater where there is one


def chosen(liked: Floats) -> Bests:
    """The best and the worst of what is liked so much, [..., K]."""
    order, ranked = np.argsort(liked, axis=-1), np.sort(liked, axis=-1)
    best = np.where(ranked[..., -1] - ranked[..., -2] > THRESHOLD, order[..., -1], -1)
    worst = np.where(ranked[..., 1] - ranked[..., 0] > THRESHOLD, order[..., 0], -1)
    return np.stack([best, np.where(liked.shape[-1] == 2, -1, worst)], axis=-1)


def at_random(generator: np.random.Generator, shape: tuple[int, ...], contenders: int) -> Bests:
    """The best and the worst of one who does not look."""
    order = np.argsort(generator.random((*shape, contenders)), axis=-1)
    return np.stack([order[..., 0], np.where(contenders == 2, -1, order[..., -1])], axis=-1)


def scores(bests: Bests, contenders: int) -> dict[tuple[int, int], Floats]:
    """What is said of each pair: 1, 1/2 or 0 for the first of it."""
    ranks = [1 + (bests[..., 0] == k).astype(float) - (bests[..., 1] == k) for k in range(contenders)]
    return {(a, b): (np.sign(ranks[a] - ranks[b]) + 1) / 2 for a, b in combinations(range(contenders), 2)}


@cache
def of_people(design: Design) -> dict[tuple[int, int], float]:
    """The true win rates."""
    generator = np.random.default_rng(1)
    return _rates(generator, design, np.array([design.worth, *[0] * (design.contenders - 1)]), 1.0, 1_000_000)


def _rates(
    generator: np.random.Generator, design: Design, worths_K: Floats, variance: float, draws: int
) -> dict[tuple[int, int], float]:
    liked = worths_K + np.sqrt(variance) * generator.standard_normal((draws, design.contenders))
    found = scores(chosen(liked), design.contenders)
    return {pair: float(each.mean()) for pair, each in found.items()}


def studies(design: Design, count: int, seed: object) -> Iterator[Study]:
    """So many studies."""
    print("seed", seed)
    generator = np.random.default_rng([*map(ord, str(seed))])
    for _ in range(count):
        yield _study(generator, design)


def _study(generator: np.random.Generator, design: Design) -> Study:
    raters, prompts, contenders = design.raters, design.prompts, design.contenders
    worths_K = np.array([design.worth, *[0] * (contenders - 1)])
    of_raters_RK = np.sqrt(design.of_raters) * generator.standard_normal((raters, contenders))
    own = 1 - design.of_prompts - design.of_raters - OF_THE_MOMENT
    liked_RPK = (
        worths_K
        + np.sqrt(design.of_prompts) * generator.standard_normal((prompts, contenders))
        + of_raters_RK[:, np.newaxis]
        + np.sqrt(own) * generator.standard_normal((raters, prompts, contenders))
    )
    moment = np.sqrt(OF_THE_MOMENT) * generator.standard_normal(liked_RPK.shape)
    said_RP2 = chosen(liked_RPK + moment)
    careless_RP2 = at_random(generator, (design.careless, prompts), contenders)
    said_RP2 = np.concatenate([said_RP2, careless_RP2])
    found = tuple(
        caught(*_caught(generator, liked_RPK[rater] if rater < raters else None, said_P2, contenders))
        for rater, said_P2 in enumerate(said_RP2)
    )
    kept = [rater for rater, each in enumerate(found) if not each.is_careless]
    answered_RP = generator.random((len(kept), prompts)) < design.answered
    truth = of_people(design)
    if raters == 1:
        truth = _rates(generator, design, worths_K + of_raters_RK[0], 1 - design.of_raters, 20_000)
    return Study(_comparisons(said_RP2[kept], answered_RP, contenders), found, truth)


def _caught(
    generator: np.random.Generator, liked_PK: Floats | None, said_P2: Bests, contenders: int
) -> tuple[list[tuple[Answer, Answer]], list[Answer]]:
    """The answers to the catch trials of a page with a plain trial for each prompt. None is liked by who looks not."""
    count = max(2, len(said_P2) // 8)
    names = [str(contender) for contender in range(contenders)]

    def answer(shown: list[int], liked_K: Floats | None) -> Answer:
        order = generator.permutation(len(shown))
        if liked_K is None:
            best, worst = at_random(generator, (), contenders)
        else:
            of_each = liked_K[shown][order] + np.sqrt(OF_THE_MOMENT) * generator.standard_normal(contenders)
            same = [at for at, place in enumerate(order) if shown[place] == shown[0]]
            if len(same) == 2:  # Twins are liked alike.
                of_each[same[1]] = of_each[same[0]] + THRESHOLD * 0.1 * generator.standard_normal()
            best, worst = chosen(of_each)
        return Answer(tuple(names[shown[place]] for place in order), _place(best), _place(worst))

    everything = list(range(contenders))
    repeats, twins = [], []
    for prompt in generator.choice(len(said_P2), count, replace=False):
        liked_K = None if liked_PK is None else liked_PK[prompt]
        first = Answer(tuple(names), *map(_place, said_P2[prompt]))
        repeats.append((first, answer(everything, liked_K)))
    for prompt in generator.choice(len(said_P2), count, replace=False):
        liked_K = None if liked_PK is None else liked_PK[prompt]
        twins.append(answer([0, 0, *everything[2:]], liked_K))
    return repeats, twins


def _place(value: np.int64) -> int | None:
    return None if value < 0 else int(value)


def _comparisons(said_RP2: Bests, answered_RP: npt.NDArray[np.bool_], contenders: int) -> Comparisons:
    raters, prompts = np.nonzero(answered_RP)
    parts = []
    for (a, b), scores_RP in scores(said_RP2, contenders).items():
        parts.append((np.full(len(raters), a), np.full(len(raters), b), scores_RP[raters, prompts], prompts, raters))
    first, second, values, prompt, rater = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Comparisons(first, second, values, prompt, rater, prompt)
