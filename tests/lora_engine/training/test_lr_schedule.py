"""Learning rates against those of transformers and torch."""

import math
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.optim import SGD, lr_scheduler
from transformers import get_scheduler

from lora_engine.config.lr_schedule import ConstantLrSchedule, LrSchedule, LrScheduleConfig
from lora_engine.config.optimizer import AdamWConfig
from lora_engine.config.training import TrainingConfig
from lora_engine.training.lr_schedule import learning_rate

PEAK = 0.02
SCHEDULES: TypeAdapter[LrSchedule] = TypeAdapter(LrScheduleConfig)


def rates(name: str, steps: int, warmup_steps: int, **settings: Any) -> list[float]:
    schedule = SCHEDULES.validate_python({"name": name, "warmup_steps": warmup_steps, **settings})
    config = TrainingConfig(steps=steps, optimizer=AdamWConfig(learning_rate=PEAK), schedule=schedule)
    return [learning_rate(config, step) for step in range(1, steps + 1)]


def theirs(name: str, steps: int, warmup_steps: int, **settings: Any) -> list[float]:
    """transformers' rates: its step 0 has rate 0 and is left out, so both its counts are one higher."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(()))], lr=PEAK)
    scheduler = get_scheduler(name, optimizer, warmup_steps + 1, steps + 1, scheduler_specific_kwargs=settings)
    return _walk(optimizer, scheduler, steps + 1)[1:]


def _walk(optimizer: SGD, scheduler: lr_scheduler.LRScheduler, steps: int) -> list[float]:
    found = scheduler.get_last_lr()
    for _ in range(steps - 1):
        optimizer.step()
        scheduler.step()
        found += scheduler.get_last_lr()
    return found


# our name and settings, and theirs
CASES: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "constant": ("constant", {}, "constant_with_warmup", {}),
    "linear": ("linear", {}, "linear", {}),
    "cosine": ("cosine", {}, "cosine", {}),
    "restarts-1": ("cosine_restarts", {"cycles": 1}, "cosine_with_restarts", {"num_cycles": 1}),
    "restarts-2": ("cosine_restarts", {}, "cosine_with_restarts", {"num_cycles": 2}),
    "restarts-3": ("cosine_restarts", {"cycles": 3}, "cosine_with_restarts", {"num_cycles": 3}),
    "polynomial-1": ("polynomial", {"power": 1.0}, "polynomial", {"power": 1.0, "lr_end": 0.0}),
    "polynomial-2": ("polynomial", {}, "polynomial", {"power": 2.0, "lr_end": 0.0}),
    "polynomial-half": ("polynomial", {"power": 0.5}, "polynomial", {"power": 0.5, "lr_end": 0.0}),
    "inverse-sqrt-7": ("inverse_sqrt", {"timescale_steps": 7}, "inverse_sqrt", {"timescale": 7}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("steps", "warmup_steps"), [(1, 0), (12, 0), (12, 1), (12, 5), (12, 11), (5, 5), (4, 9)])
def test_rates_are_those_of_transformers(case: str, steps: int, warmup_steps: int) -> None:
    name, ours, their_name, settings = CASES[case]
    expected = theirs(their_name, steps, warmup_steps, **settings)
    assert rates(name, steps, warmup_steps, **ours) == pytest.approx(expected, rel=1e-12)


def test_every_schedule_is_compared() -> None:
    names = {get_args(member.model_fields["name"].annotation)[0] for member in get_args(LrSchedule)}
    assert names == {ours for ours, _, _, _ in CASES.values()}


def test_without_a_timescale_the_inverse_square_root_has_that_of_transformers() -> None:
    assert rates("inverse_sqrt", 40, 8) == pytest.approx(theirs("inverse_sqrt", 40, 8), rel=1e-12)
    assert rates("inverse_sqrt", 40, 8)[8 + 9] == pytest.approx(PEAK / math.sqrt(2))
    long = [PEAK / math.sqrt(1 + done / 10_000) for done in range(40)]
    assert rates("inverse_sqrt", 40, 0) == pytest.approx(long, rel=1e-12)


def test_every_cycle_begins_at_the_peak() -> None:
    for cycles in (1, 2, 3, 7, 49, 99):
        found = rates("cosine_restarts", 7 * cycles, 0, cycles=cycles)
        assert found == pytest.approx(rates("cosine", 7, 0) * cycles, rel=1e-12)
    assert rates("cosine_restarts", 3, 2, cycles=5) == rates("constant", 3, 2)


@pytest.mark.parametrize(
    ("share", "steps", "warmup_steps"), [(0.0, 9, 0), (0.29, 100, 29), (0.1, 26, 3), (0.04, 9, 0), (0.99, 9, 8)]
)
def test_a_share_is_so_many_steps_as_it_rounds_to(share: float, steps: int, warmup_steps: int) -> None:
    assert rates("cosine", steps, 0, warmup_share=share) == rates("cosine", steps, warmup_steps)


def test_a_warm_up_has_one_length() -> None:
    with pytest.raises(ValidationError, match=r"either warmup_steps \(3\) or warmup_share \(0\.1\)"):
        ConstantLrSchedule(warmup_steps=3, warmup_share=0.1)
    assert ConstantLrSchedule(warmup_steps=0, warmup_share=0.1).warmup(50) == 5


def test_a_share_that_is_not_there_is_not_written() -> None:
    stored = {"warmup_steps": 3, "name": "cosine"}
    assert SCHEDULES.dump_python(SCHEDULES.validate_python(stored), mode="json") == stored
    with_share = {"warmup_steps": 0, "warmup_share": 0.0, "name": "cosine"}
    assert SCHEDULES.dump_python(SCHEDULES.validate_python(with_share), mode="json") == with_share


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
