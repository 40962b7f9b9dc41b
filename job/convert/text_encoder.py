"""What of a configuration says whether the text encoder is trained, at which rate and for how long."""

import math
from typing import Any

from job.convert.settings import Reading, as_number, says_no

_KEY = "lora.text_encoder"
_STOPS = ("stop_text_encoder_training", "stop_text_encoder_training_pct")
_UNET_IS_THERE = "adapters here have layers of the UNet, and of the text encoder besides"


def text_encoder(reading: Reading, training: dict[str, Any]) -> dict[str, Any]:
    """The key `text_encoder` of the manifest's `lora`, or nothing where it is not trained.

    Args:
        training: the manifest's.
    """
    if not reading.program.is_kohya:
        if not reading.flag("train_text_encoder", _KEY):
            return {}
        reading.remarks.append("The script trains the text encoder's attention; its MLP layers are trained here, too.")
        return {"text_encoder": {}}
    if reading.flag("network_train_unet_only", _KEY):
        for name in ("text_encoder_lr", *_STOPS):
            reading.lose(name, "network_train_unet_only goes before it")
        return {}
    _refuse_text_alone(reading)
    rate = _rate(reading)
    if rate is not None and says_no(rate):
        return {}
    made = {"learning_rate": _own_rate(reading, rate, training["optimizer"]), "stop_after": _stop(reading, training)}
    return {"text_encoder": {key: value for key, value in made.items() if value is not None}}


def _refuse_text_alone(reading: Reading) -> None:
    """Note the problem of a configuration that trains no layers of the UNet."""
    only = reading.setting("network_train_text_encoder_only")
    if only is not None and reading.flag("network_train_text_encoder_only", _KEY):
        reading.problems.append(only.problem(f"false, since {_UNET_IS_THERE}"))
    rate = reading.setting("unet_lr")
    if rate is not None and as_number(rate.value) == 0:
        reading.problems.append(rate.problem(f"above 0, since {_UNET_IS_THERE}"))


def _rate(reading: Reading) -> float | str | None:
    """The text encoder's learning rate as it is written, of several the first, or else the one for both."""
    found = reading.words("text_encoder_lr", f"{_KEY}.learning_rate")
    if found:
        number = as_number(found[0].strip("[],"))
        return found[0] if number is None else number
    reading.lost.pop("learning_rate", None)  # which is the text encoder's even where the UNet has a rate of its own
    return reading.number("learning_rate", f"{_KEY}.learning_rate")


def _own_rate(reading: Reading, rate: float | str | None, optimizer: dict[str, Any]) -> float | str | None:
    """The rate, unless it is the UNet's."""
    if rate == optimizer["learning_rate"]:
        return None
    if optimizer["name"] == "prodigy":
        reading.lose("text_encoder_lr", "prodigy finds one learning rate")
        return None
    if reading.setting("text_encoder_lr") is None and reading.setting("learning_rate") is None:
        reading.remarks.append(f"Without text_encoder_lr, sd-scripts train the text encoder at {rate}.")
    return rate


def _stop(reading: Reading, training: dict[str, Any]) -> int | None:
    """The update after which the text encoder stays as it is: steps, or per cent of them in the GUI."""
    for name in _STOPS:
        setting = reading.setting(name)
        value = reading.number(name, f"{_KEY}.stop_after")
        if setting is None or not value or value < 0:
            continue
        if training["optimizer"]["name"] in ("prodigy", "schedule_free_adamw"):
            reading.lose(name, f"{training['optimizer']['name']} trains all weights for as long")
            return None
        reading.remarks.append(f"train_network.py of sd-scripts ignores {setting.name}, which is kept to here.")
        if not (name.endswith("_pct") or setting.origin.lower().endswith(".json")):
            return math.ceil(value)
        if "steps" in training:
            steps: int = training["steps"]
            return max(1, math.ceil(steps * value / 100))
        reading.lose(name, "how many updates that are cannot be told: no images are here")
    return None
