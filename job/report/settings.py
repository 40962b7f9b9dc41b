"""The settings of a run in words. Pure."""

import json
from collections.abc import Mapping, Sequence


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


def setting_words(key: str, value: object) -> str:
    """A setting with its value as a sentence names it, `rank 16`; what has but a name is called after what it is."""
    parts = key.split(".")
    named = value["name"] if isinstance(value, Mapping) and "name" in value else value
    return f"{(parts[-2] if parts[-1] == 'name' else parts[-1]).replace('_', ' ')} {shown(named)}"


def listed(phrases: Sequence[str]) -> str:
    """Phrases as a sentence lists them."""
    return " and ".join([", ".join(phrases[:-1]), phrases[-1]] if len(phrases) > 1 else phrases)
