"""Writes the report of a run, which is one list: the key of each file and the function that renders it."""

from collections.abc import Callable

from job import layout
from job.report.build import build_comparison
from job.report.card import render_card
from job.report.curves import plot_curves
from job.report.pictures import Pictures, study_pictures
from job.report.samples import plot_copies, plot_grid
from job.report.schema import Comparison
from job.report.summary import render_summary
from job.storage.folder import RunFolder, json_bytes

Render = Callable[[RunFolder, Comparison, Pictures], bytes | None]  # None where the run has nothing to show there

ARTEFACTS: tuple[tuple[str, Render], ...] = (
    (layout.COMPARISON, lambda _run, comparison, _pictures: json_bytes(comparison.model_dump(mode="json"))),
    (layout.CURVES, lambda _run, comparison, _pictures: plot_curves(comparison)),
    (layout.GRID, lambda run, _comparison, pictures: plot_grid(run, pictures)),
    (layout.COPIES, lambda run, comparison, _pictures: plot_copies(run, comparison)),
    (layout.SUMMARY, render_summary),
    (layout.MODEL_CARD, render_card),
)


def read_verdict(run: RunFolder) -> str | None:
    """The answer of a finished run in a sentence; None where an earlier version made its report."""
    verdict = (run.read_json(layout.COMPARISON) or {}).get("verdict")
    sentence = verdict.get("sentence") if isinstance(verdict, dict) else None
    return sentence if isinstance(sentence, str) else None


def publish_report(run: RunFolder) -> Comparison:
    """Build the comparison from the run's artifacts, write it and the pictures that show it, and return it.

    Raises:
        JobError: 46 when an artifact is missing, unreadable or contradicts another.
    """
    pictures = study_pictures(run)
    comparison = build_comparison(run, pictures)
    for key, render in ARTEFACTS:
        data = render(run, comparison, pictures)
        if data is not None:
            run.write(key, data)
        elif run.exists(key):
            run.delete(key)  # An earlier report had something to show there.
    return comparison
