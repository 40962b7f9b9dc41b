"""Learning rates against those of transformers and torch."""

import pytest
import torch
from torch.optim import SGD, lr_scheduler
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from lora_engine.config.lr_schedule import ConstantLrSchedule, CosineLrSchedule, LinearLrSchedule
from lora_engine.config.optimizer import AdamWConfig
from lora_engine.config.training import TrainingConfig
from lora_engine.training.lr_schedule import LrSchedule, learning_rate

PEAK = 0.02
SCHEDULES: dict[str, type[LrSchedule]] = {
    "constant": ConstantLrSchedule,
    "linear": LinearLrSchedule,
    "cosine": CosineLrSchedule,
}


def rates(name: str, steps: int, warmup_steps: int) -> list[float]:
    schedule = SCHEDULES[name](name=name, warmup_steps=warmup_steps)
    config = TrainingConfig(steps=steps, optimizer=AdamWConfig(learning_rate=PEAK), schedule=schedule)
    return [learning_rate(config, step) for step in range(1, steps + 1)]


def theirs(name: str, steps: int, warmup_steps: int) -> list[float]:
    """transformers' rates: its step 0 has rate 0 and is left out, so both its counts are one higher."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(()))], lr=PEAK)
    match name:
        case "constant":
            scheduler = get_constant_schedule_with_warmup(optimizer, warmup_steps + 1)
        case "linear":
            scheduler = get_linear_schedule_with_warmup(optimizer, warmup_steps + 1, steps + 1)
        case _:
            scheduler = get_cosine_schedule_with_warmup(optimizer, warmup_steps + 1, steps + 1)
    return _walk(optimizer, scheduler, steps + 1)[1:]


def _walk(optimizer: SGD, scheduler: lr_scheduler.LRScheduler, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("steps", "warmup_steps"), [(1, 0), (12, 0), (12, 1), (12, 5), (12, 11), (5, 5), (4, 9)])
def test_rates_are_those_of_transformers(name: str, steps: int, warmup_steps: int) -> None:
    assert rates(name, steps, warmup_steps) == pytest.approx(theirs(name, steps, warmup_steps), rel=1e-12)


def test_without_a_warm_up_rates_are_those_of_torch() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(()))], lr=PEAK)
    linear = lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=9)
    assert rates("linear", 9, 0) == pytest.approx(_walk(optimizer, linear, 9))
    optimizer = SGD([torch.nn.Parameter(torch.zeros(()))], lr=PEAK)
    cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=9)
    assert rates("cosine", 9, 0) == pytest.approx(_walk(optimizer, cosine, 9))


def test_the_warm_up_rises_in_equal_steps_to_the_peak_in_the_first_update_after_it() -> None:
    assert rates("constant", 6, 3) == pytest.approx([0.005, 0.01, 0.015, 0.02, 0.02, 0.02])
    assert rates("linear", 7, 3) == pytest.approx([0.005, 0.01, 0.015, 0.02, 0.015, 0.01, 0.005])
    assert rates("cosine", 6, 3) == pytest.approx([0.005, 0.01, 0.015, 0.02, 0.015, 0.005])
