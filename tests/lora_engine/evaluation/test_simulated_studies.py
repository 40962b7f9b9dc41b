"""How often intervals, margins and stated minima are wrong in simulated studies, of which the truth is known.

1000 studies a cell, each of three strategies. A strategy's loss of an image differs from another's by the image
(standard deviation 1), by the training seed (a part of that) and by both (0.3). `pytest -s` prints the figures of
docs/reading-the-report.md.

Shape legend: R studies, K strategies, S training seeds, N held-out images.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product

import numpy as np
import numpy.typing as npt
import pytest

from lora_engine.evaluation.comparison import is_within
from lora_engine.evaluation.statistics import CONFIDENCE, Estimate, estimate

Floats = npt.NDArray[np.float64]

STUDIES = 1000
PAIRS = list(combinations(range(3), 2))
LEVEL = (1 - CONFIDENCE) / len(PAIRS)  # of each pair, so that those of a study hold together
OF_BOTH = 0.3  # standard deviation of what an image and a seed do together
MARGIN = 0.1  # as a share of the gain
CELLS = [*product((3, 5), (16, 20, 100), (0, 0.1, 0.25, 0.5, 1, 3)), *product((1,), (16, 20, 100), (0,))]
# Each number of seeds and of images, and each spread, is among these.
TRIED_ALWAYS = {
    (3, 16, 0),
    (3, 20, 0.25),
    (3, 100, 1),
    (5, 16, 3),
    (5, 20, 0.1),
    (5, 100, 0.5),
    (1, 16, 0),
    (1, 100, 0),
}

of_every_cell = pytest.mark.parametrize(
    ("seeds", "images", "seed_spread"),
    [cell if cell in TRIED_ALWAYS else pytest.param(*cell, marks=pytest.mark.slow) for cell in CELLS],
)


def studies(seeds: int, images: int, seed_spread: float, *, purpose: int) -> Iterator[Floats]:
    """What each study's strategies have by chance: [K, S, N]."""
    print("seed", seed := [purpose, seeds, images, int(100 * seed_spread)])
    generator = np.random.default_rng(seed)
    of_images = generator.normal(0, 1, (STUDIES, 3, 1, images))
    of_seeds = generator.normal(0, seed_spread, (STUDIES, 3, seeds, 1))
    yield from of_images + of_seeds + generator.normal(0, OF_BOTH, (STUDIES, 3, seeds, images))


def singles(images: int) -> npt.NDArray[np.str_]:
    return np.array([f"{i}" for i in range(images)])


def of_population(seeds: int, images: int, seed_spread: float) -> Estimate:
    """What a pair's studies estimate, on average over them."""
    of_images, of_seeds = 2 * (1 + OF_BOTH**2 / seeds) / images, 2 * (seed_spread**2 + OF_BOTH**2 / images) / seeds
    return Estimate(0.0, of_images, images - 1, of_seeds if seeds > 1 else 0.0, seeds, images, images, None)


def finds(difference: Estimate, effect: float = 0) -> bool:
    """Whether a study tells a difference from 0 that has that effect besides what chance does."""
    return replace(difference, mean=difference.mean + effect).interval(1 - LEVEL).sign != 0


@of_every_cell
def test_of_equal_strategies_none_is_found_better_more_often_than_promised(
    seeds: int, images: int, seed_spread: float
) -> None:
    groups, wrong = singles(images), 0
    for losses in studies(seeds, images, seed_spread, purpose=0):
        wrong += any(finds(estimate(losses[a] - losses[b], groups)) for a, b in PAIRS)
    print("figures: found to differ", seeds, images, seed_spread, wrong)
    assert wrong <= 75


@of_every_cell
def test_of_strategies_at_the_margin_none_is_found_within_it_more_often_than_promised(
    seeds: int, images: int, seed_spread: float
) -> None:
    """The second strategy gains a margin more than the first, and the third a margin more than the second.

    The margin is so many standard errors that chance alone decides about one side of it: a smaller one is missed more.
    """
    groups, found = singles(images), 0
    at_margin = (1 + MARGIN / 2) / (1 - MARGIN / 2)
    population = of_population(seeds, images, seed_spread)
    error = np.sqrt((population.images_variance or 0) + population.seeds_variance)
    gains = 10 * error / MARGIN * at_margin ** np.arange(3)
    for losses in studies(seeds, images, seed_spread, purpose=1):
        under_base = gains[:, np.newaxis, np.newaxis] - losses
        found += any(
            is_within(under_base[b] - under_base[a], MARGIN * (under_base[a] + under_base[b]) / 2, groups, LEVEL)
            for a, b in PAIRS
        )
    print("figures: found within", seeds, images, seed_spread, found)
    assert found <= 75


@of_every_cell
def test_an_effect_of_the_stated_minimum_is_found_in_eight_of_ten_studies(
    seeds: int, images: int, seed_spread: float
) -> None:
    """The minimum is that of the variances that the studies estimate, as each of them can only roughly know.

    Of an effect as large as an earlier study of the same size stated, fewer find it: the figures say how many.
    """
    groups, found, found_of_earlier = singles(images), 0, 0
    minimum = of_population(seeds, images, seed_spread).minimum_detectable(1 - LEVEL)
    assert minimum is not None
    stated = minimum
    for losses in studies(seeds, images, seed_spread, purpose=2):
        difference = estimate(losses[0] - losses[1], groups)
        found += finds(difference, minimum)
        found_of_earlier += finds(difference, stated)
        stated = difference.minimum_detectable(1 - LEVEL) or 0
    print("figures: found of the minimum", seeds, images, seed_spread, found)
    print("figures: found of an earlier minimum", seeds, images, seed_spread, found_of_earlier)
    assert 750 <= found <= 860
