"""Reads TOML: a configuration of sd-scripts, with sections or without, or a configuration of a dataset."""

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from job.convert.settings import Setting
from job.convert.texts import refuse

_MOST_SUBSETS = 200
_MOST_DOTS = 200  # on a line; the parser's time grows with the square of the number of them in a name
# What a configuration of a dataset calls settings that the command line calls otherwise.
_CALLED = {"batch_size": "train_batch_size", "num_repeats": "dataset_repeats"}
_NAME = re.compile(r"""^[ \t]*["']?([A-Za-z0-9_-]+)["']?[ \t]*=""", re.M)

Settings = dict[str, Setting]


def parse_toml(text: str, origin: str) -> dict[str, Any]:
    """The data of a TOML file.

    Raises:
        ConversionError: it is none, has a key twice, or nests too deep.
    """
    for at, written in enumerate(text.split("\n"), 1):
        if written.count(".") > _MOST_DOTS:
            refuse(origin, at, f"a line with more than {_MOST_DOTS} dots", "names of few parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        refuse(origin, None, "nesting without end", "settings, and sections of them")
    except ValueError as error:  # also of a number with thousands of digits
        match = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", str(error), re.DOTALL)
        line = int(match[2]) if match and match[2] else None
        refuse(origin, line, match[1] if match else str(error), "TOML, as sd-scripts read it")


def is_of_dataset(data: Mapping[str, Any]) -> bool:
    """Whether the data is a configuration of a dataset."""
    return isinstance(data.get("datasets"), list)


def flat_settings(data: Mapping[str, Any], text: str, origin: str) -> Settings:
    """The settings of a configuration, without its sections: sd-scripts do not look at their names, either."""
    line = _lines(text)
    flat: Settings = {}
    for name, value in data.items():
        items = value.items() if isinstance(value, dict) else [(name, value)]
        flat |= {key: Setting(key, item, origin, line(key)) for key, item in items}
    return flat


def subsets(data: Mapping[str, Any], text: str, origin: str) -> list[Settings]:
    """The settings of every folder of images, those included that it inherits from its dataset and from `general`.

    Raises:
        ConversionError: the data is not of that form.
    """
    line = _lines(text)

    def read(table: Any) -> Settings:
        if not isinstance(table, dict):
            refuse(origin, None, "a dataset that is no table", "[[datasets]] with [[datasets.subsets]] below them")
        plain = {key: value for key, value in table.items() if key != "subsets"}
        return {_CALLED.get(key, key): Setting(key, value, origin, line(key)) for key, value in plain.items()}

    general = read(data.get("general", {}))
    found: list[Settings] = []
    for dataset in data["datasets"]:
        inherited = general | read(dataset)
        below = dataset.get("subsets", [])
        if not isinstance(below, list) or not below or len(found) + len(below) > _MOST_SUBSETS:
            allowed = f"1 to {_MOST_SUBSETS} [[datasets.subsets]] below each of [[datasets]]"
            refuse(origin, None, f"{len(below) if isinstance(below, list) else 'no'} subsets of a dataset", allowed)
        found += [inherited | read(subset) for subset in below]
    if not found:
        refuse(origin, None, "no dataset", "[[datasets]] with [[datasets.subsets]] below them")
    return found


def _lines(text: str) -> Any:
    """A function that gives the line of a name: of its first occurrence at the first call, of its second at the next.

    None where there are fewer than it is asked for; a name in a text of several lines would be counted, too.
    """
    places: dict[str, Iterator[int]] = {}
    found: dict[str, list[int]] = defaultdict(list)
    at, passed = 1, 0
    for match in _NAME.finditer(text):
        at += text.count("\n", passed, match.start(1))
        passed = match.start(1)
        found[match[1]].append(at)
    return lambda name: next(places.setdefault(name, iter(found.get(name, ()))), None)
