"""The learning rate of every update, as a function of the step alone."""

import math

from lora_engine.config.lr_schedule import (
    ConstantLrSchedule,
    CosineLrSchedule,
    CosineRestartsLrSchedule,
    InverseSqrtLrSchedule,
    LinearLrSchedule,
    LrSchedule,
    PolynomialLrSchedule,
)
from lora_engine.config.training import TrainingConfig

_LONG = 10_000  # updates: the timescale of an inverse square root that has no warm-up, as in transformers


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The learning rate of optimizer update `step`, where 1 is the first and `config.steps` the last.

    The rate rises linearly over the warm-up and reaches its peak in the first update after it. transformers and
    diffusers begin a warm-up with an update at rate 0, which does nothing; that one is left out here, so that update
    `step` has the rate of theirs with index `step`, a warm-up and a total of one more.
    """
    return config.optimizer.learning_rate * _factor(config.schedule, step - 1, config.last_step)


def _factor(schedule: LrSchedule, done: int, total: int) -> float:
    """The learning rate relative to its peak, in [0, 1], when `done` of `total` updates are done."""
    warmup = schedule.warmup(total)
    if done < warmup:
        return (done + 1) / (warmup + 1)
    since, span = done - warmup, max(1, total - warmup)
    progress = since / span
    match schedule:
        case ConstantLrSchedule():
            return 1.0
        case LinearLrSchedule():
            return 1.0 - progress
        case CosineLrSchedule():
            return _half_cosine(progress)
        case CosineRestartsLrSchedule():
            return _half_cosine(since * schedule.cycles % span / span)
        case PolynomialLrSchedule():
            return float((1.0 - progress) ** schedule.power)
        case InverseSqrtLrSchedule():
            return _inverse_sqrt(since, schedule.timescale_steps or (warmup + 1 if warmup else _LONG))


def _half_cosine(progress: float) -> float:
    """(1 + cos(pi x)) / 2 (Loshchilov and Hutter, SGDR, arXiv 1608.03983, equation 5).

    A restart begins it anew. Where one begins is computed in whole numbers here; transformers multiplies the progress
    as a float, and may so give the 0 at a cycle's end in place of the peak at the next one's beginning.
    """
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _inverse_sqrt(since: int, timescale: int) -> float:
    """sqrt(T / (T + n)), n updates after the warm-up (Vaswani et al., arXiv 1706.03762, section 5.3, for any T)."""
    return math.sqrt(timescale / (timescale + since))
