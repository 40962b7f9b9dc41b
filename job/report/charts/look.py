"""What the charts have in common: fonts, colours, how an adapter is drawn, and which number an artist shows."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from job.report.figures import plain_labels
from job.report.schema import Comparison
from lora_engine.text import printable, shortened

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

WIDTH_INCHES = 4.8  # of a chart in a page, in which its letters can still be read on a phone
BLACK = "#000000"  # the page's own colour of text in SVG; with an alpha, a grey that suits any background
DATA = "data:"  # what the id of an artist begins with that shows a value of `comparison.json`

# Okabe and Ito's palette, whose colours can be told apart with any colour vision, without its yellow.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", BLACK)
_FILLS = ("full", "none", "left", "top")  # of markers: those of the second seven variants are open, and so on
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
_MARKERS = "os^Dv*PX"
_NAME_LENGTH = 48  # characters of a name in a legend, at most
_LEGEND_COLUMNS = 4  # at most
_LETTER_POINTS, _HANDLE_POINTS = 6.2, 48  # the width of a letter in a legend, and of what else an entry takes
_LEGEND_ROW_INCHES = 0.21
_POINTS = 72  # an inch, in which an SVG is drawn
_SETTINGS: dict[Any, Any] = {
    "axes.facecolor": "none",
    "axes.formatter.useoffset": False,
    "axes.grid": True,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.facecolor": "none",
    "font.family": "DejaVu Sans",
    "grid.alpha": 0.15,
    "grid.color": BLACK,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "lines.markersize": 5,
    "path.simplify": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
}


@contextmanager
def chart_style() -> Iterator[None]:
    """The settings under which a chart is made, and under which it is drawn."""
    import matplotlib as mpl

    with plain_labels(), mpl.rc_context(_SETTINGS):
        yield


def new_figure(name: str, width_inches: float, height_inches: float) -> "Figure":
    """An empty figure.

    Args:
        name: with which the ids of its parts begin, so that those of two charts in a page differ.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    figure.set_gid(name)
    return figure


def drawn(figure: "Figure", kind: Literal["png", "svg"], **options: Any) -> bytes:
    """The file of a figure, laid out and then drawn once, where `savefig` by itself would draw it twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    (FigureCanvasSVG if kind == "svg" else FigureCanvasAgg)(figure)
    figure.set_dpi(options.get("dpi", _POINTS if kind == "svg" else figure.get_dpi()))
    layout = figure.get_layout_engine()
    if layout is not None:
        layout.execute(figure)
    figure.set_layout_engine("none")
    data = io.BytesIO()
    figure.savefig(data, format=kind, **options)
    return data.getvalue()


def shows(artist: "Artist", path: str) -> None:
    """Have an artist say which value of `comparison.json` it shows, such as `members[0].validation`."""
    artist.set_gid(DATA + path)


@dataclass(frozen=True)
class Looks:
    """How adapters are told apart: a colour a variant, a dash and a marker a seed."""

    variants: Sequence[str]
    seeds: Sequence[int]

    @classmethod
    def of(cls, comparison: Comparison) -> "Looks":
        """Those of a comparison."""
        variants = dict.fromkeys(member.variant for member in comparison.members)
        seeds = dict.fromkeys(member.seed for member in comparison.members)
        return cls(list(variants), list(seeds))

    def colour(self, variant: str) -> str:
        """The colour of a variant, or black for one that is not among them."""
        return _COLOURS[self.variants.index(variant) % len(_COLOURS)] if variant in self.variants else BLACK

    def line(self, variant: str, seed: int) -> dict[str, Any]:
        """The line of an adapter, without markers."""
        return {"color": self.colour(variant), "linestyle": _DASHES[self.seeds.index(seed) % len(_DASHES)]}

    def marked(self, variant: str, seed: int) -> dict[str, Any]:
        """The line of an adapter, with markers."""
        fill = _FILLS[self.variants.index(variant) // len(_COLOURS) % len(_FILLS)]
        marker = _MARKERS[self.seeds.index(seed) % len(_MARKERS)]
        return self.line(variant, seed) | {"marker": marker, "fillstyle": fill}

    @property
    def faintness(self) -> float:
        """By what an alpha is multiplied so that the faint parts of many adapters do not make up a wall."""
        return 1 / math.sqrt(max(len(self.variants) * len(self.seeds) / 3, 1))

    def add_legend(self, figure: "Figure") -> None:
        """Say below a figure which variant has which colour and, where there are several seeds, which line is whose.

        The figure grows by as much.
        """
        from matplotlib.lines import Line2D

        labels = [shortened(printable(variant), _NAME_LENGTH) for variant in self.variants]
        lines = [self.marked(variant, self.seeds[0]) for variant in self.variants]
        if len(self.seeds) > 1:
            labels += [f"seed {seed}" for seed in self.seeds]
            lines += [self.marked(self.variants[0], seed) | {"color": BLACK} for seed in self.seeds]
        widest = _HANDLE_POINTS + _LETTER_POINTS * max(map(len, labels))
        columns = min(max(int(72 * figure.get_figwidth() // widest), 1), _LEGEND_COLUMNS, len(labels))
        # Matplotlib fills one column after the other, and leaves out a label that begins with an underscore.
        order = [at for column in range(columns) for at in range(column, len(labels), columns)]
        handles = [Line2D([], [], **lines[at]) for at in order]
        legend = figure.legend(handles, map(str, order), loc="outside lower left", ncols=columns)
        for text, at in zip(legend.get_texts(), order, strict=True):
            text.set_text(labels[at])
        figure.set_figheight(figure.get_figheight() + _LEGEND_ROW_INCHES * -(-len(labels) // columns))
