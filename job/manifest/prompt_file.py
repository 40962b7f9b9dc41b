"""Reads a file of prompts: a list in YAML, or a prompt a line as kohya's sd-scripts take them."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from pydantic import Field, ValidationError

from job.manifest.explain import collect_problems
from job.manifest.problems import ManifestError, Problem, PromptsError, first_of_each_key
from job.manifest.prompt_line import meant_key, options_in, parse_line, with_side_of_square
from job.manifest.text_file import decoded, refuse
from job.manifest.yaml_reader import Document, read_yaml
from lora_engine.config.base import Config
from lora_engine.config.evaluation import MOST_PROMPTS, PromptConfig, Text

# How YAML or JSON begins, for texts whose name does not say what they are.
_LIKE_YAML = re.compile(r"""---|%YAML|-(\s|$)|prompts:\s*($|\[|#)|\[\s*($|["'{\]])|\{\s*($|["'])""")
_YAML_SUFFIXES = (".yaml", ".yml", ".json")
_KEY = "prompts"


class _PromptFile(Config):
    """What a file of prompts in YAML holds."""

    prompts: tuple[Text | PromptConfig, ...] = Field(min_length=1, max_length=MOST_PROMPTS)


@dataclass(frozen=True)
class _Placed:
    """A prompt, and where it stands in the file."""

    line: int | None
    path: str  # in YAML
    prompt: PromptConfig


def read_prompts(content: bytes, origin: str) -> tuple[PromptConfig, ...]:
    """The prompts of a file, in their order.

    A name in .yaml, .yml or .json says YAML, and one in .txt a prompt a line. With any other name, and on standard
    input, it is YAML if the first line that is neither empty nor a comment begins as a list in YAML or JSON.

    Args:
        origin: the file's name, which messages repeat.

    Raises:
        PromptsError: it has problems; the error holds every one.
    """
    suffix = PurePosixPath(origin).suffix.lower()
    if suffix == ".toml":
        refuse(PromptsError, origin, None, "a TOML file", "a prompt a line in .txt, or a list in .yaml or .json")
    text = decoded(content, origin, PromptsError)
    lines = re.split("\r\n|\r|\n", text)
    first = next(_contents(lines), (0, ""))[1]
    if suffix in _YAML_SUFFIXES or (suffix != ".txt" and _LIKE_YAML.match(first)):
        if suffix == ".json":
            text = text.replace("\t", " ")  # JSON may be indented with tabs, YAML may not; its strings hold none
        return _from_yaml(text, origin)
    return _from_lines(lines, origin)


def _contents(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The lines that are neither empty nor comments, with their numbers. `#` in the first column begins a comment."""
    return ((at, line) for at, line in enumerate(lines, 1) if line.strip() and not line.startswith("#"))


def _from_lines(lines: Sequence[str], origin: str) -> tuple[PromptConfig, ...]:
    contents = list(_contents(lines))
    if not contents:
        refuse(PromptsError, origin, None, "no prompt", "a prompt a line")
    problems = []
    if len(contents) > MOST_PROMPTS:
        line = contents[MOST_PROMPTS][0]
        problems.append(Problem(origin, line, "", f"{len(contents)} prompts", f"at most {MOST_PROMPTS}"))
    prompts = []
    for line, text in contents[:MOST_PROMPTS]:
        prompt, found = parse_line(text, origin, line)
        problems += found
        if prompt is not None:
            prompts.append(_Placed(line, "", prompt))
    problems += _repeated(prompts, origin)
    if problems:
        raise PromptsError(sorted(problems, key=lambda problem: problem.line or 0))
    return tuple(placed.prompt for placed in prompts)


def _from_yaml(text: str, origin: str) -> tuple[PromptConfig, ...]:
    try:
        document = read_yaml(text.encode(), origin, _KEY)
    except ManifestError as error:
        raise PromptsError(error.problems) from error
    items = document.data.get(_KEY)
    problems = [*document.problems, *_options_in_texts(items if isinstance(items, list) else [], document)]
    try:
        listed = _PromptFile.model_validate_json(json.dumps(document.data)).prompts
    except ValidationError as error:
        found = collect_problems(error, _PromptFile, (), document.data, document, {})
        raise PromptsError(first_of_each_key(problems + [_with_meant_key(problem) for problem in found])) from error
    prompts = [
        _Placed(
            document.line((_KEY, at)),
            f"{_KEY}[{at}]",
            PromptConfig(prompt=item) if isinstance(item, str) else with_side_of_square(item),
        )
        for at, item in enumerate(listed)
    ]
    problems += _repeated(prompts, origin)
    if problems:
        raise PromptsError(first_of_each_key(problems))
    return tuple(placed.prompt for placed in prompts)


def _with_meant_key(problem: Problem) -> Problem:
    """The problem; that of a key as sd-scripts name it, with what it is called here."""
    key = meant_key(problem.path.rpartition(".")[2])
    return replace(problem, suggestion=key) if key and problem.found == "an unknown key" else problem


def _options_in_texts(items: Sequence[Any], document: Document) -> list[Problem]:
    """A problem for each text that has options: whoever wrote it would not want them drawn.

    The prompt of a mapping may hold the same.
    """
    problems = []
    for at, item in enumerate(items):
        options = options_in(item) if isinstance(item, str) else {}
        if options:
            keys = ", ".join(f"{key}: ..." for key in dict.fromkeys(["prompt", *filter(None, options.values())]))
            found = f"{', '.join(options)} in a text"
            path = f"{_KEY}[{at}]"
            problems.append(Problem(document.origin, document.line((_KEY, at)), path, found, f"a mapping {{{keys}}}"))
    return problems


def _repeated(prompts: Sequence[_Placed], origin: str) -> list[Problem]:
    """A problem for each prompt that an earlier one equals, settings included."""
    problems = []
    first: dict[str, _Placed] = {}
    for placed in prompts:
        earlier = first.setdefault(placed.prompt.model_dump_json(), placed)
        if earlier is not placed:
            found = f"the prompt of line {earlier.line} with the same settings"
            allowed = "each prompt once, and more seeds for more pictures"
            problems.append(Problem(origin, placed.line, placed.path, found, allowed))
    return problems
