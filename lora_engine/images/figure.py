"""Finds what is drawn on a page, however small or faint, so that it can be looked at by itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

_Floats = npt.NDArray[np.float64]
_Ink = npt.NDArray[np.float32]
_Levels = npt.NDArray[np.uint8]
_Places = npt.NDArray[np.intp]

_SIDE = 512  # pixels of the longer side at most, to which a larger picture is reduced by a whole number
_PAPER = 1.5  # grey levels by which a pixel without ink may differ from the paper, besides its noise
_NOISES = 4.0  # standard deviations of the noise that are no ink either
_NOISIEST = 8.0  # grey levels of noise that paper may have; what varies by more is drawn, or a photograph's texture
_REACHED = 5  # pixels around one, in which it is a speck where it is alone
_SPECK = 6  # pixels of ink there that may be a speck's; twice as many are none
_MARGIN = 1 / 16  # of the side, in which a line along the whole page is its frame or a scan's dark edge
_ALONG = 0.7  # of a row or column that such a line fills
_FAR = 3.0  # standard deviations from the middle, beyond which ink does not count
_ROUNDS = 4  # in which middle and spread settle
# Standard deviations from the middle to the edges of the box. An outline's ink lies within 1.5 of them, and evenly
# spread ink, as in most photographs, within 1.7: then the box is the whole page.
_REACH = 1.9


@dataclass(frozen=True, eq=False)
class Figure:
    """What is drawn on a page."""

    page: Image.Image  # in mode L, without the page's frame
    box: tuple[float, float, float, float]  # left, top, right and lower edge in pixels of the page, around the figure


def find_figure(grey: Image.Image) -> Figure | None:
    """Find the middle and the spread of the ink on a picture in mode L; None where there is nothing but paper.

    Ink is what differs from the median by more than noise does. Its mean place and standard deviation say where the
    figure is: they move by a small part of a pixel when the picture is saved again, where the outermost pixels of ink
    would move by whole ones. Specks and the frame of a page are no ink, and ink far from the rest does not count.
    """
    reduced = grey.reduce(math.ceil(max(grey.size) / _SIDE))
    levels, paper = np.array(reduced), _median(reduced.histogram())
    ink_by_level = np.maximum(0, np.abs(np.arange(256, dtype=np.float32) - paper) - _PAPER - _NOISES * _noise(levels))
    frames = [_frame(levels, ink_by_level > 0, along) for along in (0, 1)]
    levels[frames[0]] = paper
    levels[:, frames[1]] = paper
    page = Image.fromarray(levels)
    ink = _ink(page, ink_by_level)
    return Figure(page, _box(ink)) if ink.any() else None


def _median(counts: Sequence[int] | npt.NDArray[np.intp]) -> int:
    """The lower median of whole numbers from 0 on, by how many there are of each."""
    up_to = np.cumsum(counts)
    return int(np.searchsorted(up_to, up_to[-1] / 2))


def _noise(levels: _Levels) -> float:
    """The standard deviation of the noise in grey levels, by the median difference of pixels from their neighbours.

    It is that of plain paper where most of the page is plain.
    """
    if min(levels.shape) < 3:
        return 0.0
    whole = levels.astype(np.int16)
    above, rows, below = whole[:-2:3], whole[1:-1:3], whole[2::3]  # Every third row has enough of them.
    away = np.abs(4 * rows[:, 1:-1] - above[:, 1:-1] - below[:, 1:-1] - rows[:, :-2] - rows[:, 2:])
    return min(_NOISIEST, _median(np.bincount(away.ravel())) / 0.6745 / math.sqrt(20))


def _frame(levels: _Levels, is_ink: npt.NDArray[np.bool_], along: int) -> _Places:
    """The rows (along 0) or columns (along 1) in the page's margin that ink fills from end to end.

    Where most of the margin is ink, as in a photograph, it is no frame.

    Args:
        is_ink: of each grey level.
    """
    length = levels.shape[along]
    margin = max(1, int(_MARGIN * length))
    edges = np.unique(np.r_[:margin, length - margin : length])
    filled: _Places = edges[is_ink[levels.take(edges, along)].mean(axis=1 - along) > _ALONG]
    return filled if len(filled) <= len(edges) / 2 else filled[:0]


def _ink(page: Image.Image, ink_by_level: _Ink) -> _Ink:
    """How much ink each pixel has, less what lies alone: dust, and a scanner's speckle.

    A page of nothing but specks keeps them.
    """
    ink: _Ink = ink_by_level.take(np.asarray(page))
    # A blur of 255 for ink counts it, in units that 8 bits have; beyond the page's edges it takes the edges for more.
    blurred = page.point(np.where(ink_by_level > 0, 255, 0).tolist()).filter(ImageFilter.BoxBlur(_REACHED))
    counted = np.arange(256, dtype=np.float32) * np.float32((2 * _REACHED + 1) ** 2 / 255)
    weights: _Ink = np.clip(counted / _SPECK - 1, 0, 1)
    kept: _Ink = ink * weights.take(np.asarray(blurred))
    return kept if kept.any() else ink


def _box(ink: _Ink) -> tuple[float, float, float, float]:
    """The square around the middle of the ink, as far as it is on the page."""
    ends = np.array(ink.shape, dtype=np.float64)
    low, high = np.zeros(2), ends
    for _ in range(_ROUNDS):
        middle, spread = _spread(ink, np.floor(low).astype(np.intp), np.ceil(high).astype(np.intp))
        low, high = np.maximum(0, middle - _FAR * spread), np.minimum(ends, middle + _FAR * spread)
    (top, left), (lower, right) = np.maximum(0, middle - _REACH * spread), np.minimum(ends, middle + _REACH * spread)
    return float(left), float(top), float(right), float(lower)


def _spread(ink: _Ink, low: _Places, high: _Places) -> tuple[_Floats, float]:
    """The mean place of the ink within a box, down and across, and the larger of its standard deviations."""
    part = ink[low[0] : high[0], low[1] : high[1]]
    profiles = [part.sum(axis=1).astype(np.float64), part.sum(axis=0).astype(np.float64)]
    places = [np.arange(start, end) + 0.5 for start, end in zip(low, high, strict=True)]
    middle = np.array([at @ of / of.sum() for at, of in zip(places, profiles, strict=True)])
    squares = [(at - m) ** 2 @ of / of.sum() for at, m, of in zip(places, middle, profiles, strict=True)]
    return middle, max(0.5, math.sqrt(max(squares)))
