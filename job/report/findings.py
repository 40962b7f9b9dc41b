"""What every part of a report is made from."""

from dataclasses import dataclass

from job.layout import Member
from job.report.pictures import Pictures
from job.report.schema import Comparison, MemberReport
from job.run.adapters import AdapterEntry, AdapterIndex
from job.run.decisions import Resolved
from job.storage.folder import RunFolder


@dataclass(frozen=True)
class Findings:
    """A run, and what was found of it."""

    run: RunFolder
    resolved: Resolved
    comparison: Comparison
    pictures: Pictures
    adapters: AdapterIndex

    @property
    def recommended(self) -> AdapterEntry:
        """The adapter to begin with: of the winner, or else of all, the one with the lowest loss as trained."""
        winners = [pair.verdict.winner for pair in self.comparison.pairs if pair.verdict and pair.verdict.winner]
        members = [member for member in self.comparison.members if member.variant in winners[:1]]
        best = min(members or self.comparison.members, key=_loss)
        entries = {Member(entry.variant, entry.seed): entry for entry in self.adapters.adapters}
        return entries[Member(best.variant, best.seed)]


def _loss(member: MemberReport) -> float:
    return float("inf") if member.final_loss is None else member.final_loss
