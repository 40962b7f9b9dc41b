"""Finds out which trainer's configuration a text is, and reads it with the files that it names."""

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from job.convert.command_line import names_a_trainer, read_command
from job.convert.json_file import read_json
from job.convert.programs import SCRIPTS, SD_SCRIPTS
from job.convert.settings import Configuration, Setting
from job.convert.texts import decoded, read_beside, refuse
from job.convert.toml_file import flat_settings, is_of_dataset, parse_toml, subsets

# At least one of them stands in a configuration of sd-scripts.
_MARKS = {
    "pretrained_model_name_or_path", "train_data_dir", "dataset_config", "network_module", "network_dim",
    "network_alpha", "output_name", "max_train_steps", "max_train_epochs", "unet_lr",
}  # fmt: skip
_KINDS = "TOML or JSON of kohya's sd-scripts, or a shell file that calls " + ", ".join(SCRIPTS)
Settings = dict[str, Setting]


def read_configuration(content: bytes, origin: str) -> Configuration:
    """Read a configuration. The end of its name says what it is, or else its beginning.

    Raises:
        ConversionError: it is none that is known, or cannot be read.
    """
    text, suffix = decoded(content, origin), PurePosixPath(origin).suffix.lower()
    if suffix == ".toml":
        configuration = _from_toml(text, origin, is_named_so=True)
    elif suffix == ".json" or (text.lstrip().startswith("{") and not names_a_trainer(text)):
        settings, remarks = read_json(text, origin)
        configuration = Configuration(SD_SCRIPTS, settings, (), remarks)
    elif names_a_trainer(text):
        configuration = _from_command(text, origin)
    else:
        configuration = _from_toml(text, origin, is_named_so=False)
    return _with_dataset(configuration, origin)


def _from_toml(text: str, origin: str, *, is_named_so: bool) -> Configuration:
    if not is_named_so and "=" not in text:
        refuse(origin, None, _shown(text), _KINDS)
    data = parse_toml(text, origin)
    if is_of_dataset(data):
        return Configuration(SD_SCRIPTS, {}, subsets(data, text, origin))
    settings = flat_settings(data, text, origin)
    if not settings.keys() & _MARKS:
        refuse(origin, None, f"TOML with {', '.join(list(settings)[:8]) or 'no keys'}", _KINDS)
    return Configuration(SD_SCRIPTS, settings)


def _shown(text: str) -> str:
    first = next((line for line in text.split("\n") if line.strip()), "")
    return f"a text that begins with {first[:60]!r}" if first else "an empty file"


def _from_command(text: str, origin: str) -> Configuration:
    command = read_command(text, origin)
    program = SCRIPTS[command.script]
    settings: Settings = dict(command.launcher)
    if program.is_kohya:  # it does not ask its launcher for the precision
        settings.pop("mixed_precision", None)
    remarks = [f"{name} is {value}, which only a shell can find out." for name, value in command.unknown.items()]
    settings |= _of_config_file(command.options, origin, remarks)
    settings |= command.options
    if command.script.startswith("sdxl"):
        settings["sdxl"] = Setting("sdxl", True, origin)
    return Configuration(program, settings, (), remarks)


def _of_config_file(options: Any, origin: str, remarks: list[str]) -> Settings:
    """The settings of the file that a command line names; its own go before them."""
    if "config_file" not in options:
        return {}
    name = str(options["config_file"].value)
    found = read_beside(name if name.endswith(".toml") else f"{name}.toml", origin)
    if found is None:
        remarks.append(f"config_file {name!r} is not here, and its settings are not taken.")
        return {}
    text = decoded(*found)
    return flat_settings(parse_toml(text, found[1]), text, found[1])


def _with_dataset(configuration: Configuration, origin: str) -> Configuration:
    """The configuration with that of its dataset, of which the first folder's settings go before those of the text."""
    named = configuration.settings.get("dataset_config")
    found, remarks = configuration.subsets, list(configuration.remarks)
    if named is not None and not named.is_empty:
        beside = read_beside(str(named.value), origin)
        if beside is None:
            remarks.append(f"dataset_config {named.value!r} is not here, and its settings are not taken.")
        else:
            text = decoded(*beside)
            data = parse_toml(text, beside[1])
            if not is_of_dataset(data):
                refuse(beside[1], None, "no [[datasets]]", "a configuration of a dataset")
            found = subsets(data, text, beside[1])
    if not found:
        return replace(configuration, remarks=remarks)
    first = next((each for each in found if not _is_of_a_class(each)), found[0])
    return replace(configuration, settings={**configuration.settings, **first}, subsets=found, remarks=remarks)


def _is_of_a_class(subset: Settings | Any) -> bool:
    return "is_reg" in subset and subset["is_reg"].value is True
