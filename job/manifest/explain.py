"""Says pydantic's errors in plain words, at the line and under the key that the user wrote."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from job.manifest.foreign import fate_of
from job.manifest.problems import Problem, is_typo, nearest
from job.manifest.yaml_reader import Document, Path, dotted

_UNKNOWN = "an unknown key"  # what is found where one stands

# Sections in which another trainer's name for a setting is understood.
_OF_TRAINING = ("training", "lora", "preprocess", "dataset", "base_model")


def collect_problems(
    error: ValidationError,
    model: type[BaseModel],
    prefix: Path,
    data: Any,
    document: Document,
    options: Mapping[Path, str],
    place: Callable[[Path], tuple[Path, str]] = lambda path: (path, ""),
) -> list[Problem]:
    """One problem for each error of validating `data`, which stands in the document at `prefix`.

    Args:
        model: the model that refused the data.
        options: the `--set` options by the path of the key that each has set; their problems have no line.
        place: gives where the value at a path stands in the document, and what else is to be said of it, or "".
    """
    problems = []
    for written, members in _of_the_meant_members(error.errors(include_url=False), data):
        path, details = written, members[0]
        if details["type"] == "too_short" and details["input"]:
            continue  # pydantic counts valid items only, and the invalid ones already have problems of their own
        found, allowed, suggestion = _explain(details, model, path)
        allowed = " or ".join([allowed, *(_explain(member, model, path)[1] for member in members[1:])])
        if not path and details["type"] == "value_error":
            # The messages of a validator of the whole model begin with the key that they speak of.
            key, _, allowed = allowed.partition(": ")
            path = tuple(key.split("."))
        whole, note = place(prefix + path)
        problem = Problem(*place_of(whole, document, options), found, allowed, suggestion, note)
        problems.append(_as_of_others(problem, whole) if found == _UNKNOWN else problem)
    return list(_naming_keys_once(problems))


def place_of(path: Path, document: Document, options: Mapping[Path, str]) -> tuple[str, int | None, str]:
    """Where a problem with the value at a path is to be looked for: the file or option, the line, and the key."""
    option = next((o for p, o in options.items() if p[: len(path)] == path or path[: len(p)] == p), None)
    return option or document.origin, None if option else document.line(path), dotted(path)


def _naming_keys_once(problems: Sequence[Problem]) -> Iterator[Problem]:
    """The problems, of which those of unknown keys say what a section takes only where they are its first."""
    first: dict[tuple[str, str], str] = {}  # section and its keys to the unknown key that they were told at
    for problem in problems:
        place = problem.path.rpartition(".")[0], problem.allowed
        told_at = first.setdefault(place, problem.path)
        again = problem.found == _UNKNOWN and told_at != problem.path
        yield replace(problem, allowed=f"as for {told_at}") if again else problem


def _as_of_others(problem: Problem, path: Path) -> Problem:
    """The problem of an unknown key; one that other trainers have, with what it is called here, or why it is not.

    Only where settings of training are meant: elsewhere such a name means something else, and a key that is there and
    spelled nearly so is the better guess.
    """
    meant = len(path) == 1 or path[0] in _OF_TRAINING or (path[0] == "variants" and len(path) > 2)
    fate = fate_of(str(path[-1])) if meant else None
    if fate is None or (not fate.key and problem.suggestion is not None and is_typo(str(path[-1]), problem.suggestion)):
        return problem
    if fate.key:
        return replace(problem, suggestion=fate.key, note=f"{fate.why[:1].upper()}{fate.why[1:]}." if fate.why else "")
    opening = "There is no such setting" if fate.becomes == "nothing" else "No such setting is needed"
    return replace(problem, suggestion=None, note=f"{opening}: {fate.why}.")


def _of_the_meant_members(errors: Sequence[ErrorDetails], data: Any) -> Iterator[tuple[Path, list[ErrorDetails]]]:
    """The errors to show, with their paths; those of one value for which several types are allowed are together.

    Pydantic complains for every member of a union. Where the value has the type of one, the others were not meant.
    """
    mismatches: dict[Path, list[ErrorDetails]] = {}  # by the union's location
    shown: list[tuple[Path, list[ErrorDetails]]] = []
    met: set[Path] = set()  # locations of unions, and of all else, whose value has a type that is allowed there
    for details in errors:
        location = details["loc"]
        path, ends_in_member = _written_path(details, data)
        if ends_in_member and _is_of_another_type(details):
            location = location[:-1]
            if location not in mismatches:
                shown.append((path, mismatches.setdefault(location, [])))
            mismatches[location].append(details)
        else:
            shown.append((path, [details]))
        met.update(location[:length] for length in range(len(location)))
    for location in met & mismatches.keys():
        mismatches[location].clear()
    return ((path, members) for path, members in shown if members)


def _is_of_another_type(details: ErrorDetails) -> bool:
    """Whether the value has not even the type that was asked for."""
    kind, value = details["type"], details["input"]
    return kind in _TYPES or (kind == "literal_error" and not isinstance(value, str))


def _written_path(details: ErrorDetails, data: Any) -> tuple[Path, bool]:
    """The path of an error as the user wrote it, and whether pydantic's location ends in the name of a union's member.

    Such names are no part of the path.
    """
    path: list[int | str] = []
    ends_in_member = False
    loc = details["loc"]
    for at, part in enumerate(loc):
        is_missing = details["type"] == "missing" and at == len(loc) - 1
        if isinstance(data, dict):
            is_key = part in data or is_missing
            data = data.get(part) if is_key else data
        else:
            is_key = isinstance(data, list) and isinstance(part, int)
            data = data[part] if is_key and not is_missing else data
        if is_key:
            path.append(part)
        ends_in_member = not is_key
    return tuple(path), ends_in_member


def value_text(value: Any) -> str:
    """The value as JSON, cut to a length that suits a message."""
    text = "nothing (null)" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _explain(details: ErrorDetails, model: type[BaseModel], path: Path) -> tuple[str, str, str | None]:
    """Texts that say what was found, what is allowed, and what was probably meant."""
    kind, context, value = details["type"], details.get("ctx", {}), details["input"]
    match kind:
        case "missing":
            return "nothing", f"this {'item' if path and isinstance(path[-1], int) else 'key'} is required", None
        case "extra_forbidden":
            return _explain_key(details, model, path)
        case "literal_error":
            choices = [c.strip("'") for c in str(context["expected"]).replace(" or ", ", ").split(", ")]
            return value_text(value), ", ".join(choices), nearest(str(value), choices)
        case "union_tag_invalid":
            tags = [t.strip("' ") for t in str(context["expected_tags"]).split(",")]
            return f'"{context["tag"]}"', ", ".join(tags), nearest(str(context["tag"]), tags)
        case "union_tag_not_found":
            return "no " + str(context["discriminator"]).strip("'"), f"a mapping with {context['discriminator']}", None
        case "value_error":
            return (
                value_text(value) if not isinstance(value, dict | list) else "values that do not fit",
                str(context["error"]),
                getattr(context["error"], "suggestion", None),
            )
        case "too_long":
            return f"{len(value)} items", f"at most {context['max_length']}", None
        case "too_short":
            return f"{len(value)} items", f"at least {context['min_length']}", None
        case "string_pattern_mismatch":
            return value_text(value), f"text like {context['pattern']}", None
    if kind in _TYPES:
        return value_text(value), _TYPES[kind], None
    message = details["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return value_text(value), message[:1].lower() + message[1:], None


def _explain_key(details: ErrorDetails, model: type[BaseModel], path: Path) -> tuple[str, str, str | None]:
    """As `_explain`, of a key that does not belong where it stands: it may be that of another member of a union."""
    models, key, location = _models_at(model, path[:-1]), str(path[-1]), details["loc"]
    tag = location[-2] if len(location) > 1 and location[-2:-1] != path[-2:-1] else None
    chosen = [each for each in models if tag in _tags(each)] or models
    owners = [str(name) for each in models if key in _keys([each]) for name in _tags(each)]
    known = _keys(chosen)
    allowed = ", ".join(known) or "keys of the reference"
    if owners:
        return f"a key of {', '.join(owners)}", allowed, None
    return _UNKNOWN, allowed, nearest(key, known)


def _tags(model: type[BaseModel]) -> list[Any]:
    """The values by which a model is chosen among those of a union, such as an optimizer's name."""
    literals = [field.annotation for field in model.model_fields.values() if get_origin(field.annotation) is Literal]
    return [value for literal in literals for value in get_args(literal) if len(get_args(literal)) == 1]


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
    return _keys(_models_at(model, path))


def _keys(models: Sequence[type[BaseModel]]) -> list[str]:
    return sorted({field.alias or key for model in models for key, field in model.model_fields.items()})


def _models_at(model: Any, path: Path) -> list[type[BaseModel]]:
    """The models that may stand at `path` below `model`: several for a union."""
    models = [model]
    for at, part in enumerate(path):
        if isinstance(part, int) or path[:at] == ("captioners",):  # There, keys are the names that users give.
            continue
        annotations = [m.model_fields[part].annotation for m in models if part in m.model_fields]
        models = [found for annotation in annotations for found in _models_in(annotation)]
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field's annotation holds, directly or in a union or list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
