"""What is wrong with a manifest: every problem at once, each with its place and its remedy."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from job.errors import ExitCode, JobError


@dataclass(frozen=True)
class Problem:
    """One thing to mend."""

    origin: str  # file, or the option that set the key
    line: int | None  # 1 is the first
    path: str  # the key as the user wrote it, e.g. variants[1].captions.text
    found: str
    allowed: str
    suggestion: str | None = None  # what was probably meant

    def __str__(self) -> str:
        place = self.origin if self.line is None else f"{self.origin}:{self.line}"
        hint = f' Did you mean "{self.suggestion}"?' if self.suggestion else ""
        subject = f"{self.path}: " if self.path else ""
        return f"{place}: {subject}found {self.found}; allowed: {self.allowed}.{hint}"


class ManifestError(JobError):
    """The manifest cannot be used."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(
            ExitCode.MANIFEST,
            f"The manifest has {count} error{'s' if count > 1 else ''}:\n{lines}\n",
            "Mend the manifest; docs/manifest.md lists every key.",
        )


def nearest(word: str, choices: Sequence[str]) -> str | None:
    """The choice that was probably meant, if any is near."""
    return next(iter(difflib.get_close_matches(word, choices, n=1, cutoff=0.6)), None)
