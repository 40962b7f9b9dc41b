"""The charts of a report: figures of a comparison, and SVG of them to stand in a page."""

from job.report.charts.bins import timestep_losses
from job.report.charts.differences import forest
from job.report.charts.inline import svg
from job.report.charts.training import curves
from job.report.charts.votes import win_rates

__all__ = ["curves", "forest", "svg", "timestep_losses", "win_rates"]
