"""Reads a prompt with its options on one line, written as kohya's sd-scripts take it.

sd-scripts drop options that they do not know, cut a value where it stops being a number, clamp steps, and round sizes
down. Here each of these is a problem: the picture would not be the one that was asked for.
"""

import json
import re
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from job.manifest.explain import collect_problems
from job.manifest.problems import Problem, PromptsError
from job.manifest.yaml_reader import CONTROL, Document
from lora_engine.config.evaluation import PromptConfig

_LONGEST_LINE = 5000  # characters: of a prompt and a negative prompt as long as they may be, and options

# The letters of each option, and the setting that it is. Width and height are those of `size`.
_OPTIONS = {
    "n": "negative",
    "w": "width",
    "h": "height",
    "d": "seed",
    "l": "guidance",
    "s": "steps",
    "am": "strength",
}
_ALLOWED = ", ".join(f"--{letters} {setting.upper()}" for letters, setting in _OPTIONS.items())
_OPTION_OF = {setting: f"--{letters}" for letters, setting in _OPTIONS.items()}
_PLACES = _OPTION_OF | {"size[0]": "--w", "size[1]": "--h", "prompt": ""}  # by the path in a PromptConfig

# Options that sd-scripts know and a prompt has not, and why.
_FOREIGN = {
    "ss": "one sampler serves all prompts",
    "cn": "there is no ControlNet here",
    "fs": "it is for flow models",
    "g": "guidance is --l",
    "ctr": "it is for Lumina",
    "rcfg": "it is for Lumina",
}

# What sd-scripts and others call the settings.
_SYNONYMS = {
    "neg": "negative",
    "negative_prompt": "negative",
    "cfg": "guidance",
    "cfg_scale": "guidance",
    "scale": "guidance",
    "guidance_scale": "guidance",
    "sample_steps": "steps",
}

_OPTION = re.compile(r"(?<!\S)--([A-Za-z]\S*)")  # a letter must follow: ` -- ` is a dash
_WHOLE = re.compile(r"[-+]?[0-9]{1,400}")  # Python refuses to read numbers of thousands of digits
_DECIMAL = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)")
_WITHOUT_SPACE = re.compile(r"([a-z]+)[=:]?([0-9.]+)")  # --w=512 and --w512


def read_prompt(text: str, origin: str = "--prompt") -> PromptConfig:
    """The prompt of one text, such as a command's argument. A `#` at its start is part of the prompt.

    Args:
        origin: where it comes from, for messages.

    Raises:
        PromptsError: it has problems; the error holds every one.
    """
    prompt, problems = parse_line(text, origin, None)
    if prompt is None:
        raise PromptsError(problems)
    return prompt


def parse_line(text: str, origin: str, line: int | None) -> tuple[PromptConfig | None, list[Problem]]:
    """The prompt of a line and no problem, or None and every problem of the line."""
    if len(text) > _LONGEST_LINE:
        return None, [Problem(origin, line, "", f"{len(text)} characters", f"at most {_LONGEST_LINE} on a line")]
    if control := CONTROL.search(text) or re.search("\n", text):
        found = "a line break" if control[0] in "\r\n" else f"the control character {control[0]!r}"
        return None, [Problem(origin, line, "", found, "one line of plain text")]
    prompt, options, problems = _split(text, origin, line)
    settings, more = _settings(options, origin, line)
    data, problems = {"prompt": prompt, **settings}, problems + more
    if not prompt:
        problems.append(Problem(origin, line, "", "no prompt", "a prompt, and options after it"))
    try:
        config = PromptConfig.model_validate_json(json.dumps(data))
    except ValidationError as error:
        for problem in collect_problems(error, PromptConfig, (), data, Document({}, {}, origin), {}):
            path = _PLACES.get(problem.path, problem.path)
            hint = _rounded(options.get(path.removeprefix("--"), ""))
            problems.append(replace(problem, line=line, path=path, suggestion=hint))
        return None, problems
    return (None, problems) if problems else (with_side_of_square(config), [])


