"""Writes the report of a run."""

from job import layout
from job.report.build import build_comparison
from job.report.curves import draw_curves
from job.report.samples import draw_grid
from job.report.schema import Comparison
from job.storage.folder import RunFolder


def publish_report(run: RunFolder) -> Comparison:
    """Build the report from the run's artifacts and write it."""
    comparison = build_comparison(run)
    run.write_json(layout.COMPARISON, comparison.model_dump(mode="json"))
    run.write(layout.CURVES, draw_curves(comparison))
    grid = draw_grid(run, comparison)
    if grid is not None:
        run.write(layout.GRID, grid)
    return comparison
