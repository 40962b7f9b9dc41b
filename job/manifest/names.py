"""Which names runs, variants and captioners may have."""

import re

from lora_engine.adapters.names import is_taken


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
