"""The report as a text that fits a screen, for a pull request or a chat: `report/summary.md`."""

from job.report import table
from job.report.findings import Findings
from job.report.templating import environment

_NOTES = 8  # of those of the report, at most, so that the summary fits a screen


def render_summary(found: Findings) -> bytes:
    """The verdict, what it rests on, a table, a picture and the notes, in Markdown."""
    comparison = found.comparison
    adapters = table.adapters(comparison)
    return (
        environment()
        .get_template("summary.md.j2")
        .render(
            name=comparison.name,
            verdict=comparison.verdict,
            columns=adapters.columns,
            rows=table.texts(adapters),
            has_samples=any(found.pictures.indices.values()),
            notes=comparison.notes[:_NOTES],
            more_notes=max(0, len(comparison.notes) - _NOTES),
        )
        .encode()
    )
