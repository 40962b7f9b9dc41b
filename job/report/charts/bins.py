"""What training changed in each range of timesteps."""

from typing import TYPE_CHECKING

from job.report.charts.look import BLACK, WIDTH_INCHES, Looks, chart_style, new_figure, shows
from job.report.schema import Comparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@chart_style()
def timestep_losses(comparison: Comparison) -> "Figure | None":
    """The loss of each adapter less the base model's, by range of timesteps; None where no adapter has any."""
    if not any(member.timesteps for member in comparison.members):
        return None
    looks = Looks.of(comparison)
    figure = new_figure("timesteps", WIDTH_INCHES, 4)
    axes = figure.subplots()
    axes.axhline(0, color=BLACK, linewidth=0.8)
    for at, member in enumerate(comparison.members):
        if member.timesteps:
            middles = [(found.first + found.last) / 2 for found in member.timesteps]
            changes = [found.final - found.base for found in member.timesteps]
            (line,) = axes.plot(middles, changes, **looks.marked(member.variant, member.seed), linewidth=1.6)
            shows(line, f"members[{at}].timesteps")
    axes.set_title("Change of the loss from the base model, as trained")
    axes.set_xlabel("timestep (left: little noise, right: much)")
    axes.set_ylabel("last checkpoint less base")
    looks.add_legend(figure)
    return figure
