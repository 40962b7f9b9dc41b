"""Lays settings over settings, and finds the fields in which two differ. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from lora_engine.config.adapter import LoraConfig
from lora_engine.config.training import TrainingConfig

# The keys that a variant may override, and the models of what stands there.
OVERRIDABLE: tuple[tuple[str, type[BaseModel]], ...] = (("lora", LoraConfig), ("training", TrainingConfig))


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `over` over `base`, key by key; a union whose `name` changes is replaced whole."""
    result = dict(base)
    for key, value in over.items():
        mine = result.get(key)
        if (
            isinstance(mine, Mapping)
            and isinstance(value, Mapping)
            and value.get("name", mine.get("name")) == mine.get("name")
        ):
            result[key] = merge(mine, value)
        else:
            result[key] = value
    return result


def merged_overrides(data: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], type[BaseModel], Any]]:
    """For each override in a manifest's data that is not yet validated: its path, its model, and the merged mapping."""
    variants = data.get("variants")
    for at, variant in enumerate(variants if isinstance(variants, list) else []):
        for key, model in OVERRIDABLE:
            over = variant.get(key) if isinstance(variant, Mapping) else None
            base: Any = data.get(key, {})
            if isinstance(over, Mapping) and over and isinstance(base, Mapping):
                yield ("variants", at, key), model, merge(base, over)


def different_fields(a: Any, b: Any, path: str) -> list[str]:
    """Dotted names of the fields in which two JSON values differ; `path` is the name of the values themselves."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        keys = sorted(a.keys() | b.keys())
        return [f for key in keys for f in different_fields(a.get(key), b.get(key), f"{path}.{key}" if path else key)]
    return [] if a == b else [path]
