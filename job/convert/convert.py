"""Converts a configuration: reads it, fills a manifest, and says what of it the manifest does not hold."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from job.convert import adapter, data, rest, training
from job.convert.folders import folders_of
from job.convert.read import read_configuration
from job.convert.settings import ConversionError, Reading, Setting, as_number, show
from job.manifest.foreign import Fate, fate_of
from job.manifest.load import load_manifest
from job.manifest.problems import ManifestError, Problem
from job.manifest.yaml_reader import write_yaml
from lora_engine.text import printable, shortened

_LONGEST_REMARK = 3000
_MOST_REMARKS = 200
_MOST_NAMES = 100
_WIDTH = 118
_SECRET = ("_token", "_key", "password", "secret")  # how names end


@dataclass(frozen=True)
class Conversion:
    """A manifest, and what a person has to know of it."""

    manifest: str  # YAML, with the remarks as comments
    remarks: Sequence[str]  # a line each


def convert(content: bytes, origin: str) -> Conversion:
    """Make a manifest of a configuration.

    Args:
        origin: the name of the configuration's file, which says what it is, and what names in it are relative to.

    Raises:
        ConversionError: it is none that is known, or holds values that cannot be meant.
    """
    reading = Reading(read_configuration(content, origin))
    manifest = _manifest(reading, PurePath(origin).stem)
    if reading.problems:
        raise ConversionError(list(dict.fromkeys(reading.problems)))
    _check(manifest, reading)
    remarks = [_fit(remark) for remark in _remarks(reading)]
    return Conversion(_written(manifest, remarks, reading, origin), remarks)


def _manifest(reading: Reading, stem: str) -> dict[str, Any]:
    folders = folders_of(reading)
    seeds = rest.seeds(reading)
    captions = data.captions(reading, folders)
    base_model = rest.base_model(reading)
    made_training = training.training(reading, folders, zero_terminal_snr="zero_terminal_snr" in base_model)
    evaluation = rest.evaluation(reading, folders, made_training)
    manifest = {
        "apiVersion": "lora-job/v1",
        "name": rest.name(reading, stem),
        "seeds": seeds,
        "base_model": base_model,
        "dataset": data.dataset(reading, folders),
        "preprocess": data.preprocess(reading),
        "variants": [{"name": captions["strategy"], "captions": captions}],
        "lora": adapter.lora(reading, made_training),
        "training": made_training,
        "evaluation": evaluation or None,
        "output": rest.output(reading),
    }
    rest.say_what_is_lost_silently(reading)
    return {key: value for key, value in manifest.items() if value is not None}


def _check(manifest: dict[str, Any], reading: Reading) -> None:
    """Refuse values that no manifest may have, by the names of the settings that they come from."""
    try:
        load_manifest(write_yaml(manifest), "the manifest")
    except ManifestError as error:
        raise ConversionError([_as_of_setting(problem, reading) for problem in error.problems]) from error


def _as_of_setting(problem: Problem, reading: Reading) -> Problem:
    setting = reading.places.get(problem.path)
    if setting is None:
        return problem
    return replace(problem, origin=setting.origin, line=setting.line, path=setting.name, found=show(setting.value))


def _remarks(reading: Reading) -> Iterator[str]:
    """What is to be filled in, what was not taken and why, and what is not needed."""
    yield from (f"Fill in {key}: {what}." for key, what in reading.missing.items())
    yield from reading.configuration.remarks
    yield from reading.remarks
    lost: dict[str, list[str]] = {}
    needless: dict[str, list[str]] = {}
    unknown, off = [], []
    for name, setting in reading.configuration.settings.items():
        fate = fate_of(name)
        if name in reading.lost:
            lost.setdefault(reading.lost[name], []).append(_said(setting))
        elif name in reading.taken:
            continue
        elif fate is None:
            unknown.append(setting.name)
        elif _is_off(setting, fate):
            off.append(setting.name)
        elif fate.becomes == "needless":
            needless.setdefault(fate.why, []).append(setting.name)
        else:
            why = fate.why if fate.becomes == "nothing" else f"{reading.program.title} would not read it here"
            lost.setdefault(why, []).append(_said(setting))
    yield from (f"Not taken: {_listed(names)}: {why}." for why, names in lost.items())
    if unknown:
        yield f"Not taken: {_listed(unknown)}: not known."
    yield from (f"Not needed: {_listed(names)}: {why}." for why, names in needless.items())
    if off:
        yield f"Off, as here: {_listed(off)}."


def _said(setting: Setting) -> str:
    """The setting with its value, if that is no secret."""
    if setting.name.lower().endswith(_SECRET):
        return setting.name
    return f"{setting.name} = {show(setting.value)}"


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(shortened(name, 120) for name in names[:_MOST_NAMES])
    return f"{listed} and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else listed


def _is_off(setting: Setting, fate: Fate) -> bool:
    value = setting.value
    return (
        setting.is_empty
        or value in (False, 0, "0", "0.0", "None", "none", "no", "false")
        or value in fate.off
        or as_number(value) in fate.off
    )


def _fit(remark: str) -> str:
    return shortened(printable(remark), _LONGEST_REMARK)


def _comment(text: str) -> str:
    """A line of text that prints, as lines of a comment."""
    lines = textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False)
    return "".join(f"{line}\n" for line in lines)


def _written(manifest: dict[str, Any], remarks: Sequence[str], reading: Reading, origin: str) -> str:
    """The manifest with comments: all remarks at its top, and at a key that is to be filled in, that it is."""
    title = _fit(f"Made by lora-job convert of {origin}, a configuration of {reading.program.title}.")
    shown = remarks[:_MOST_REMARKS]
    more = [f"and {len(remarks) - len(shown)} more"] if len(remarks) > len(shown) else []
    parts = [_comment(title), "#\n", *(_comment(f"- {remark}") for remark in [*shown, *more]), "\n"]
    for key, value in manifest.items():
        parts += [
            _comment(f"FILL IN {place}: {_fit(what)}")
            for place, what in reading.missing.items()
            if place.partition(".")[0] == key
        ]
        parts.append(write_yaml({key: value}))
    return "".join(parts)
