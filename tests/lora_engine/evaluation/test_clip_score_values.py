"""CLIP scores and retrieval against sums done by hand, one picture at a time."""

import numpy as np
import pytest

from lora_engine.evaluation.clip_score import retrieval, score


def test_the_score_is_a_hundred_times_the_mean_cosine_that_is_not_negative() -> None:
    cosines = np.array([[0.25, 0.5, -1.0], [0.125, -0.5, 1.0], [1.0, 0.0, 0.75]])
    assert score(cosines, [0, 0, 2]) == pytest.approx(100 * (0.25 + 0.125 + 0.75) / 3)
    assert score(cosines, [1, 1, 1]) == pytest.approx(100 * (0.5 + 0 + 0) / 3)
    assert score(cosines[:1], [2]) == 0
    assert score(np.array([[1.0]]), [0]) == 100


def test_retrieval_is_the_share_of_pictures_whose_best_text_is_their_own() -> None:
    cosines = np.array([[0.3, 0.2, 0.1], [0.3, 0.2, 0.1], [0.1, 0.2, 0.3], [-0.3, -0.2, -0.4]])
    assert retrieval(cosines, [0, 1, 2, 1]) == 0.75
    assert retrieval(cosines, [0, 0, 2, 1]) == 1
    assert retrieval(cosines, [2, 2, 0, 2]) == 0
    # more texts than pictures and more pictures than texts
    assert retrieval(cosines[:1], [0]) == 1
    assert retrieval(cosines[:, :1], [0, 0, 0, 0]) == 1


def test_what_was_drawn_at_random_scores_as_a_loop_says() -> None:
    generator = np.random.default_rng(1)
    cosines, own = generator.uniform(-1, 1, (20, 7)), generator.integers(0, 7, 20).tolist()
    by_hand = [max(float(cosines[picture][text]), 0) for picture, text in enumerate(own)]
    assert score(cosines, own) == pytest.approx(100 * sum(by_hand) / 20)
    best = [sorted(range(7), key=row.__getitem__)[-1] for row in cosines.tolist()]
    assert retrieval(cosines, own) == sum(one == other for one, other in zip(best, own, strict=True)) / 20
