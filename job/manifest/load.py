"""Reads a manifest: its text, the options that override it, and every problem of both at once."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from job.manifest.explain import collect_problems, place_of
from job.manifest.overrides import merged_overrides
from job.manifest.packs import resolve_variants
from job.manifest.places import ModelSource
from job.manifest.problems import ManifestError, Problem, first_of_each_key, nearest
from job.manifest.schema import START, Manifest
from job.manifest.sweep import KEY, expand_sweeps
from job.manifest.yaml_reader import Document, Path, read_scalar, read_yaml
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.together import exclusions

_MOST_DOTS = 16  # in a key that --set names
_PLACE: TypeAdapter[str | None] = TypeAdapter(ModelSource | None)
_MOST_DIGITS = 9  # in the number of a list's item; Python refuses to read numbers of thousands of digits


def load_manifest(text: bytes | str, origin: str, sets: Sequence[str] = ()) -> Manifest:
    """Read a manifest, apply each `key=value` of `sets`, and check all of it, overrides included.

    Raises:
        ManifestError: it has problems; the error holds every one.
    """
    document = read_yaml(text.encode() if isinstance(text, str) else text, origin)
    option_of: dict[Path, str] = {}
    for option in sets:
        option_of[_apply(document, option)] = f"--set {option}"
    expansion = expand_sweeps(document, option_of)
    problems = [*document.problems, *expansion.problems]

    def validated(model: type[Any], data: Any, path: Path) -> Any:
        """The model of the data that stands at `path`; None after adding to `problems` why there is none."""
        try:
            return model.model_validate_json(json.dumps(data))
        except ValidationError as error:
            problems.extend(collect_problems(error, model, path, data, document, option_of, expansion.written))
            return None

    manifest: Manifest | None = validated(Manifest, expansion.data, ())
    for path, model, data in merged_overrides(expansion.data):
        validated(model, data, path)
    if manifest is not None and not problems:
        for at, variant in enumerate(resolve_variants(manifest)):
            for key, found, allowed in (*exclusions(variant.lora, variant.training), *_misplaced(variant.lora)):
                place, note = expansion.written(("variants", at, *key.split(".")))
                problems.append(Problem(*place_of(place, document, option_of), found, allowed, note=note))
    if manifest is None or problems:
        raise ManifestError(first_of_each_key(problems))
    return manifest


def _misplaced(lora: LoraConfig) -> Iterator[tuple[str, str, str]]:
    """That an adapter is to start from what names no place of a model, if it is. As `exclusions` says it."""
    try:
        _PLACE.validate_python(lora.init_from)
    except ValidationError as error:
        yield START, repr(lora.init_from), error.errors()[0]["msg"].removeprefix("Value error, ")


def _apply(document: Document, option: str) -> Path:
    """Put the value of one `--set` into the document's data; the path of its key."""
    key, equals, value = option.partition("=")
    origin = f"--set {option}"
    if not equals or not all(key.split(".")) or key.count(".") > _MOST_DOTS:
        raise ManifestError([Problem(origin, None, "", repr(option), "key=value, such as lora.rank=16")])
    parsed = read_scalar(value, origin)
    node: Any = document.data
    path: Path = ()
    parts = key.split(".")
    if parts[0] == "variants" and parts[2:3] == [KEY]:
        parts[3:] = [".".join(parts[3:])] if parts[3:] else []  # The keys of a sweep have dots in them.
    for at, part in enumerate(parts):
        step: str | int = part
        if isinstance(node, list):
            step = _index(node, part, origin, key)
        path = (*path, step)
        if at == len(parts) - 1:
            node[step] = parsed
        else:
            if isinstance(node, dict) and not isinstance(node.get(part), dict | list):
                node[part] = {}
            node = node[step]
            if not isinstance(node, dict | list):
                raise ManifestError([Problem(origin, None, key, f"a value at {part}", "a key with keys below it")])
    return path


def _index(items: list[Any], part: str, origin: str, key: str) -> int:
    """The place of the list's item that a part of a key means: by its `name`, or by the number of its place."""
    names = [str(item.get("name")) if isinstance(item, dict) else "" for item in items]
    if part in names:
        return names.index(part)
    if part.isascii() and part.isdecimal() and len(part) <= _MOST_DIGITS and int(part) < len(items):
        return int(part)
    allowed = f"a place from 0 to {len(items) - 1} or a name of {', '.join(filter(None, names))}"
    swept = next((name for name in names if name and part.startswith(f"{name}-")), None)
    raise ManifestError([Problem(origin, None, key, repr(part), allowed, nearest(part, names) or swept)])
