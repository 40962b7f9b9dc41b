"""What every part of a report is made from."""

from dataclasses import dataclass

from job.report.pictures import Pictures
from job.report.schema import Comparison
from job.run.adapters import AdapterEntry, AdapterIndex
from job.run.resolved import Resolved
from job.storage.folder import RunFolder
from job.threads import Check


@dataclass(frozen=True)
class Findings:
    """A run, and what was found of it."""

    run: RunFolder
    resolved: Resolved
    comparison: Comparison
    pictures: Pictures
    adapters: AdapterIndex
    check: Check = lambda: None  # called now and then while something is made of it; it may raise

    @property
    def recommended(self) -> AdapterEntry:
        """The adapter to begin with."""
        chosen = self.comparison.verdict.recommended
        return next(e for e in self.adapters.adapters if (e.variant, e.seed) == (chosen.variant, chosen.seed))
