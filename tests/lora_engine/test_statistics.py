import numpy as np
import pytest

from lora_engine.records import ValidationRecord
from lora_engine.statistics import FEWEST_GROUPS, paired_difference
from lora_engine.validation import choose_best, summarise


def test_the_mean_is_the_difference_of_the_reported_losses() -> None:
    a, b = np.array([1.0, 2.0, 6.0, 4.0, 5.0, 9.0]), np.array([1.5, 1.0, 5.0, 2.0, 4.0, 1.0])
    found = paired_difference(a, b, np.array(list("uvwxyz")))
    assert found.mean == pytest.approx(a.mean() - b.mean())
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.mean < found.high


def test_few_groups_cannot_tell() -> None:
    n = 40
    groups = np.array([f"g{i % (FEWEST_GROUPS - 1)}" for i in range(n)])
    found = paired_difference(np.arange(n) * 1.0, np.zeros(n), groups)
    assert found.low is None
    assert found.method.startswith("cannot tell")


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    seed, trials, covered = 11, 120, 0
    print("seed", seed)
    generator = np.random.default_rng(seed)
    for trial in range(trials):
        effect = generator.normal(0.3, 1.0, size=30)  # of 30 groups of three images
        differences = np.repeat(effect, 3) + generator.normal(0, 0.2, size=90)
        found = paired_difference(differences, np.zeros(90), np.repeat([f"{i}" for i in range(30)], 3), seed=trial)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.3 <= found.high
    assert 0.87 <= covered / trials <= 1.0


def test_equal_data_give_equal_intervals() -> None:
    a, groups = np.arange(20.0) ** 1.5, np.array([f"{i}" for i in range(20)])
    assert paired_difference(a, a[::-1], groups) == paired_difference(a, a[::-1], groups)


def test_a_summary_leaves_the_empty_prompt_out_and_finds_the_curve_within_the_grid() -> None:
    losses = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    columns = np.array([[0, 2], [1, 3], [0, 2]])
    found = summarise(5, losses, ["words", ""], columns)
    assert found.loss == pytest.approx(losses[0].mean())
    assert found.curve_loss == pytest.approx(np.mean([0, 2, 5, 7, 8, 10]))
    assert found.caption_sets == {"words": pytest.approx(5.5), "": pytest.approx(17.5)}


def record(step: int, loss: float) -> ValidationRecord:
    return ValidationRecord(step, loss, loss, 4, 8, {})


def test_the_best_is_the_lowest_and_of_ties_the_earliest() -> None:
    assert choose_best([record(0, 0.1), record(10, 0.5), record(20, 0.4), record(30, 0.45)]).step == 20
    tied = choose_best([record(0, 1.0), record(10, 0.400001), record(20, 0.4)])
    assert tied.step == 10
    assert "10, 20" in tied.reason
