"""How often people prefer one of two, each pair with its interval."""

from typing import TYPE_CHECKING

from job.report.charts.look import BLACK, WIDTH_INCHES, Looks, chart_style, new_figure, shows
from job.report.rating_schema import RatedPair
from job.report.schema import Comparison
from lora_engine.text import printable, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW_INCHES, _AROUND_INCHES = 0.24, 0.7  # the height of a row, and of what is above and below all rows
_NAME_LENGTH = 16  # characters of a name at the side of a row, at most


@chart_style()
def win_rates(comparison: Comparison) -> "Figure | None":
    """The share of votes for the one at the left of each pair that was rated; None where there is none.

    In the colour of the one that is preferred, where that is told.
    """
    pairs = comparison.ratings.pairs if comparison.ratings else []
    if not pairs:
        return None
    figure = new_figure("votes", WIDTH_INCHES, _AROUND_INCHES + _ROW_INCHES * len(pairs))
    axes = figure.subplots()
    axes.axvline(0.5, color=BLACK, linewidth=0.8)
    looks = Looks.of(comparison)
    for row, pair in enumerate(pairs):
        rate = pair.win_rate
        ends = [] if rate.low is None or rate.high is None else [rate.low, rate.high]
        points = [*ends[:1], rate.mean, *ends[1:]]
        (line,) = axes.plot(
            points,
            [row] * len(points),
            color=looks.colour(pair.winner) if pair.winner is not None else BLACK,
            linewidth=2.5,
            marker="D",
            markersize=6,
            markevery=[len(ends) // 2],
            solid_capstyle="butt",
        )
        shows(line, f"ratings.pairs[{row}].win_rate")
    axes.set_yticks(range(len(pairs)), [_label(pair) for pair in pairs])
    axes.set_ylim(len(pairs) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0%", "25%", "50%", "75%", "100%"])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    figure.supxlabel("votes for the first of the two, with their interval", size=10)
    return figure


def _label(pair: RatedPair) -> str:
    a, b = (shortened(printable(name or "base model"), _NAME_LENGTH) for name in (pair.a, pair.b))
    return f"{a} or {b}"
