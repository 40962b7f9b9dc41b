"""Says pydantic's errors in plain words, at the line and under the key that the user wrote."""

import json
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from job.manifest.problems import Problem, nearest
from job.manifest.yaml_reader import Document, Path, dotted

_MISSING = object()


def collect_problems(
    error: ValidationError,
    model: type[BaseModel],
    prefix: Path,
    data: Any,
    document: Document,
    options: dict[Path, str],
) -> list[Problem]:
    """One problem for each error of validating `data`, which stands in the document at `prefix`.

    Args:
        model: the model that refused the data.
        options: the `--set` options by the path of the key that each has set; their problems have no line.
    """
    problems = []
    for details in error.errors(include_url=False):
        if details["type"] == "too_short" and details["input"]:
            continue  # pydantic counts valid items only, and the invalid ones already have problems of their own
        path = _written_path(details["loc"], data)
        found, allowed, suggestion = _explain(details, model, path)
        if not path and details["type"] == "value_error":
            # The messages of a validator of the whole model begin with the key that they speak of.
            key, _, allowed = allowed.partition(": ")
            path = tuple(key.split("."))
        whole = prefix + path
        option = next((o for p, o in options.items() if p[: len(whole)] == whole or whole[: len(p)] == p), None)
        line = None if option else document.line(whole)
        problems.append(Problem(option or document.origin, line, dotted(whole), found, allowed, suggestion))
    return problems


def _written_path(loc: tuple[int | str, ...], data: Any) -> Path:
    """The path of an error as the user wrote it: pydantic's location also names members of unions."""
    path: list[int | str] = []
    for at, part in enumerate(loc):
        if isinstance(data, dict):
            last = at == len(loc) - 1
            tag = part in (data.get("strategy"), data.get("name")) and part not in data
            if tag and not last:
                continue
            if tag and last:
                break
            data = data.get(part, _MISSING) if isinstance(part, str) else _MISSING
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            data = _MISSING
        path.append(part)
    return tuple(path)


def _show(value: Any) -> str:
    """The value as JSON, cut to a length that suits a message."""
    text = "nothing (null)" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _explain(details: ErrorDetails, model: type[BaseModel], path: Path) -> tuple[str, str, str | None]:
    """Texts that say what was found, what is allowed, and what was probably meant."""
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    match kind:
        case "missing":
            return "nothing", "this key is required", None
        case "extra_forbidden":
            known = _known_keys(model, path[:-1])
            return "an unknown key", ", ".join(known) or "keys of the reference", nearest(str(path[-1]), known)
        case "literal_error":
            choices = [c.strip("'") for c in str(context["expected"]).replace(" or ", ", ").split(", ")]
            return _show(value), ", ".join(choices), nearest(str(value), choices)
        case "union_tag_invalid":
            tags = [t.strip("' ") for t in str(context["expected_tags"]).split(",")]
            return f'"{context["tag"]}"', ", ".join(tags), nearest(str(context["tag"]), tags)
        case "union_tag_not_found":
            return "no " + str(context["discriminator"]).strip("'"), f"a mapping with {context['discriminator']}", None
        case "value_error":
            return (
                _show(value) if not isinstance(value, dict | list) else "values that do not fit",
                str(context["error"]),
                getattr(context["error"], "suggestion", None),
            )
        case "string_pattern_mismatch":
            return _show(value), f"text like {context['pattern']}", None
    if kind in _TYPES:
        return _show(value), _TYPES[kind], None
    message = details["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return _show(value), message[:1].lower() + message[1:], None


# What pydantic's kinds of errors allow.
_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
    "finite_number": "a finite number",
}


def _known_keys(model: Any, path: Path) -> list[str]:
    """The keys of the model that stands at `path` below `model`; for a union, those of all its members."""
    models = [model]
    for part in path:
        if isinstance(part, int):
            continue
        annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = [found for annotation in annotations for found in _models_in(annotation)]
    return sorted({key for m in models for key in m.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field's annotation holds, directly or in a union or list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
