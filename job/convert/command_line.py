"""Reads the command line of a trainer from a shell file, without running any of it.

Variables that the file sets are followed. What else a shell would have to find out - other variables, the output of
commands, loops - stays unknown.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from job.convert.programs import SCRIPTS
from job.convert.settings import Setting
from job.convert.texts import refuse
from lora_engine.text import shortened

_MOST_CHARACTERS = 2**16  # shlex takes the square of a word's length
# A text in quotes, a line that goes on, an escaped character, a comment, the end of a command, and all else.
_PIECE = re.compile(
    r"""'[^']*'|"(?:\\.|[^"\\])*"|\\\n|\\.|(?<!\S)\#[^\n]*|[\n;&|]|[^'"\\;&|\s#]+|[^\S\n]+|.""", re.DOTALL | re.VERBOSE
)
_VARIABLE = r"\\.|\$\{(\w+)\}|\$(\w+)|[$`]"  # or an escaped character, or the beginning of what only a shell can do
_IN_QUOTES = re.compile(_VARIABLE, re.DOTALL)
_OUTSIDE = re.compile(rf"""{_VARIABLE}|'[^']*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
_UNKNOWN = "\ue000"  # stands for the `$` or backquote of what a shell alone can find out
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_SCRIPT = re.compile(r"[\w-]*train[\w-]*\.py")


@dataclass(frozen=True)
class Command:
    """A call of a trainer."""

    script: str  # its file's name
    launcher: Mapping[str, Setting]  # options before the script: of `accelerate launch`
    options: Mapping[str, Setting]
    unknown: Mapping[str, str]  # by the name of an option, what of its value a shell alone knows


def names_a_trainer(text: str) -> bool:
    """Whether the text speaks of a file that may be a trainer."""
    return _SCRIPT.search(text) is not None


def read_command(text: str, origin: str) -> Command:
    """The one call of a trainer in a shell file.

    Raises:
        ConversionError: there is none, or are several, or it is of a trainer that is not known; or quotes do not close.
    """
    found = [
        (line, at, words)
        for line, words in _commands(text, origin)
        for at, word in enumerate(words)
        if _SCRIPT.fullmatch(PurePosixPath(word).name)
    ]
    allowed = f"one call of {', '.join(SCRIPTS)}"
    if len(found) != 1:
        refuse(origin, found[1][0] if found else None, f"{len(found)} calls of a trainer", allowed)
    line, at, words = found[0]
    script = PurePosixPath(words[at]).name
    if script not in SCRIPTS:
        refuse(origin, line, f"a call of {script}", allowed)
    launcher, options = _options(words[:at]), _options(words[at + 1 :])
    unknown = {name: _shown(value) for name, value in options.items() if _UNKNOWN in str(value)}
    settings = {name: Setting(name, value, origin, line) for name, value in options.items() if name not in unknown}
    return Command(script, {n: Setting(n, v, origin, line) for n, v in launcher.items()}, settings, unknown)


def _commands(text: str, origin: str) -> Iterator[tuple[int, Sequence[str]]]:
    """The words of every command that is more than assignments of variables, and its line."""
    variables: dict[str, str] = {}
    spent = 0
    for line, written in _parts(text):
        expanded = _expand(written, variables)
        spent += len(expanded)
        if spent > _MOST_CHARACTERS:
            refuse(origin, line, f"more than {_MOST_CHARACTERS} characters, variables replaced", "shorter files")
        try:
            words = shlex.split(expanded)
        except ValueError as error:
            refuse(origin, line, str(error).lower(), "quotes that close")
        assigned = [_ASSIGNMENT.fullmatch(word) for word in words if word != "export"]
        variables |= {match[1]: match[2] for match in assigned if match}
        if not all(assigned):
            # What follows says where the output goes.
            yield line, words[: next((at for at, word in enumerate(words) if re.match(r"\d?[<>]", word)), None)]


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """The commands as they are written, without comments, each with the line in which it begins."""
    line, first, pieces = 1, 1, list[str]()
    for piece in (match[0] for match in _PIECE.finditer(f"{text}\n")):
        line += piece.count("\n")
        if piece in ("\n", ";", "&", "|"):
            yield first, "".join(pieces)
            pieces, first = [], line
        elif piece != "\\\n" and not piece.startswith("#"):
            pieces.append(piece)


def _expand(text: str, variables: Mapping[str, str]) -> str:
    """The text with the values of variables that are known, each written so that quotes in it do not count."""

    def outside(match: re.Match[str]) -> str:
        if match[0][0] == '"':
            return _IN_QUOTES.sub(lambda inner: _value(inner, variables, r'["\\]'), match[0])
        return match[0] if match[0][0] == "'" else _value(match, variables, r"[^\w\s./:,@%+=-]")

    return _OUTSIDE.sub(outside, text)


def _value(match: re.Match[str], variables: Mapping[str, str], escaped: str) -> str:
    """The value of a variable with a backslash before what is to be escaped; what is no variable stays."""
    if match[0][0] == "\\":
        return match[0]
    name = match[1] or match[2]
    if name not in variables:
        return _UNKNOWN + match[0][1:]
    return re.sub(escaped, r"\\\g<0>", variables[name])


def _options(words: Sequence[str]) -> dict[str, Any]:
    """The values of options: True for one without, a list for one with several. The last of a name counts."""
    values: dict[str, list[str]] = {}
    name = None
    for word in words:
        if re.match(r"--[A-Za-z]", word):
            name, equals, value = word[2:].partition("=")
            values[name] = [value] if equals else []
        elif name is not None:
            values[name].append(word)
    return {name: True if not found else found[0] if len(found) == 1 else found for name, found in values.items()}


def _shown(value: Any) -> str:
    return shortened(str(value).replace(_UNKNOWN, "$"), 80)
