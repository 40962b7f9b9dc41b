"""What of a configuration says how an adapter is trained."""

import math
from collections.abc import Sequence
from typing import Any

from job.convert.folders import Folder
from job.convert.settings import Reading, as_number, show

STEPS_TO_FILL_IN = 1000
_PRECISION = {"no": "fp32", "fp32": "fp32", "float": "fp32", "fp16": "fp16", "bf16": "bf16"}
# Schedules by their names there: the nearest one here, and what is not the same.
_SCHEDULES = {
    "constant": ("constant", ""),
    "constant_with_warmup": ("constant", ""),
    "linear": ("linear", ""),
    "cosine": ("cosine", ""),
    "cosine_with_restarts": ("cosine", "the rate falls once, without restarts"),
    "cosine_with_min_lr": ("cosine", "the rate falls to 0"),
    "polynomial": ("linear", "the rate falls linearly"),
}
_OTHERWISE = ("constant", "the rate is constant")
_ADAPTIVE = ("prodigy", "dadapt")  # they find the rate themselves, and are given a factor of it, such as 1
_LEARNING_RATE = 1e-4
_OPTIMIZER = "training.optimizer"
_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
_FEED_FORWARD = ["ff.net.0.proj", "ff.net.2"]
_PROJECTIONS = ["proj_in", "proj_out"]  # linear in SD 2.x
_LARGEST_RANK = 512
_OPTIMIZER_ARGUMENTS = {"weight_decay": "weight_decay", "eps": "epsilon"}


def lora(reading: Reading) -> dict[str, Any]:
    """The manifest's `lora`."""
    if not reading.program.is_kohya:
        rank = reading.whole("rank", "lora.rank")
        return {"rank": rank, "alpha": rank, "target_modules": _ATTENTION}
    if reading.has("v2"):
        targets = [*_ATTENTION, *_FEED_FORWARD, *_PROJECTIONS]
    else:
        targets = [*_ATTENTION, *_FEED_FORWARD]
        reading.remarks.append(
            "sd-scripts also train the 1x1 convolutions proj_in and proj_out, 32 of an SD 1.x model's 192 layers."
        )
    rank, alpha = reading.whole("network_dim", "lora.rank"), reading.number("network_alpha", "lora.alpha")
    if rank is not None and rank > _LARGEST_RANK and _is_of_another_kind(reading):
        for name in ("network_dim", "network_alpha"):
            reading.lose(name, "it is another kind of network's, for which it may mean full rank")
        return {"target_modules": targets}
    return {"rank": rank, "alpha": alpha, "target_modules": targets}


def _is_of_another_kind(reading: Reading) -> bool:
    """Whether the network is none of LoRA's two matrices a layer."""
    kinds = {"network_module": "networks.lora", "LoRA_type": "Standard"}
    return any((found := reading.setting(name)) is not None and found.value != plain for name, plain in kinds.items())


def training(reading: Reading, folders: Sequence[Folder]) -> dict[str, Any]:
    """The manifest's `training`."""
    batch = reading.count("train_batch_size", "training.batch_size")
    accumulation = reading.count("gradient_accumulation_steps", "training.gradient_accumulation")
    processes = reading.count("num_processes", "training.gradient_accumulation")
    if processes > 1:
        reading.remarks.append(f"An update of {processes} processes saw as many micro-batches as one does now.")
    steps = _steps(reading, folders, batch * accumulation * processes)
    flip = [name for name in ("flip_aug", "random_flip") if reading.flag(name, "training.random_flip")]
    precision = _precision(reading)
    made = {
        "steps": steps,
        "batch_size": batch,
        "gradient_accumulation": accumulation * processes,
        "optimizer": _optimizer(reading, batch * accumulation * processes),
        "schedule": _schedule(reading, steps),
        "max_grad_norm": reading.number("max_grad_norm", "training.max_grad_norm") or None,
        "random_flip": bool(flip),
    }
    return made if precision is None else made | {"precision": precision}


def _steps(reading: Reading, folders: Sequence[Folder], images: int) -> int:
    """Optimizer updates. sd-scripts let epochs go before steps, diffusers' scripts the reverse.

    Args:
        images: of an update.
    """
    key = "training.steps"
    name = "max_train_epochs" if reading.program.is_kohya else "num_train_epochs"
    written = reading.setting(name)
    if reading.setting("max_train_steps") if not reading.program.is_kohya else written is None:
        for each in (name, "dataset_repeats"):
            reading.lose(each, "max_train_steps says how long is trained")
        steps = reading.count("max_train_steps", key)
        if reading.setting("max_train_steps") is None:
            reading.remarks.append(f"Without max_train_steps or max_train_epochs, sd-scripts train {steps} steps.")
        return steps
    reading.lose("max_train_steps", f"{name} goes before it")
    reading.taken.add("dataset_repeats")
    epochs, seen = reading.count(name, key), images_of_epoch(reading, folders)
    if seen is None:
        reading.miss(key, f"{epochs} epochs x images x repeats / {images} images of an update; no images are here")
        return STEPS_TO_FILL_IN
    if written is not None and written.name == "epoch":  # the GUI makes steps of it, without rounding every epoch
        return math.ceil(seen / images * epochs)
    return epochs * math.ceil(seen / images)


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


