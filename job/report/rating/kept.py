"""The files of votes that a run keeps below its report, so that every number of them can be computed again."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from job import layout
from job.report.rating.given import Refused, Sheet, read_sheet, refusal
from job.report.rating.trials import Trials
from job.storage.folder import RunFolder

_OURS = re.compile(re.escape(layout.VOTES) + r"/[0-9a-f]{64}\.json")  # keys that a report writes


@dataclass(frozen=True)
class Kept:
    """The votes of a run."""

    sheets: tuple[Sheet, ...]  # by the raters' names
    set_aside: int = 0  # files that are about other pictures than the run shows now


def keep(run: RunFolder, sheets: Iterable[Sheet]) -> None:
    """Have these files of votes in the run, and no others that were given before."""
    wanted = {layout.votes(sheet.sha256): sheet.as_file() for sheet in sheets}
    for key, data in wanted.items():
        run.write(key, data)
    for key in _keys(run):
        if key not in wanted:
            run.delete(key)


def has_votes(run: RunFolder) -> bool:
    """Whether the run keeps any."""
    return bool(_keys(run))


def read_kept(run: RunFolder, trials: Trials | None) -> Kept:
    """The files of votes that were given before.

    Args:
        trials: what the run's page shows; None where there is nothing to rate any more.

    Raises:
        JobError: 46 when one was altered, with its name.
    """
    keys = _keys(run)
    if trials is None:
        return Kept((), len(keys))
    found = {key: read_sheet(run.read(key) or b"", trials) for key in keys}
    refused = [(run.uri(key), each) for key, each in found.items() if isinstance(each, Refused)]
    altered = [(uri, each) for uri, each in refused if not each.is_of_another_page]
    if altered:
        raise refusal(altered)
    sheets = [each for each in found.values() if isinstance(each, Sheet)]
    return Kept(tuple(sorted(sheets, key=lambda sheet: (sheet.rater, sheet.sha256))), len(refused))


def _keys(run: RunFolder) -> list[str]:
    return [key for key, _ in run.list(layout.VOTES) if _OURS.fullmatch(key)]
