"""The votes that a run keeps beside its report, so that every number of them can be computed again."""

from collections.abc import Iterable
from dataclasses import dataclass

from job import layout
from job.errors import ExitCode, JobError
from job.report.rating.given import Refused, Sheet, checked, of_one_rater, refusal
from job.storage.folder import RunFolder
from job.storage.stored import StoredJson
from lora_engine.evaluation.ratings.trials import Trials


class _Votes(StoredJson):
    """What the run's file of votes holds: all of it is written at once, so no crash leaves votes of two sets."""

    sheets: tuple[Sheet, ...]


@dataclass(frozen=True)
class Kept:
    """The votes of a run."""

    sheets: tuple[Sheet, ...]  # by the raters' names
    set_aside: int = 0  # sheets that are about other pictures than the run shows now


def keep(run: RunFolder, sheets: Iterable[Sheet]) -> None:
    """Have these votes in the run, and no others that were given before."""
    run.write_stored(layout.VOTES, _Votes(sheets=tuple(sorted(sheets, key=lambda sheet: (sheet.rater, sheet.sha256)))))


def raters_kept(run: RunFolder) -> list[str]:
    """The raters whose votes the run keeps; none where these cannot be read any more, and wait to be replaced."""
    try:
        votes = run.read_stored(layout.VOTES, _Votes)
    except JobError as error:
        if error.code != ExitCode.CONFLICT:
            raise
        return []
    return [] if votes is None else [sheet.rater for sheet in votes.sheets]


def read_kept(run: RunFolder, trials: Trials | None) -> Kept | None:
    """The votes that were given before; None where there are none.

    Args:
        trials: what the run's page shows; None where there is nothing to rate any more.

    Raises:
        JobError: 46 when some were altered, with the file's name.
    """
    votes = run.read_stored(layout.VOTES, _Votes)
    if votes is None:
        return None
    if trials is None:
        return Kept((), len(votes.sheets))
    found = [(f"{run.uri(layout.VOTES)}, of {sheet.rater!r},", checked(sheet, trials)) for sheet in votes.sheets]
    refused = [(place, each) for place, each in found if isinstance(each, Refused)]
    sheets = [(place, each) for place, each in found if isinstance(each, Sheet)]
    altered = [*((place, each) for place, each in refused if not each.is_of_another_page), *of_one_rater(sheets)]
    if altered:
        raise refusal(altered)
    return Kept(tuple(sheet for _, sheet in sheets), len(refused))