def _optimizer(reading: Reading, images: int) -> dict[str, Any]:
    """AdamW, whatever the trainer had: there is no other.

    Args:
        images: of an update.
    """
    name = _optimizer_name(reading)
    made: dict[str, Any] = {"name": "adamw", "learning_rate": _learning_rate(reading, name, images)}
    for setting, key in (
        ("adam_weight_decay", "weight_decay"),
        ("adam_beta1", "beta1"),
        ("adam_beta2", "beta2"),
        ("adam_epsilon", "epsilon"),
    ):
        value = reading.number(setting, f"{_OPTIMIZER}.{key}")
        made |= {} if value is None else {key: value}
    arguments = reading.words("optimizer_args", _OPTIMIZER)
    if name == "adamw":
        return made | _arguments(reading, arguments)
    if arguments:
        reading.lose("optimizer_args", "they are another optimizer's")
    return made


def _optimizer_name(reading: Reading) -> str:
    """The trainer's optimizer, in small letters: adamw also for those of other precision."""
    named = reading.text("optimizer_type", f"{_OPTIMIZER}.name")
    setting = "optimizer_type"
    for flag, meant in (("use_8bit_adam", "AdamW8bit"), ("use_lion_optimizer", "Lion")):
        if reading.flag(flag, f"{_OPTIMIZER}.name"):
            setting, named = flag, meant
    name = (named or "adamw").lower()
    is_adamw = name in ("adamw", "adamw8bit", "pagedadamw", "pagedadamw8bit", "pagedadamw32bit")
    if is_adamw and name != "adamw":
        reading.remarks.append(f"{setting}: {named} becomes adamw in single precision, which rounds nothing.")
    if not is_adamw:
        suits = "" if _is_adaptive(name) else ", at a rate that may not suit it"
        reading.lose(setting, f"adamw is used instead{suits}")
    return "adamw" if is_adamw else name


def _is_adaptive(name: str) -> bool:
    return name.startswith(_ADAPTIVE)


def _learning_rate(reading: Reading, optimizer: str, images: int) -> float | None:
    key = f"{_OPTIMIZER}.learning_rate"
    name = "unet_lr" if reading.has("unet_lr") else "learning_rate"
    if name == "unet_lr":
        reading.lose("learning_rate", "unet_lr goes before it")
    if _is_adaptive(optimizer):
        for each in ("unet_lr", "learning_rate"):
            reading.lose(each, f"it is a factor of the rate that {optimizer} finds; adamw gets {_LEARNING_RATE}")
        return _LEARNING_RATE
    rate = reading.number(name, key)
    if reading.setting(name) is None and reading.program.is_kohya:
        reading.remarks.append(f"Without learning_rate, sd-scripts train at {rate}, at which an adapter hardly learns.")
    return rate * images if rate is not None and reading.flag("scale_lr", key) else rate


def _arguments(reading: Reading, arguments: Sequence[str]) -> dict[str, Any]:
    """What `name=value` texts say of AdamW."""
    made: dict[str, Any] = {}
    others = []
    for argument in arguments:
        name, _, text = argument.partition("=")
        numbers = [as_number(part) for part in text.strip("()[]").split(",") if part]
        if name == "betas" and len(numbers) == 2 and None not in numbers:
            made |= {"beta1": numbers[0], "beta2": numbers[1]}
        elif name in _OPTIMIZER_ARGUMENTS and len(numbers) == 1 and numbers[0] is not None:
            made[_OPTIMIZER_ARGUMENTS[name]] = numbers[0]
        else:
            others.append(argument)
    if others:
        reading.remarks.append(f"optimizer_args {show(' '.join(others))} are not taken: adamw has no such settings.")
    for name in made:
        reading.places[f"{_OPTIMIZER}.{name}"] = reading.configuration.settings["optimizer_args"]
    return made


def _schedule(reading: Reading, steps: int) -> dict[str, Any]:
    key = "training.schedule"
    named = reading.text("lr_scheduler", f"{key}.name") or "constant"
    name, difference = _SCHEDULES.get(named, _OTHERWISE)
    if _is_the_same(reading, named):
        difference = ""
    if difference:
        reading.lose("lr_scheduler", difference)
    warmup = reading.number("lr_warmup_steps", f"{key}.warmup_steps") or 0
    if named == "constant" and warmup:
        reading.lose("lr_warmup_steps", "the schedule constant has no warm-up there, either")
        warmup = 0
    if 0 < warmup < 1:
        if "training.steps" in reading.missing:
            reading.miss(f"{key}.warmup_steps", f"{warmup} of the steps")
        warmup = int(warmup * steps)
    return {"name": name, "warmup_steps": warmup}


def _is_the_same(reading: Reading, schedule: str) -> bool:
    """Whether a schedule with its settings is what the nearest one here is."""
    of_restarts, of_power = ("lr_scheduler_num_cycles", "lr_num_cycles"), ("lr_scheduler_power", "lr_power")
    settings = {"cosine_with_restarts": of_restarts, "polynomial": of_power}.get(schedule, ())
    values = [reading.number(name, "training.schedule.name") for name in settings]
    return bool(settings) and all(value in (None, 1) for value in values)
