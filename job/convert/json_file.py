"""Reads JSON as the GUI of sd-scripts saves it, and gives settings the names that the command line has for them."""

from collections.abc import Mapping
from typing import Any

from job.convert.settings import ConversionError, Setting, as_number
from job.convert.texts import refuse
from job.manifest.problems import ManifestError
from job.manifest.yaml_reader import read_yaml

_CALLED = {
    "max_resolution": "resolution",
    "optimizer": "optimizer_type",
    "lora_network_weights": "network_weights",
}
_MARKS = ("LoRA_type", "network_dim", "max_resolution")
# Where the GUI offers 0 for "not set" or passes no 0 on, and what of that the scripts would take for a value.
_ZERO_IS_UNSET = (
    "max_train_steps", "max_train_epochs", "save_every_n_steps", "save_every_n_epochs", "save_last_n_epochs", "seed",
    "unet_lr", "sample_every_n_steps", "sample_every_n_epochs", "max_timestep", "multires_noise_discount", "huber_c",
    "huber_scale", "lr_scheduler_num_cycles", "lr_scheduler_power",
)  # fmt: skip
_MODELS = ("flux1_checkbox", "sd3_checkbox", "hunyuan_image_checkbox", "anima_checkbox", "lumina_checkbox")
# Fields that the GUI passes on for some kinds of LoRA, and where something else says so.
_OF_CONVOLUTIONS = ("conv_dim", "conv_alpha", "conv_block_dims", "conv_block_alphas")
_OF_LYCORIS = (
    "LyCORIS_preset", "factor", "bypass_mode", "dora_wd", "use_cp", "use_tucker", "use_scalar", "rank_dropout_scale",
    "constrain", "rescaled", "train_norm", "decompose_both", "train_on_input", "unit",
)  # fmt: skip
_OF_MULTIRES = ("multires_noise_iterations", "multires_noise_discount")
_OF_OFFSET = ("noise_offset", "noise_offset_random_strength", "adaptive_noise_scale")
_OF_HUBER = ("huber_schedule", "huber_c", "huber_scale")


def read_json(text: str, origin: str) -> tuple[dict[str, Setting], list[str]]:
    """The settings of a file that the GUI has saved, and remarks on fields that the GUI itself would pass over.

    Raises:
        ConversionError: it is no JSON, or not of the GUI, or for a model of another kind.
    """
    try:
        document = read_yaml(text.replace("\t", " ").encode(), origin)
    except ManifestError as error:
        raise ConversionError(error.problems) from error
    if document.problems:
        raise ConversionError(document.problems)
    data = document.data
    if not any(mark in data for mark in _MARKS):
        keys = ", ".join(list(data)[:8]) or "no keys"
        refuse(origin, None, f"JSON with {keys}", "what the GUI of sd-scripts saves for a LoRA")
    other = next((model for model in _MODELS if data.get(model) is True), None)
    if other is not None:
        refuse(origin, document.line((other,)), f"{other} = true", "a configuration for SD 1.x or 2.x")
    settings = {
        _CALLED.get(name, name): Setting(name, value, origin, document.line((name,)))
        for name, value in data.items()
        if not (value in ("", None) or (name in _ZERO_IS_UNSET and as_number(value) == 0))
    }
    if data.get("lr_scheduler_num_cycles") == "" and "epoch" in settings:  # as many restarts as epochs
        settings["lr_scheduler_num_cycles"] = settings["epoch"]
    passed_over = [name for name in _unused(data) if settings.pop(name, None) is not None]
    _steps_as_scripts_have_them(settings)
    said = f"The GUI does not use, with what else is chosen: {', '.join(passed_over)}."
    return settings, [said] if passed_over else []


def _unused(data: Mapping[str, Any]) -> list[str]:
    """The fields that are filled in, but that the GUI does not pass on."""
    kind = str(data.get("LoRA_type", "Standard"))
    unused = list(_OF_OFFSET if data.get("noise_offset_type") == "Multires" else _OF_MULTIRES)
    if not kind.startswith("LyCORIS"):
        unused += _OF_LYCORIS
        unused += () if kind == "Kohya LoCon" else _OF_CONVOLUTIONS
    if data.get("loss_type", "l2") == "l2":
        unused += _OF_HUBER
    return unused


def _steps_as_scripts_have_them(settings: dict[str, Setting]) -> None:
    """Write the GUI's own fields as the scripts have them.

    Epochs count where neither steps nor another number of epochs is given, and warm-up is in per cent.
    """
    epoch, percent, steps = (settings.pop(name, None) for name in ("epoch", "lr_warmup", "lr_warmup_steps"))
    steps_are_said = {"max_train_steps", "max_train_epochs"} & settings.keys() or "dataset_config" in settings
    if epoch is not None and not steps_are_said:
        settings["max_train_epochs"] = epoch
    share = as_number(percent.value) if percent is not None else None
    if steps is not None and as_number(steps.value) != 0 and not steps.is_empty:
        settings["lr_warmup_steps"] = steps
    elif percent is not None and share != 0 and not percent.is_empty:
        value = percent.value if share is None else share / 100
        settings["lr_warmup_steps"] = Setting(percent.name, value, percent.origin, percent.line)
