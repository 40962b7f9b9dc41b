"""The problems of a manifest or of prompts: all of them at once, each with its place and its remedy."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from job.errors import ExitCode, JobError
from lora_engine.text import printable, shortened

SHOWN = 50  # problems that a message lists; it counts the others
_LONGEST = 300  # characters of a name or value that a message shows


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and what would be right."""

    origin: str  # file, or the option that set the key
    line: int | None  # 1 is the first
    path: str  # the key as the user wrote it, e.g. variants[1].captions.text
    found: str
    allowed: str
    suggestion: str | None = None  # what was probably meant
    note: str = ""  # a sentence on what was found

    def __str__(self) -> str:
        origin = shortened(self.origin, _LONGEST)
        place = origin if self.line is None else f"{origin}:{self.line}"
        hint = f' Did you mean "{self.suggestion}"?' if self.suggestion else ""
        hint += f" {self.note}" if self.note else ""
        subject = f"{shortened(self.path, _LONGEST)}: " if self.path else ""
        found = shortened(self.found, _LONGEST)
        line = f"{place}: {subject}found {found}; allowed: {shortened(self.allowed, 1000)}.{hint}"
        return printable(re.sub(r"://[^/@\s]*@", "://***@", line))  # hide credentials that should not be there


class ProblemsError(JobError):
    """Something that a user wrote cannot be used, with all its problems."""

    opening: str
    remedy_of_all: str

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = [str(problem) for problem in self.problems[:SHOWN]]
        if count > SHOWN:
            lines.append(f"and {count - SHOWN} more")
        errors = f"{count} error{'s' if count > 1 else ''}"
        super().__init__(ExitCode.MANIFEST, f"{self.opening} {errors}:", self.remedy_of_all, lines)


class ManifestError(ProblemsError):
    """A manifest that cannot be used, with all its problems."""

    opening = "The manifest has"
    remedy_of_all = "Mend the manifest; docs/manifest.md lists every key."


class PromptsError(ProblemsError):
    """Prompts that cannot be used, with all their problems."""

    opening = "The prompts have"
    remedy_of_all = "Mend the prompts; docs/operations.md says how they are written."


def first_of_each_key(problems: Sequence[Problem]) -> list[Problem]:
    """The first problem of each key. Those of the text come first: the schema saw only what was left of such a key."""
    first: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        first.setdefault((problem.path, "" if problem.path else str(problem)), problem)
    return list(first.values())


def is_typo(word: str, choice: str) -> bool:
    """Whether a word is spelled so much like a choice that hardly anything else can have been meant."""
    return bool(difflib.get_close_matches(word, [choice], cutoff=0.85))


def nearest(word: str, choices: Sequence[str]) -> str | None:
    """The choice that was probably meant; None where none is similar."""
    return next(iter(difflib.get_close_matches(word, choices, n=1, cutoff=0.6)), None)
