"""The loss curves as a picture."""

from job.report.charts.look import chart_style, drawn
from job.report.charts.training import curves
from job.report.schema import Comparison


@chart_style()
def plot_curves(comparison: Comparison) -> bytes:
    """The loss curves as a PNG: held-out images on the left, training on the right, on one scale."""
    figure = curves(comparison, wide=True)
    return drawn(figure, "png", dpi=110, facecolor="white", metadata={"Software": None})
