"""Which names runs, variants and captioners may have, and which one a variant gets that a sweep makes."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from lora_engine.adapters.names import is_taken

LONGEST_NAME = 63  # characters of the name of a run, a variant or a captioner
_SHORT = {"learning_rate": "lr", "rank": "r", "alpha": "a", "weight_decay": "wd", "text_encoder": "te"}
_PLAIN = (0.01, 1e6)  # sizes between which a number stands in a name without an exponent


def run_name(value: str) -> str:
    """The name of a run, which is part of keys in a store and of names of Kubernetes. Raises ValueError."""
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", value):
        raise ValueError("1 to 63 lower-case letters, digits and hyphens, a letter or digit at both ends")
    return value


def part_name(value: str) -> str:
    """The name of something in a run. Raises ValueError."""
    if not re.fullmatch(r"[a-z0-9][-_a-z0-9]{0,62}", value):
        raise ValueError("1 to 63 lower-case letters, digits, hyphens and underscores, a letter or digit first")
    return value


def variant_name(value: str) -> str:
    """The name of a variant, after which its adapters' files are called. Raises ValueError."""
    part_name(value)
    if is_taken(value):
        raise ValueError("a name that another file of every checkpoint has")
    return value


def swept_name(name: str, chosen: Mapping[str, Any]) -> str:
    """The name of the variant that a sweep makes of the one of that name, as `blip-lr1e-4-r8`; it may be too long.

    Args:
        chosen: dotted key to its value, in the order of the sweep.
    """
    return "-".join([name, *(_labelled(key.split("."), value) for key, value in chosen.items())])


def _labelled(key: list[str], value: Any) -> str:
    """A key and its value as a part of a name. What has only a `name` to tell it apart is called after what it is."""
    last = key[-2] if key[-1] == "name" and len(key) > 1 else key[-1]
    between = "" if isinstance(value, int | float) and not isinstance(value, bool) else "-"
    return f"{_SHORT.get(last, _plain(last))}{between}{in_a_name(value)}"


def in_a_name(value: Any) -> str:
    """A value in the characters that a name may have; not every two values differ in that."""
    match value:
        case None:
            return "none"
        case bool():
            return "on" if value else "off"
        case int():
            return str(value)
        case float():
            text = Decimal(repr(value)).normalize()
            low, high = _PLAIN
            return _plain(f"{text:f}" if not value or low <= abs(value) < high else f"{text:e}".replace("+", ""))
        case {} if not value:
            return "on"  # a section, all at its defaults
        case list():
            return "_".join(map(in_a_name, value))
        case dict():
            return "-".join(
                in_a_name(below) if key == "name" else _labelled([key], below) for key, below in value.items()
            )
    return _plain(str(value))


def _plain(text: str) -> str:
    return re.sub(r"[^-_a-z0-9]+", "_", text.lower())
