"""Writes the report of a run: a list of files, each with the function that renders it, and then its two pages."""

from collections.abc import Callable, Sequence
from pathlib import Path

from job import layout
from job.report.adapters import publish_adapters
from job.report.artefacts import stored
from job.report.build import build_comparison
from job.report.card import render_card
from job.report.curves import plot_curves
from job.report.findings import Findings
from job.report.page.render import publish_page
from job.report.pictures import study_pictures
from job.report.rating.door import give_votes
from job.report.rating.given import GivenFile
from job.report.rating.page import publish_rating
from job.report.samples import plot_copies, plot_grid
from job.report.schema import Comparison
from job.report.summary import render_summary
from job.run.resolved import Resolved
from job.run.success import write_success
from job.run.verify import Depth, is_source_of_report, require_whole
from job.storage.folder import RunFolder, json_bytes

Render = Callable[[Findings], bytes | None]  # None where the run has nothing to show there

ARTEFACTS: tuple[tuple[str, Render], ...] = (
    (layout.COMPARISON, lambda found: json_bytes(found.comparison.model_dump(mode="json"))),
    (layout.CURVES, lambda found: plot_curves(found.comparison)),
    (layout.GRID, lambda found: plot_grid(found.run, found.pictures)),
    (layout.COPIES, lambda found: plot_copies(found.run, found.comparison)),
    (layout.SUMMARY, render_summary),
    (layout.MODEL_CARD, render_card),
)


def publish_report(
    run: RunFolder,
    scratch: Path | None = None,
    check: Callable[[], None] = lambda: None,
    votes: Sequence[GivenFile] = (),
) -> Comparison:
    """Build the comparison from the run's artifacts; write it, the adapters to use, and what shows it; and return it.

    Args:
        scratch: the folder through which adapters are copied, one at a time; None for the system's.
        check: called now and then; it may raise.
        votes: files of people's votes, which the run keeps instead of those that it has; none to leave these.

    Raises:
        JobError: 46 when an artifact is missing, altered, unreadable or contradicts another; 42 and 46 as
            `give_votes` says.
    """
    require_whole(run, Depth.RECORDS, check, is_source_of_report, scratch)
    pictures, resolved = study_pictures(run), stored(run, layout.RESOLVED, Resolved)
    if votes:
        give_votes(run, resolved, pictures, votes)
    comparison = build_comparison(run, pictures)
    adapters = publish_adapters(run, comparison.members, scratch, check)
    found = Findings(run, resolved, comparison, pictures, adapters, check)
    for key, render in ARTEFACTS:
        check()
        data = render(found)
        if data is not None:
            run.write(key, data)
        elif run.exists(key):
            run.delete(key)  # An earlier report had something to show there.
    publish_rating(found)
    publish_page(found)
    if run.exists(layout.SUCCESS):
        write_success(run, check)  # It lists the report that was there before.
    return comparison
