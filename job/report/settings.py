"""The settings of a run in words. Pure."""

import json


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
