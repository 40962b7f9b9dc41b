"""Says pydantic's errors in plain words, at the line and under the key that the user wrote."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
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
        for member in members[1:]:
            also_allowed, also_meant = _explain(member, model, path)[1:]
            allowed, suggestion = f"{allowed} or {also_allowed}", suggestion or also_meant
        if details["type"] == "value_error":
            # The messages of a validator of a whole section may begin with the key that they speak of.
            key, _, rest = allowed.partition(": ")
            if not path:
                path, allowed = tuple(key.split(".")), rest
            elif rest and _section_at(model, details["loc"]).takes(key):
                found = value_text(details["input"][key]) if key in details["input"] else "nothing"
                path, allowed = (*path, key), rest
        whole, note = place(prefix + path)
        problem = Problem(*place_of(whole, document, options), found, allowed, suggestion, note)
        if details["type"] == "extra_forbidden":
            whose = _section_at(model, details["loc"][:-1]).note_on(str(path[-1]))
            told = f"{note} {whose}".strip()
            problem = replace(problem, suggestion=None, note=told) if whose else _as_of_others(problem, whole)
        problems.append(problem)
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
    """Whether the value has not even the type that was asked for, or is none of the words: then another was meant."""
    return details["type"] in _TYPES or details["type"] == "literal_error"


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
            meant = _section_at(model, details["loc"][:-1]).meant
            known = sorted({field.alias or key for m in meant for key, field in m.model_fields.items()})
            return _UNKNOWN, ", ".join(known) or "keys of the reference", nearest(str(path[-1]), known)
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
        return value_text(value), _TYPES[kind], _section_at(model, details["loc"]).mapping_of(value)
    message = details["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return value_text(value), message[:1].lower() + message[1:], None


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


class _Section(NamedTuple):
    """What may stand at a place of a manifest."""

    meant: list[type[BaseModel]]  # the models whose keys may; of a union the member that the manifest names, or all
    members: list[type[BaseModel]]  # all of the union; otherwise the same
    tag: str | None = None  # the key that names a union's member

    def tags(self, model: type[BaseModel]) -> tuple[str, ...]:
        """The words that name this member of the union."""
        return get_args(model.model_fields[self.tag].annotation) if self.tag else ()

    def takes(self, key: str) -> bool:
        """Whether it is a key of the section."""
        return any(key in model.model_fields for model in self.members)

    def mapping_of(self, value: Any) -> str | None:
        """The mapping that was probably meant by a value that stands in its place; None where that cannot be told."""
        if self.tag:
            word = nearest(str(value).lower(), [tag for model in self.members for tag in self.tags(model)])
            return f"{{{self.tag}: {word}}}" if word else None
        (fields,) = [model.model_fields for model in self.members] if len(self.members) == 1 else [{}]
        if len(fields) != 1 or isinstance(value, str | list) or not value:
            return None
        ((key, field),) = fields.items()
        return f"{{{key}: {value_text(field.default if value is True else value)}}}"

    def note_on(self, key: str) -> str:
        """A sentence on the members that were not meant and take the key; empty where none does."""
        takers = [m for m in self.members if m not in self.meant and key in m.model_fields]
        words = [word for taker in takers for word in self.tags(taker)]
        return f"It is a key of {self.tag}: {' or '.join(words)}." if words else ""


def _section_at(model: type[BaseModel], location: Path) -> _Section:
    """The section at a location of pydantic's, which holds the words that name members of unions, too."""
    section = _Section([model], [model])
    for at, part in enumerate(location):
        if isinstance(part, int) or location[:at] == ("captioners",):  # There, keys are the names that users give.
            continue
        if len(section.meant) > 1 and (named := [m for m in section.members if part in section.tags(m)]):
            section = section._replace(meant=named)
        elif fields := [m.model_fields[part] for m in section.meant if part in m.model_fields]:
            models = [found for field in fields for found in _models_in(field.annotation)]
            section = _Section(models, models, next(filter(None, map(_tag_of, fields)), None))
    return section


def _tag_of(field: FieldInfo) -> str | None:
    """The key by which members of the field's union are told apart, or of that of its items; None without one."""
    if field.discriminator:
        return str(field.discriminator)
    return _tag_in(field.annotation)


def _tag_in(annotation: Any) -> str | None:
    inner = [str(f.discriminator) for f in get_args(annotation) if isinstance(f, FieldInfo) and f.discriminator]
    return next(iter(inner), None) or next(filter(None, map(_tag_in, get_args(annotation))), None)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field's annotation holds, directly or in a union or list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in get_args(annotation) for found in _models_in(argument)]
