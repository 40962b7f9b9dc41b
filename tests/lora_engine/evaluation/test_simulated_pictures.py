"""How often measures of pictures are said to differ where they do not, and how often an interval holds the truth.

`pytest -s` prints the figures.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import wasserstein_distance

from lora_engine.evaluation.pictures import MEASURES, PictureSet, differences
from lora_engine.evaluation.statistics import Estimate, simultaneous
from tests.lora_engine.evaluation.synthetic_pictures import DIMENSIONS, World, unit, world

Floats = npt.NDArray[np.float64]

EQUAL_STUDIES, MOST_WRONG = 200, 17  # 5 % and two standard errors and a half
STUDIES, OWN = 400, 0.5
POOL_PROMPTS, POOL_SEEDS = 48, 24
TRIED_ALWAYS = {((24, 1), 0.4), ((6, 3), 0.0)}  # prompts, training seeds, and how unlike the held-out images


def two_draws(pool: PictureSet, prompts: int, seeds: int, generator: np.random.Generator) -> list[PictureSet]:
    """Two sets of the same prompts, of so many pictures each; no picture of the pool is in both."""
    chosen = generator.choice(POOL_PROMPTS, prompts, replace=False)
    pictures = np.array([generator.choice(POOL_SEEDS, (2, seeds), replace=False) for _ in chosen])
    sets = []
    for which in range(2):
        drawn = pool.take((chosen[:, np.newaxis] * POOL_SEEDS + pictures[:, which]).ravel())
        assert drawn.cosines is not None
        relabelled = np.repeat(np.arange(prompts), seeds), np.tile(np.arange(seeds), prompts)
        sets.append(replace(drawn, prompts=relabelled[0], seeds=relabelled[1], cosines=drawn.cosines[:, chosen]))
    return sets


def trained_by_chance(one: PictureSet, generator: np.random.Generator) -> PictureSet:
    """The set with what its training seed does to all of its pictures."""
    assert one.cosines is not None
    assert one.embeddings is not None
    return replace(
        one,
        line_art=one.line_art + generator.normal(0, 0.03, 6),
        cosines=one.cosines + generator.normal(0, 0.02),
        embeddings=unit(one.embeddings + generator.normal(0, 0.05, DIMENSIONS)),
    )


@pytest.mark.parametrize(
    ("prompts", "training_seeds", "shift"),
    [
        pytest.param(*size, shift, marks=() if (size, shift) in TRIED_ALWAYS else pytest.mark.slow)
        for size in ((24, 1), (6, 3), (12, 1), (6, 1))
        for shift in (0.0, 0.4)
    ],
)
def test_of_pictures_of_one_pool_none_is_said_to_differ_more_often_than_promised(
    prompts: int, training_seeds: int, shift: float
) -> None:
    """Two seeds a prompt, and all measures together."""
    here, confidence = world(prompts + training_seeds), simultaneous(len(MEASURES))
    (pool,) = here.sets(POOL_PROMPTS, POOL_SEEDS, (shift,))
    wrong, wrong_of = 0, Counter[str]()
    for _ in range(EQUAL_STUDIES):
        pairs = [two_draws(pool, prompts, 2, here.generator) for _ in range(training_seeds)]
        if training_seeds > 1:
            pairs = [[trained_by_chance(one, here.generator) for one in pair] for pair in pairs]
        found = differences([a for a, _ in pairs], [b for _, b in pairs], here.references)
        told = [name for name, one in found.items() if isinstance(one, Estimate) and one.interval(confidence).sign]
        assert all(isinstance(one, Estimate) for one in found.values())
        wrong += bool(told)
        wrong_of.update(told)
    print("figures: said to differ", prompts, training_seeds, shift, wrong, dict(wrong_of))
    assert wrong <= MOST_WRONG


def coverage(found: Sequence[Estimate], truth: float) -> float:
    intervals = [one.interval(0.95) for one in found]
    assert all(one.low is not None and one.high is not None for one in intervals)
    return float(np.mean([(one.low or 0) <= truth <= (one.high or 0) for one in intervals]))


def populations(here: World, shifts: tuple[float, float]) -> tuple[float, float]:
    """By how much two populations of pictures differ in CLIP score and line-art distance."""
    studies = [here.sets(400, 1, shifts, OWN) for _ in range(50)]
    scores, distances = [], []
    for which in range(2):
        sets = [study[which] for study in studies]
        own = [one.cosines[np.arange(400), one.prompts] for one in sets if one.cosines is not None]
        scores.append(100 * np.maximum(np.concatenate(own), 0).mean())
        line_art, held_out = np.concatenate([one.line_art for one in sets]), here.references.held_out
        assert held_out is not None
        distances.append(np.mean([wasserstein_distance(line_art[:, at], held_out[:, at]) for at in range(6)]))
    return float(scores[0] - scores[1]), float(distances[0] - distances[1])


def studied(here: World, shifts: tuple[float, float], *names: str) -> list[list[Estimate]]:
    """The differences in these measures, which need no embeddings, that studies of 24 prompts of two seeds find."""
    results: list[list[Estimate]] = [[] for _ in names]
    for _ in range(STUDIES):
        a, b = (replace(one, embeddings=None) for one in here.sets(24, 2, shifts, OWN))
        found = differences([a], [b], here.references)
        for name, result in zip(names, results, strict=True):
            difference = found[name]
            assert isinstance(difference, Estimate)
            result.append(difference)
    return results


@pytest.mark.slow
def test_intervals_hold_what_the_populations_differ_by() -> None:
    here, shifts = world(2), (0.5, 0.3)
    truths = populations(here, shifts)
    scores, distances = studied(here, shifts, "clip_score", "line_art_distance")
    found = coverage(scores, truths[0]), coverage(distances, truths[1])
    print("figures: holds the truth", *found)
    assert all(0.92 <= one <= 0.98 for one in found)


@pytest.mark.slow
def test_of_few_pictures_the_distances_differ_rather_too_little() -> None:
    """A distance of few pictures is too large, and most so where it is small.

    Therefore the interval is about what studies of this size find; of populations that differ much it misses what they
    differ by more often, on the side of 0.
    """
    here, shifts = world(3), (1.0, 0.2)
    _, truth = populations(here, shifts)
    (found,) = studied(here, shifts, "line_art_distance")
    average = float(np.mean([one.mean for one in found]))
    print("figures: of this size, of the populations", coverage(found, average), coverage(found, truth))
    assert 0.92 <= coverage(found, average) <= 0.98
    assert 0.9 * truth < average < truth
    assert coverage(found, truth) > 0.85
