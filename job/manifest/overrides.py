"""Lays settings over settings, finds the fields in which two differ, and knows every key that there is. Pure."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel

from lora_engine.config.adapter import LoraConfig
from lora_engine.config.training import TrainingConfig

# The keys that a variant may override, and the models of what stands there.
OVERRIDABLE: tuple[tuple[str, type[BaseModel]], ...] = (("lora", LoraConfig), ("training", TrainingConfig))

_ONE_OF = (("steps", "epochs"), ("warmup_steps", "warmup_share"), ("offset", "multires"))  # of which a section has one
_IN_PLACE_OF = {key: other for a, b in _ONE_OF for key, other in ((a, b), (b, a))}


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `over` over `base`, key by key; a union whose `name` changes is replaced whole, and epochs by steps.

    So are other keys of which a section has one, unless what stands over them is off.
    """
    result = {key: value for key, value in base.items() if not over.get(_IN_PLACE_OF.get(key, ""))}
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


@cache
def schemas_of_keys() -> dict[str, dict[str, Any]]:
    """The JSON Schema of what may stand under each dotted key that a variant may override, whatever union it is in."""
    found: dict[str, list[dict[str, Any]]] = {}
    for key, model in OVERRIDABLE:
        schema = model.model_json_schema()
        for name, below in _schemas_below(schema, schema.get("$defs", {}), key):
            known = found.setdefault(name, [])
            known += [] if below in known else [below]
    return {name: each[0] if len(each) == 1 else {"anyOf": each} for name, each in found.items()}


def _schemas_below(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], path: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those of the keys of a mapping, or of each mapping that a union allows, and of all keys in them."""
    if "$ref" in schema:
        yield from _schemas_below(definitions[schema["$ref"].rpartition("/")[2]], definitions, path)
    for member in (*schema.get("oneOf", ()), *schema.get("anyOf", ())):
        yield from _schemas_below(member, definitions, path)
    for name, below in schema.get("properties", {}).items():
        yield f"{path}.{name}", below
        yield from _schemas_below(below, definitions, f"{path}.{name}")
