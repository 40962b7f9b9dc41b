"""The settings of a run as dotted keys with values, to be shown and compared. Pure."""

import json
from collections.abc import Mapping
from typing import Any


def flat(value: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Dotted key to value, of all values that are no mappings, or empty ones."""
    result: dict[str, Any] = {}
    for key, below in value.items():
        name = f"{path}.{key}" if path else key
        if isinstance(below, Mapping) and below:
            result |= flat(below, name)
        else:
            result[name] = below
    return result


def shown(value: object) -> str:
    """A setting's value in words: texts as they are, what is switched off or not given as such, else JSON."""
    match value:
        case None:
            return "none"
        case bool():
            return "on" if value else "off"
        case str():
            return value or '""'
        case float():
            return f"{value:g}"
        case list() if all(isinstance(each, str | int) for each in value):
            return ", ".join(str(each) for each in value)
    return json.dumps(value, ensure_ascii=False)
