"""What an attempt says of the rows and samples that it has stored, for trackers to show. By itself, nobody listens."""

from collections.abc import Sequence

from job.layout import Member
from job.storage.folder import RunFolder
from lora_engine.records import StepRecord, ValidationRecord


class Tracking:
    """Told of what is stored, at once after that, by whoever stored it; this one tells nobody.

    No method raises, and all but `reported` and `settle` return at once. Each is given the folder by which what follows
    from it may be written for as long as the unit is held.
    """

    def metrics(self, run: RunFolder, member: Member, rows: Sequence[StepRecord]) -> None:
        """All rows of a member's `metrics.jsonl`, as they are stored now."""

    def validation(self, run: RunFolder, member: Member, rows: Sequence[ValidationRecord]) -> None:
        """All rows of a member's `validation.jsonl`, as they are stored now."""

    def samples(self, run: RunFolder, member: Member, set_name: str) -> None:
        """Samples of a member, of the study's own set, which has that name, are stored."""

    def reported(self, run: RunFolder, sentence: str) -> None:
        """The report is stored, with its verdict in words. Waits as `settle` does, since only `_SUCCESS` follows."""

    def settle(self) -> None:
        """Wait until all that was said has arrived, or `limits.tracker_seconds` of an attempt are spent on waiting."""
