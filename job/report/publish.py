"""Writes the report of a run."""

from job import layout
from job.report.build import build_comparison
from job.report.curves import plot_curves
from job.report.samples import plot_grid
from job.report.schema import Comparison
from job.storage.folder import RunFolder


def publish_report(run: RunFolder) -> Comparison:
    """Build the report from the run's artifacts and write it."""
    comparison = build_comparison(run)
    run.write_json(layout.COMPARISON, comparison.model_dump(mode="json"))
    run.write(layout.CURVES, plot_curves(comparison))
    grid = plot_grid(run, comparison)
    if grid is not None:
        run.write(layout.GRID, grid)
    return comparison
