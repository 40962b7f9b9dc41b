"""The learning rate of every update, as a function of the step alone."""

import math

from lora_engine.config.lr_schedule import ConstantLrSchedule, CosineLrSchedule, LinearLrSchedule
from lora_engine.config.training import TrainingConfig

LrSchedule = ConstantLrSchedule | LinearLrSchedule | CosineLrSchedule


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The learning rate of optimizer update `step`, where 1 is the first and `config.steps` the last.

    The rate rises linearly over the warm-up and reaches its peak in the first update after it.
    """
    return config.optimizer.learning_rate * _factor(config.schedule, step - 1, config.steps)


def _factor(schedule: LrSchedule, done: int, total: int) -> float:
    """The learning rate relative to its peak, in [0, 1], when `done` of `total` updates are done."""
    if done < schedule.warmup_steps:
        return (done + 1) / (schedule.warmup_steps + 1)
    progress = (done - schedule.warmup_steps) / max(1, total - schedule.warmup_steps)
    match schedule:
        case ConstantLrSchedule():
            return 1.0
        case LinearLrSchedule():
            return 1.0 - progress
        case CosineLrSchedule():
            return 0.5 * (1.0 + math.cos(math.pi * progress))