def options_in(text: str) -> dict[str, str]:
    """The options of sd-scripts that a text holds, with the key of a PromptConfig for each; "" where it has none."""
    names = [match[1].lower() for match in _OPTION.finditer(text)]
    return {f"--{name}": meant_key(_OPTIONS.get(name, "")) for name in names if name in _OPTIONS or name in _FOREIGN}


def meant_key(word: str) -> str:
    """The key of a PromptConfig that a word of another program means; "" for other words."""
    setting = _SYNONYMS.get(word, word)
    key = "size" if setting in ("width", "height") else setting
    return key if key in PromptConfig.model_fields else ""


def with_side_of_square(prompt: PromptConfig) -> PromptConfig:
    """The prompt with a square's size as one number, so that the same settings are equal."""
    if isinstance(prompt.size, tuple) and prompt.size[0] == prompt.size[1]:
        return prompt.model_copy(update={"size": prompt.size[0]})
    return prompt


def _split(text: str, origin: str, line: int | None) -> tuple[str, dict[str, str], list[Problem]]:
    """The prompt of a line, the text of each option by its letters, and a problem for each option that cannot be."""
    found = list(_OPTION.finditer(text))
    ends = [match.start() for match in found] + [len(text)]
    options: dict[str, str] = {}
    problems = []
    for match, end in zip(found, ends[1:], strict=True):
        name = match[1].lower()
        if name in options:
            problems.append(Problem(origin, line, f"--{name}", "the option a second time", "each option once"))
        elif name in _OPTIONS:
            options[name] = text[match.end() : end].strip()
        elif name in _FOREIGN:
            allowed = f"{_ALLOWED}; {_FOREIGN[name]}"
            problems.append(Problem(origin, line, f"--{name}", "an option that no prompt has here", allowed))
        else:
            allowed = f"{_ALLOWED}; a dash has a space on both sides"
            problems.append(Problem(origin, line, f"--{match[1]}", "an unknown option", allowed, _meant_option(name)))
    return text[: ends[0]].strip(), options, problems


def _meant_option(name: str) -> str | None:
    """The option, perhaps with its value, that an unknown one was probably meant to be."""
    if (match := _WITHOUT_SPACE.fullmatch(name)) and match[1] in _OPTIONS:
        return f"--{match[1]} {match[2]}"
    return _OPTION_OF.get(_SYNONYMS.get(name, name))


def _settings(options: dict[str, str], origin: str, line: int | None) -> tuple[dict[str, Any], list[Problem]]:
    """What the options set, as data of a PromptConfig, and a problem for each that lacks its value or its other."""
    values: dict[str, Any] = {}
    problems = []
    for letters, text in options.items():
        if letters == "n":
            values["negative"] = text  # "" is no negative prompt, also where the samples have one
        elif text:
            values[_OPTIONS[letters]] = _number(text)
        else:
            problems.append(Problem(origin, line, f"--{letters}", "nothing", "a number after it"))
    if len(options.keys() & {"w", "h"}) == 1:
        one, other = ("w", "h") if "w" in options else ("h", "w")
        problems.append(Problem(origin, line, f"--{one}", f"no --{other}", "both --w and --h, or neither"))
    width, height = values.pop("width", None), values.pop("height", None)
    if width is not None and height is not None:
        values["size"] = [width, height]
    return values, problems


def _number(text: str) -> int | float | str:
    """The number that a text is; the text itself where it is none."""
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text


def _rounded(text: str) -> str | None:
    """The side that sd-scripts would make of one that is no multiple of 8; None for others, and if it is too long."""
    side = int(text) if _WHOLE.fullmatch(text) else 0
    if side <= 0 or side % 8 == 0:
        return None
    try:
        return str(PromptConfig(prompt="", size=max(64, side - side % 8)).size)
    except ValidationError:
        return None
