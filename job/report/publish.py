"""Writes the report of a run: a list of files, each with the function that renders it, and then its two pages."""

from collections.abc import Callable
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


def publish_report(run: RunFolder, scratch: Path | None = None, check: Callable[[], None] = lambda: None) -> Comparison:
    """Build the comparison from the run's artifacts; write it, the adapters to use, and what shows it; and return it.

    Args:
        scratch: the folder through which adapters are copied, one at a time; None for the system's.
        check: called now and then; it may raise.

    Raises:
        JobError: 46 when an artifact is missing, altered, unreadable or contradicts another.
    """
    require_whole(run, Depth.RECORDS, check, is_source_of_report, scratch)
    pictures = study_pictures(run)
    comparison = build_comparison(run, pictures)
    adapters = publish_adapters(run, comparison.members, scratch, check)
    found = Findings(run, stored(run, layout.RESOLVED, Resolved), comparison, pictures, adapters, check)
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
