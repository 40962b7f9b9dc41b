"""What every optimizer of one adapter keeps: padded zeros, refused updates, its own continuation."""

import pytest
import torch
from torch import Tensor

from lora_engine.config.ema import EmaConfig
from lora_engine.training.ema import WeightAverage
from tests.lora_engine.training.optimizers.rows import (
    ALWAYS,
    KIND_NAMES,
    KINDS,
    NEVER,
    Slope,
    assert_same_bits,
    rate_of,
    row_of,
)

SIZE = 42
every_kind = pytest.mark.parametrize(("name", "own_rates"), KINDS, ids=KIND_NAMES)


def clipped(gradient_P: Tensor) -> Tensor:
    return gradient_P * (1.0 / (gradient_P.norm() + 1e-6)).clamp(max=1.0)


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_padded_zeros_stay_zeros(name: str, own_rates: bool, dtype: torch.dtype) -> None:
    slope = Slope(SIZE, dtype, seed=1)
    padding_P = torch.arange(SIZE) % 7 > 4
    row = row_of(name, own_rates, slope.start_P.masked_fill(padding_P, 0.0))
    average = WeightAverage(row.weights_P, EmaConfig(decay=0.9))
    for step in range(50):
        row.step(clipped(slope.gradient(row.weights_P).masked_fill(padding_P, 0.0)), rate_of(name, step))
        average.update(NEVER)
        averaged = row.optimizer.averaged()
        vectors = [row.weights_P, *row.optimizer.state().values(), average.averaged()]
        for value in [*vectors, row.weights_P if averaged is None else averaged]:
            assert value.isfinite().all()
            assert value.dim() == 0 or not value[padding_P].any()
    assert (row.weights_P != slope.start_P).all()


@every_kind
@pytest.mark.parametrize("wrong", [0.5, torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("at", [0, 4])
def test_a_refused_update_leaves_everything_to_the_bit(name: str, own_rates: bool, wrong: float, at: int) -> None:
    slope, same = Slope(SIZE, torch.float32, seed=2), Slope(SIZE, torch.float32, seed=2)
    row, untroubled = (row_of(name, own_rates, slope.start_P) for _ in range(2))
    for step in range(8):
        if step == at:
            before = row.everything()
            row.step(torch.full((SIZE,), wrong), rate_of(name, step), ALWAYS)
            row.step(torch.full((SIZE,), 1e-3).index_fill(0, torch.tensor(3), wrong), rate_of(name, step), ALWAYS)
            assert_same_bits(row.everything(), before)
        row.step(slope.gradient(row.weights_P), rate_of(name, step))
        untroubled.step(same.gradient(untroubled.weights_P), rate_of(name, step))
        assert_same_bits(row.everything(), untroubled.everything())


@every_kind
def test_a_copied_state_goes_on_to_the_bit(name: str, own_rates: bool) -> None:
    slope = Slope(SIZE, torch.float32, seed=3)
    row = row_of(name, own_rates, slope.start_P)
    live = {name: value.data_ptr() for name, value in row.optimizer.state().items()}
    for step in range(7):
        row.step(slope.gradient(row.weights_P), rate_of(name, step))
    assert {name: value.data_ptr() for name, value in row.optimizer.state().items()} == live
    other = row_of(name, own_rates, torch.zeros_like(slope.start_P))
    other.weights_P.copy_(row.weights_P)
    for key, value in other.optimizer.state().items():
        value.copy_(row.optimizer.state()[key])
    for step in range(7, 14):
        gradient_P = slope.gradient(row.weights_P)
        for each in (row, other):
            each.step(gradient_P, rate_of(name, step))
        assert_same_bits(row.everything(), other.everything())
    averages = row.optimizer.averaged(), other.optimizer.averaged()
    assert averages == (None, None) or torch.equal(*averages)


@every_kind
def test_a_rate_on_the_device_is_the_number(name: str, own_rates: bool) -> None:
    slope = Slope(SIZE, torch.float64, seed=4)
    by_number, by_tensor = (row_of(name, own_rates, slope.start_P) for _ in range(2))
    for step in range(20):
        gradient_P = slope.gradient(by_number.weights_P)
        by_number.step(gradient_P, rate_of(name, step))
        by_tensor.step(gradient_P, torch.tensor(rate_of(name, step), dtype=torch.float64))
    for key, value in by_number.everything().items():
        torch.testing.assert_close(by_tensor.everything()[key], value, rtol=1e-13, atol=1e-13)
