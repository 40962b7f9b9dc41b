"""What of a configuration says how an adapter is trained."""

import math
from collections.abc import Sequence
from typing import Any

from job.convert.folders import Folder
from job.convert.objective import objective
from job.convert.optimizer import choose, optimizer
from job.convert.schedule import schedule
from job.convert.settings import Reading, as_number

_PRECISION = {"no": "fp32", "fp32": "fp32", "float": "fp32", "fp16": "fp16", "bf16": "bf16"}


def training(reading: Reading, folders: Sequence[Folder], *, zero_terminal_snr: bool) -> dict[str, Any]:
    """The manifest's `training`.

    Args:
        zero_terminal_snr: whether the base model is trained so.
    """
    batch = reading.count("train_batch_size", "training.batch_size")
    accumulation = reading.count("gradient_accumulation_steps", "training.gradient_accumulation")
    processes = reading.count("num_processes", "training.gradient_accumulation")
    if processes > 1:
        reading.remarks.append(f"An update of {processes} processes saw as many micro-batches as one does now.")
    length = _length(reading, folders, batch * accumulation * processes)
    flip = [name for name in ("flip_aug", "random_flip") if reading.flag(name, "training.random_flip")]
    precision, choice = _precision(reading), choose(reading)
    made = {
        **length,
        "batch_size": batch,
        "gradient_accumulation": accumulation * processes,
        "optimizer": optimizer(reading, choice, batch * accumulation * processes),
        "schedule": schedule(reading, choice, processes),
        **objective(reading, zero_terminal_snr=zero_terminal_snr),
        "max_grad_norm": reading.number("max_grad_norm", "training.max_grad_norm") or None,
        "random_flip": bool(flip),
    }
    return made if precision is None else made | {"precision": precision}


def _length(reading: Reading, folders: Sequence[Folder], images: int) -> dict[str, int]:
    """How long is trained: so many updates, or epochs where nobody can tell how many updates those are.

    sd-scripts let epochs go before steps, diffusers' scripts the reverse.

    Args:
        images: of an update.
    """
    name = "max_train_epochs" if reading.program.is_kohya else "num_train_epochs"
    written = reading.setting(name)
    if reading.setting("max_train_steps") if not reading.program.is_kohya else written is None:
        for each in (name, "dataset_repeats"):
            reading.lose(each, "max_train_steps says how long is trained")
        steps = reading.count("max_train_steps", "training.steps")
        if reading.setting("max_train_steps") is None:
            reading.remarks.append(f"Without max_train_steps or max_train_epochs, sd-scripts train {steps} steps.")
        return {"steps": steps}
    reading.lose("max_train_steps", f"{name} goes before it")
    reading.taken.add("dataset_repeats")
    epochs, seen = reading.count(name, "training.epochs"), images_of_epoch(reading, folders)
    if seen is None:
        return {"epochs": epochs * _repeats(reading, folders, epochs)}
    if written is not None and written.name == "epoch":  # the GUI makes steps of it, without rounding every epoch
        return {"steps": math.ceil(seen / images * epochs)}
    return {"steps": epochs * math.ceil(seen / images)}


def _repeats(reading: Reading, folders: Sequence[Folder], epochs: int) -> int:
    """How often an epoch of the other trainer shows an image, of images that are not here."""
    repeats = {folder.repeats for folder in folders}
    if not reading.program.is_kohya or (reading.configuration.subsets and len(repeats) == 1):
        return max(repeats, default=1)
    reading.miss("training.epochs", f"{epochs} x how often an epoch there repeats an image; no images are here")
    return 1


def images_of_epoch(reading: Reading, folders: Sequence[Folder]) -> int | None:
    """How many images one epoch shows, repeats included; None where they cannot be counted."""
    found = reading.setting("validation_split")
    held_out = as_number(found.value) or 0 if found is not None else 0
    share = 1 - held_out if 0 <= held_out < 1 else 1
    counts = [math.ceil(folder.images * share) * folder.repeats for folder in folders if folder.images is not None]
    return sum(counts) or None if len(counts) == len(folders) else None


def _precision(reading: Reading) -> str | None:
    """The base's precision; None where the trainer's launcher was to say it."""
    text = reading.text("mixed_precision", "training.precision")
    if text is not None and text not in _PRECISION:
        reading.lose("mixed_precision", "it is chosen by the device")
    return _PRECISION.get(text or "")
