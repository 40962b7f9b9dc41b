"""The differences of pairs of variants, each with its interval."""

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from job.report.charts.look import BLACK, WIDTH_INCHES, Looks, chart_style, new_figure, shows
from job.report.parts import Interval
from job.report.schema import Comparison, Pair
from job.report.sides import cells_of
from lora_engine.text import printable, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW_INCHES, _AROUND_INCHES = 0.21, 0.75  # the height of a row, and of what is above and below all rows
_BESIDE_CELLS = 2  # rows of a pair that are none of its cells: a heading, and half of a row on either side
_NAME_LENGTH, _CAPTIONS_LENGTH = 20, 12  # characters of a name in a heading and in the label of a row, at most
_SCOPED_LENGTH = 12  # the same in a heading that names a seed, too


@chart_style()
def forest(comparison: Comparison) -> "Figure | None":
    """The differences of every pair that has a verdict, prompted each way; None where there is no such pair.

    Left of 0 the first of the two has the lower loss. Grey is what is too small to matter, where that is known.
    """
    shown = [(at, pair) for at, pair in enumerate(comparison.pairs) if pair.verdict is not None and pair.cells]
    if not shown:
        return None
    looks = Looks.of(comparison)
    tops = [0, *accumulate(len(cells_of(pair)) + _BESIDE_CELLS for _, pair in shown)]
    figure = new_figure("forest", WIDTH_INCHES, _AROUND_INCHES + _ROW_INCHES * tops[-1])
    axes = figure.subplots()
    axes.axvline(0, color=BLACK, linewidth=0.8)
    scopes = {(pair.seed, pair.seeds) for _, pair in shown}
    for top, (at, pair) in zip(tops, shown, strict=False):
        _draw_heading(figure, axes, pair, top, scoped=len(scopes) > 1)
        _draw_margin(axes, pair, f"pairs[{at}].margin", top)
        _draw_cells(axes, looks, pair, f"pairs[{at}].cells", top)
    labels = [label for _, pair in shown for label in _labels(pair)]
    rows = [top + row for top, (_, pair) in zip(tops, shown, strict=False) for row in range(1, len(cells_of(pair)) + 1)]
    axes.set_yticks(rows, labels)
    axes.set_ylim(tops[-1] - 0.5, -0.75)
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=4)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    grey = "\n(grey: too small to matter)" if any(pair.margin for _, pair in shown) else ""
    figure.supxlabel(f"difference in denoising loss, with its interval{grey}", size=10)
    return figure


def _labels(pair: Pair) -> Sequence[str]:
    a, b = (shortened(printable(name), _CAPTIONS_LENGTH) for name in (pair.a, pair.b))
    labels = {"as_trained": "as trained", "under_a": f"{a}'s captions", "under_b": f"{b}'s captions"}
    return [labels.get(cell, "no prompt") for cell in cells_of(pair)]


def _draw_heading(figure: "Figure", axes: "Axes", pair: Pair, row: float, *, scoped: bool) -> None:
    """Say on which side which of the two has the lower loss and, where that differs between pairs, of which seeds."""
    from matplotlib.transforms import blended_transform_factory

    length = _SCOPED_LENGTH if scoped else _NAME_LENGTH
    a, b = (shortened(printable(name), length) for name in (pair.a, pair.b))
    scope = f"{pair.seeds} seeds" if pair.seed is None else f"seed {pair.seed}"
    texts = [(0.01, "left", f"\N{LEFTWARDS ARROW} {a} lower"), (0.99, "right", f"{b} lower \N{RIGHTWARDS ARROW}")]
    across = blended_transform_factory(figure.transFigure, axes.transData)
    for x, side, text in [*texts, *([(0.5, "center", scope)] if scoped else [])]:
        found = axes.text(x, row, text, transform=across, ha=side, va="center", weight="bold", size=10)
        found.set_in_layout(False)  # It may stand above the labels of the rows, which the layout would make way for.


def _draw_margin(axes: "Axes", pair: Pair, path: str, top: float) -> None:
    if pair.margin is not None:
        rows = (top + 0.5, top + len(cells_of(pair)) + 0.5)
        shows(axes.fill_betweenx(rows, -pair.margin, pair.margin, color=BLACK, alpha=0.12, linewidth=0), path)


def _draw_cells(axes: "Axes", looks: Looks, pair: Pair, path: str, top: float) -> None:
    """Draw a row for each way to prompt, in the colour of the one that has the lower loss where that is told."""
    for row, name in enumerate(cells_of(pair), start=1):
        found: Interval = getattr(pair.cells, name)
        ends = [] if found.low is None or found.high is None else [found.low, found.high]
        points = [*ends[:1], found.mean, *ends[1:]]
        first = name == "as_trained"
        (line,) = axes.plot(
            points,
            [top + row] * len(points),
            color=looks.colour(_lower(pair, found)),
            linewidth=3 if first else 1.5,
            marker="D" if first else "o",
            markersize=7 if first else 5,
            markevery=[len(ends) // 2],
            solid_capstyle="butt",
        )
        shows(line, f"{path}.{name}")


def _lower(pair: Pair, found: Interval) -> str:
    """The one that has the lower loss; the empty name where that is not told."""
    if found.low is None or found.high is None or found.low <= 0 <= found.high:
        return ""
    return pair.a if found.high < 0 else pair.b
