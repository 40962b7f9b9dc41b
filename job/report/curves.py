"""The loss curves as a picture."""

import io

from job.report.charts.look import chart_style
from job.report.charts.training import curves
from job.report.schema import Comparison


@chart_style()
def plot_curves(comparison: Comparison) -> bytes:
    """The loss curves as a PNG: held-out images on the left, training on the right, on one scale."""
    data = io.BytesIO()
    curves(comparison, wide=True).savefig(data, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    return data.getvalue()
