"""The settings of another trainer's configuration: where each stood, what it was read as, and what became of it."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from job.convert.programs import Program
from job.manifest.problems import Problem, ProblemsError
from lora_engine.text import shortened

_WHOLE = re.compile(r"[-+]?[0-9]{1,18}(\.0*)?")  # Python refuses to read numbers of thousands of digits
_FLAGS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


class ConversionError(ProblemsError):
    """A configuration of which no manifest can be made, with all its problems."""

    opening = "The configuration has"
    remedy_of_all = "Mend the configuration, or write the manifest by hand; docs/convert.md says what is read."


@dataclass(frozen=True)
class Setting:
    """A setting as it was written."""

    name: str
    value: Any  # plain data; True for an option without a value
    origin: str
    line: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it is as good as not written."""
        return self.value is None or self.value in ("", [])

    def problem(self, allowed: str) -> Problem:
        """That the value is something else than what is allowed."""
        return Problem(self.origin, self.line, self.name, show(self.value), allowed)


@dataclass(frozen=True)
class Configuration:
    """What was read of another trainer's files."""

    program: Program
    settings: Mapping[str, Setting]  # by the name that the command line has for it; the last one of a name
    subsets: Sequence[Mapping[str, Setting]] = ()  # of a dataset configuration, what it inherits included
    remarks: Sequence[str] = ()


@dataclass
class Reading:
    """Reads settings one by one, and notes which key each has become, which is lost, and which cannot be read."""

    configuration: Configuration
    problems: list[Problem] = field(default_factory=list)
    places: dict[str, Setting] = field(default_factory=dict)  # what stands at a key of the manifest
    lost: dict[str, str] = field(default_factory=dict)  # by the name of a setting, what not to take it changes
    taken: set[str] = field(default_factory=set)  # names of settings
    remarks: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)  # by a key of the manifest, what has to be written there

    @property
    def program(self) -> Program:
        """The trainer that the configuration is for."""
        return self.configuration.program

    def setting(self, name: str) -> Setting | None:
        """The setting, if it is written."""
        found = self.configuration.settings.get(name)
        return None if found is None or found.is_empty else found

    def has(self, name: str) -> bool:
        """Whether the setting is written, and says more than no."""
        found = self.setting(name)
        return found is not None and not says_no(found.value)

    def lose(self, name: str, why: str) -> None:
        """Note that a setting is not taken, if it is written."""
        if self.setting(name) is not None:
            self.lost[name] = why

    def miss(self, key: str, what: str) -> None:
        """Note that what stands at a key of the manifest has been made up."""
        self.missing[key] = what

    def text(self, name: str, key: str) -> str | None:
        """The setting as text, which becomes a key of the manifest; the trainer's default where it is not written."""
        value = self._taken(name, key)
        if isinstance(value, bool | list | dict):
            self._refuse(name, "text")
            return None
        return None if value is None else str(value)

    def flag(self, name: str, key: str) -> bool:
        """Whether a setting is on."""
        value = self._taken(name, key)
        known = _FLAGS.get(str(value).lower()) if value is not None else False
        if known is None:
            self._refuse(name, "true or false")
        return bool(known)

    def number(self, name: str, key: str) -> float | None:
        """The setting as a number: a whole one where it is written as one."""
        value = self._taken(name, key)
        if value is None:
            return None
        number = as_number(value)
        if number is None:
            self._refuse(name, "a finite number")
        return number

    def length(self, name: str, key: str) -> float | None:
        """The setting as a number, or, where it is in per cent, as a share."""
        value = self._taken(name, key)
        if not isinstance(value, str) or not value.strip().endswith("%"):
            return self.number(name, key)
        percent = as_number(value.strip()[:-1])
        if percent is None:
            self._refuse(name, "a finite number")
            return None
        return percent / 100

    def whole(self, name: str, key: str) -> int | None:
        """The setting as a whole number."""
        number = self.number(name, key)
        if number is None or isinstance(number, int):
            return number
        self._refuse(name, "a whole number")
        return None

    def count(self, name: str, key: str) -> int:
        """The setting as a number of things, which has a default: 1 at least."""
        number = self.whole(name, key)
        if number is not None and number < 1:
            self._refuse(name, "at least 1")
        return max(number or 1, 1)

    def words(self, name: str, key: str) -> list[str]:
        """The setting as a list of texts: several, or one that holds them with spaces between."""
        value = self._taken(name, key)
        items = value if isinstance(value, list) else [] if value is None else [value]
        if any(isinstance(item, list | dict | bool) for item in items):
            self._refuse(name, "texts")
            return []
        return [word for item in items for word in str(item).split()]

    def _taken(self, name: str, key: str) -> Any:
        found = self.setting(name)
        if found is None:
            return self.program.defaults.get(name)
        self.taken.add(name)
        self.places.setdefault(key, found)
        return found.value

    def _refuse(self, name: str, allowed: str) -> None:
        found = self.setting(name)
        if found is not None:
            self.problems.append(found.problem(allowed))


def as_number(value: Any) -> float | None:
    """The number that a value is, or is as text; None for what is none, is not finite, or has too many digits."""
    if isinstance(value, str):
        text = value.strip()
        if _WHOLE.fullmatch(text):
            return int(text.partition(".")[0])
        try:
            value = float(text) if len(text) < 100 else None
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int):
        return value if abs(value) < 10**18 else None
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 10**15 else value


def show(value: Any) -> str:
    """A value as JSON, cut to a length that suits a message."""
    return shortened(json.dumps(value, ensure_ascii=False, default=str), 80)


def says_no(value: Any) -> bool:
    """Whether a value switches something off."""
    return value in (False, 0, "0", "0.0") or str(value).lower() in ("false", "none")
