"""Learning rate as a function of the step alone."""

import math

from lora_engine.config.lr_schedule import ConstantLrSchedule, CosineLrSchedule, LinearLrSchedule
from lora_engine.config.training import TrainingConfig

Schedule = ConstantLrSchedule | LinearLrSchedule | CosineLrSchedule


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of optimizer update `step`, where 1 is the first and `config.steps` the last.

    The rate rises linearly over the warm-up and reaches its peak in the first update after it.
    """
    return config.optimizer.learning_rate * _factor(config.schedule, step - 1, config.steps)


def _factor(schedule: Schedule, done: int, total: int) -> float:
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
