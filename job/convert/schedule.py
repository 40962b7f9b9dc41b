"""What of a configuration says how the learning rate changes from update to update."""

import math
from typing import Any

from job.convert.arguments import plain
from job.convert.optimizer import Choice
from job.convert.settings import Reading

_KEY = "training.schedule"
# Schedules by their names there, without those that have settings of their own: the nearest one here, and what is not
# the same.
_PLAIN = {
    "constant": ("constant", ""),
    "constant_with_warmup": ("constant", ""),
    "linear": ("linear", ""),
    "cosine": ("cosine", ""),
    "cosine_with_min_lr": ("cosine", "the rate falls to 0"),
}
_OTHERWISE = ("constant", "the rate is constant")
_CYCLES = ("lr_scheduler_num_cycles", "lr_num_cycles")
_POWER = ("lr_scheduler_power", "lr_power")


def schedule(reading: Reading, choice: Choice, processes: int) -> dict[str, Any]:
    """The manifest's `training.schedule`.

    Args:
        processes: of the other trainer.
    """
    named = reading.text("lr_scheduler", f"{_KEY}.name") or "constant"
    if choice.is_schedule_free:
        return _of_schedule_free(reading, choice, named)
    counted = processes if reading.program.is_kohya else 1  # sd-scripts' schedules go on once per process
    made = _shape(reading, named, counted)
    return made | _warmup(reading, named, counted)


def _shape(reading: Reading, named: str, counted: int) -> dict[str, Any]:
    match named:
        case "cosine_with_restarts":
            cycles = max(reading.count(name, f"{_KEY}.cycles") for name in _CYCLES)
            return {"name": "cosine"} if cycles == 1 else {"name": "cosine_restarts", "cycles": cycles}
        case "polynomial":
            reading.remarks.append("The schedule polynomial ends at a rate of 1e-7 there, and of 0 here.")
            written = [reading.number(name, f"{_KEY}.power") for name in _POWER]
            power = next((power for power in written if power is not None), 1)
            return {"name": "linear"} if power == 1 else {"name": "polynomial", "power": power}
        case "inverse_sqrt":
            scale = reading.whole("lr_scheduler_timescale", f"{_KEY}.timescale_steps")
            return {"name": "inverse_sqrt"} | ({"timescale_steps": math.ceil(scale / counted)} if scale else {})
    name, difference = _PLAIN.get(named, _OTHERWISE)
    if difference:
        reading.lose("lr_scheduler", difference)
    return {"name": name}


def _warmup(reading: Reading, named: str, counted: int) -> dict[str, Any]:
    """How long the rate rises: so many updates, or a share of all."""
    warmup = reading.length("lr_warmup_steps", f"{_KEY}.warmup_steps") or 0
    if named == "constant" and warmup:
        reading.lose("lr_warmup_steps", "the schedule constant has no warm-up there, either")
        return {"warmup_steps": 0}
    if 0 < warmup < 1:
        return {"warmup_share": warmup}
    return {"warmup_steps": math.ceil(warmup / counted) if counted > 1 else warmup}


def _of_schedule_free(reading: Reading, choice: Choice, named: str) -> dict[str, Any]:
    """The schedule of an optimizer that has none; its own warm-up begins one update later, at the first share."""
    if named != "constant":
        reading.lose("lr_scheduler", "sd-scripts give a schedule-free optimizer no schedule, either")
    if reading.has("lr_warmup_steps"):
        reading.lose(
            "lr_warmup_steps", "sd-scripts give a schedule-free optimizer no schedule; optimizer_args have one"
        )
    warmup = plain(choice.arguments.get("warmup_steps", "0"))
    return {"name": "constant", "warmup_steps": max(warmup - 1, 0) if isinstance(warmup, int) else 0}
