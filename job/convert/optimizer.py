"""What of a configuration says how gradients become updates."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from job.convert.arguments import Arguments, numbers, plain, read_arguments, say_not_taken
from job.convert.settings import Reading

_KEY = "training.optimizer"
# Optimizers by their names there, in small letters: the one here, and what the library has where nothing is written,
# where that is not so here.
_SAME: dict[str, tuple[str, Mapping[str, Any]]] = {
    "adamw": ("adamw", {}),
    "adam": ("adamw", {"weight_decay": 0}),
    "lion": ("lion", {"weight_decay": 0}),
    "prodigy": ("prodigy", {}),
    "sgd": ("sgd", {"momentum": 0}),
    "sgdnesterov": ("sgd", {"nesterov": True}),
    "adamwschedulefree": ("schedule_free_adamw", {"weight_decay": 0}),
}
_ROUNDED = re.compile(r"(?:paged)?(adamw?|lion|sgd|sgdnesterov)(?:8bit|32bit)?")
_COUPLED = ("adam", "sgd", "sgdnesterov")  # Their decay is added to the gradient.
# Which `optimizer_args` an optimizer here may have, beside `betas`.
_ARGUMENTS = {
    "adamw": ("weight_decay", "eps"),
    "lion": ("weight_decay",),
    "prodigy": (
        *("weight_decay", "eps", "beta3", "decouple", "use_bias_correction", "safeguard_warmup"),
        *("d0", "d_coef", "growth_rate"),
    ),
    "schedule_free_adamw": ("weight_decay", "eps"),
    "sgd": ("weight_decay", "momentum", "nesterov"),
}
_CALLED = {"eps": "epsilon"}  # here; the others have the same name
_FLAGS = ("decouple", "use_bias_correction", "safeguard_warmup", "nesterov")
_WITHOUT_BETAS = ("sgd",)
_OF_SCHEDULE = ("warmup_steps",)  # of a schedule-free optimizer


@dataclass(frozen=True)
class Choice:
    """The optimizer that a configuration asks for, and the one here that it becomes."""

    written: str  # in small letters, without the library
    name: str
    settings: Mapping[str, Any]  # that the library has where none are written
    arguments: Arguments  # those of `optimizer_args` that the one here may have

    @property
    def is_schedule_free(self) -> bool:
        """Whether sd-scripts give it no schedule."""
        return self.written.endswith("schedulefree")


def choose(reading: Reading) -> Choice:
    """The optimizer, with a remark where there is none like it here."""
    setting, named = "optimizer_type", reading.text("optimizer_type", f"{_KEY}.name")
    for flag, meant in (("use_8bit_adam", "AdamW8bit"), ("use_lion_optimizer", "Lion")):
        if reading.flag(flag, f"{_KEY}.name"):
            setting, named = flag, meant
    written = (named or "adamw").lower().rpartition(".")[2]
    arguments = read_arguments(reading, "optimizer_args", _KEY)
    rounded = _ROUNDED.fullmatch(written)
    kind = rounded[1] if rounded else written
    if kind in _SAME:
        name, settings = _SAME[kind]
        if kind != written:
            reading.remarks.append(f"{setting}: {named} becomes {name} in single precision, which rounds nothing.")
        return Choice(kind, name, settings, arguments)
    name = _nearest(written)
    suits = "" if name == "prodigy" else ", at a rate that may not suit it"
    reading.lose(setting, f"{name} is used instead{suits}")
    if arguments:
        reading.lose("optimizer_args", "they are another optimizer's")
    return Choice(written, name, {}, {})


def _nearest(written: str) -> str:
    """The optimizer here that is most like one that is not here."""
    if written.startswith(("dadapt", "prodigy")):
        return "prodigy"  # It finds the rate itself, too, and its learning rate is a factor, such as 1.
    return "schedule_free_adamw" if written.endswith("schedulefree") else "adamw"


def optimizer(reading: Reading, choice: Choice, images: int) -> dict[str, Any]:
    """The manifest's `training.optimizer`.

    Args:
        images: of an update.
    """
    made: dict[str, Any] = {
        "name": choice.name,
        "learning_rate": _learning_rate(reading, images),
        **choice.settings,
    }
    for setting, key in (
        ("adam_weight_decay", "weight_decay"),
        ("adam_beta1", "beta1"),
        ("adam_beta2", "beta2"),
        ("adam_epsilon", "epsilon"),
    ):
        value = reading.number(setting, f"{_KEY}.{key}")
        made |= {} if value is None else {key: value}
    made |= _of_arguments(reading, choice)
    if choice.written in _COUPLED and made.get("weight_decay"):
        reading.remarks.append(
            f"weight_decay shrinks the weights here; {choice.written} there adds it to the gradient."
        )
    return made


def _of_arguments(reading: Reading, choice: Choice) -> dict[str, Any]:
    """What `optimizer_args` say of the optimizer."""
    made: dict[str, Any] = {}
    others = {}
    for name, text in choice.arguments.items():
        betas = numbers(text) if name == "betas" and choice.name not in _WITHOUT_BETAS else []
        value = bool(plain(text)) if name in _FLAGS else plain(text)
        if name in _ARGUMENTS[choice.name] and not isinstance(value, str):
            made |= {} if value is None else {_CALLED.get(name, name): value}
        elif len(betas) == 2:
            made |= {"beta1": betas[0], "beta2": betas[1]}
        elif not (name in _OF_SCHEDULE and choice.is_schedule_free):
            others[name] = text
    say_not_taken(reading, "optimizer_args", others, f"{choice.name} has no such settings")
    for name in made:
        reading.places[f"{_KEY}.{name}"] = reading.configuration.settings["optimizer_args"]
    return made


def _learning_rate(reading: Reading, images: int) -> float | None:
    key = f"{_KEY}.learning_rate"
    name = "unet_lr" if reading.has("unet_lr") else "learning_rate"
    if name == "unet_lr":
        reading.lose("learning_rate", "unet_lr goes before it")
    rate = reading.number(name, key)
    if reading.setting(name) is None and reading.program.is_kohya:
        reading.remarks.append(f"Without learning_rate, sd-scripts train at {rate}, at which an adapter hardly learns.")
    return rate * images if rate is not None and reading.flag("scale_lr", key) else rate
