import hashlib

import numpy as np
import pytest
import torch

from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.lr_schedule import ConstantLrSchedule, CosineLrSchedule, LinearLrSchedule
from lora_engine.config.training import TrainingConfig
from lora_engine.dataset import randomness
from lora_engine.dataset.encoded import ValidationData
from lora_engine.evaluation import denoising
from lora_engine.evaluation.components import Condition
from lora_engine.evaluation.loss_file import Losses
from lora_engine.training.lr_schedule import learning_rate
from tests.lora_engine.tiny import tiny_data, tiny_noise_schedule, tiny_unet

IDS = tuple(hashlib.sha256(bytes([i])).hexdigest() for i in range(5))


def test_every_epoch_sees_every_image_once() -> None:
    seen = np.concatenate([randomness.sample_positions(3, step, 4, 10)[0] for step in range(1, 11)])
    epochs = seen.reshape(4, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_draws_are_functions_of_what_they_are_for() -> None:
    assert np.array_equal(randomness.training_noise(0, 5, (2, 3)), randomness.training_noise(0, 5, (2, 3)))
    streams = [randomness.training_noise(s, t, (50,)) for s in (0, 1) for t in (1, 2)]
    streams += [randomness.posterior_noise(0, 1, (50,)), randomness.validation_noise(IDS[0], 1, (50,))]
    correlations = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlations).max() < 0.6


def test_noise_is_standard_normal_and_timesteps_are_uniform() -> None:
    noise = randomness.training_noise(1, 1, (200_000,))
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(1, abs=0.01)
    counts = np.bincount(randomness.training_timesteps(1, 1, 100_000, 1000), minlength=1000)
    assert counts.min() > 50
    assert len(counts) == 1000


def test_validation_timesteps_are_stratified_and_the_curve_is_part_of_the_grid() -> None:
    full, curve = denoising.final_grid(IDS, 4, 16, 1000), denoising.curve_grid(IDS, 4, 16, 1000)
    for row in full.timesteps_NT:
        assert list(row // 62.5) == list(range(16))
    for row, part, columns in zip(full.timesteps_NT, curve.timesteps_NT, full.curve_NX, strict=True):
        assert list(part) == list(row[columns])
        assert list(part // 250) == list(range(4))
    assert len({int(row[0]) for row in full.timesteps_NT}) == len(IDS)


EVERYWHERE = (Condition("x", whole=True), Condition("", whole=True))


def scored(names: list[str], batch_size: int) -> Losses:
    """The losses of these adapters, or of the base, under two texts each: [K, E, N, T]."""
    data = tiny_data(images=5)
    unet = tiny_unet()
    lora.inject(unet, [("a", 1), ("b", 2)], LoraConfig(rank=2, alpha=2.0))
    with torch.no_grad():
        for weight in lora.parameters(unet, "b").values():
            weight.add_(0.05)
    rows = {"x": np.array([1, 2, 3, 4, 5]), "": np.zeros(5, dtype=np.int64)}
    validation = ValidationData(IDS, data.moments.place(data.moments.read(np.arange(5)))[:, 0], data.texts, rows)
    grid, count = denoising.final_grid(IDS, 2, 4, 1000), max(1, len(names))
    scoring = denoising.Scoring(unet, names, [EVERYWHERE] * count, validation, grid, tiny_noise_schedule(), batch_size)
    assert sum(scoring) == scoring.pairs == 40
    return np.stack([scoring.losses(member) for member in range(count)])


def test_scores_do_not_depend_on_the_batch_nor_on_the_company() -> None:
    together = scored(["a", "b"], 3)
    assert together.shape == (2, 2, 5, 4)
    for k, name in enumerate(["a", "b"]):
        np.testing.assert_allclose(scored([name], 7)[0], together[k], rtol=1e-6)


def test_an_untrained_adapter_scores_as_the_base_model() -> None:
    both = scored(["a", "b"], 4)
    np.testing.assert_allclose(scored([], 4)[0], both[0], rtol=1e-6)
    assert np.abs(both[1] - both[0]).max() > 1e-4


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (ConstantLrSchedule(warmup_steps=3), [0.25, 0.5, 0.75, 1, 1, 1, 1]),
        (LinearLrSchedule(name="linear", warmup_steps=3), [0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25]),
        (CosineLrSchedule(name="cosine", warmup_steps=3), [0.25, 0.5, 0.75, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_schedules(schedule: ConstantLrSchedule, expected: list[float]) -> None:
    config = TrainingConfig(steps=7, schedule=schedule)
    found = [learning_rate(config, step) / 1e-4 for step in range(1, 8)]
    assert found == pytest.approx(expected, abs=1e-6)
