"""Draws a grid of pictures as a PNG: rows of text and pictures in blocks, every text whole, every picture as it is.

Texts are wrapped where they are too long for their place, and never cut. Letters are drawn in the order in which they
are stored and without joining them, also those of scripts that run from right to left: what would order and join them
is not in every installation of Pillow, and equal input is to give equal bytes.
"""

import io
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from job.report.lettering import DETAIL, HEADING, LABEL, TITLE, WORDS, Style, font_of, wrap

BUDGET_PIXELS = 24_000_000  # of a whole grid: 72 MB while it is drawn

HIGHEST = 20_000  # of a whole grid, in pixels; many programs show no picture that is much higher

# Lengths are in pixels.
_MARGIN = 20  # around the whole grid
_TEXT_WIDTH = 260  # of the column of labels
_COLUMN_WIDTH = 84  # of a column of pictures at least: it holds "base model" on one line
_GAP = 12  # between columns, and between rows
_PADDING = 6  # between the words of a tile and its edge
_BLOCK_GAP = 16  # above and below the line between blocks

_FRAME, _RULE, _WORDS_BACKGROUND = "#dcdcdc", "#b8b8b8", "#f3f3f3"


@dataclass(frozen=True)
class Picture:
    """A picture of known size, opened when it is drawn, so that only one lies in memory beside the grid.

    Attributes:
        size: its width and height in pixels.
        open: gives the picture. What it raises, `draw_grid` raises.
    """

    size: tuple[int, int]
    open: Callable[[], Image.Image]


Tile = Picture | str | None  # a picture, the words to show in its place, or a place that stays white


@dataclass(frozen=True)
class Row:
    """Pictures side by side, beside a text.

    Attributes:
        label: what the row shows, such as a prompt.
        detail: written fainter below the label, such as `seed 0 · as trained`; it may be empty.
        tiles: one a column.
    """

    label: str
    detail: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Block:
    """Rows below a title of their own, such as the name of a variant, and below the headings of the columns."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Grid:
    """All that is to be drawn.

    Attributes:
        columns: the heading of each column of pictures.
        blocks: from the top down. One without rows shows its title alone.
        notes: lines of text below all blocks, such as `4 of 6 prompts shown`.
        max_side: the width and height in pixels above which a picture is made smaller, as a further note then says.
    """

    columns: tuple[str, ...]
    blocks: tuple[Block, ...]
    notes: tuple[str, ...] = ()
    max_side: int = 512


def draw_grid(grid: Grid) -> bytes:
    """The grid as a PNG without metadata; equal grids give equal bytes.

    Raises:
        ValueError: a row has not one tile a column, or an opened picture is not of the size that it was to have.
    """
    sheet = _lay_out(grid)
    canvas = Image.new("RGB", (sheet.width, sheet.height), "white")
    draw = ImageDraw.Draw(canvas)
    for y in sheet.rules:
        draw.line((_MARGIN, y, sheet.width - _MARGIN - 1, y), fill=_RULE)
    for box, fill in sheet.boxes:
        # The frame lies outside of the picture, whose pixels all stay to be seen.
        draw.rectangle((box.x - 1, box.y - 1, box.x + box.width, box.y + box.height), fill=fill, outline=_FRAME)
    for line in sheet.lines:
        draw.text((line.x, line.y), line.text, font=font_of(line.style), fill=line.style.colour, anchor=line.anchor)
    for box, picture in sheet.pictures:
        canvas.paste(_pixels(picture, box), (box.x, box.y))
    data = io.BytesIO()
    canvas.save(data, format="PNG")
    return data.getvalue()


def grid_size(grid: Grid) -> tuple[int, int]:
    """The width and height in pixels of the grid as it would be drawn. It opens no picture.

    Raises:
        ValueError: a row has not one tile a column.
    """
    sheet = _lay_out(grid)
    return sheet.width, sheet.height


def largest_that_fits(
    grid_of: Callable[[int], Grid], most: int, budget_pixels: int = BUDGET_PIXELS, highest: int = HIGHEST
) -> Grid:
    """The grid of as many things, such as prompts, as fit the budget and a height; of one where not even that fits.

    Args:
        grid_of: the grid of the first so many things, with what it then has to say of those that it leaves out.
        most: how many things there are, at least one.
        budget_pixels: of the whole grid.
        highest: pixels.
    """

    def pixels(count: int) -> int:
        width, height = grid_size(grid_of(count))
        return width * height if height <= highest else budget_pixels + 1

    return grid_of(max(1, bisect_right(range(1, most + 1), budget_pixels, key=pixels)))


@dataclass(frozen=True)
class _Box:
    """A rectangle of the canvas."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class _Line:
    """A line of text, and where on the canvas it is written; the anchor is as Pillow names it."""

    text: str
    style: Style
    x: float
    y: int
    anchor: str = "la"


@dataclass
class _Sheet:
    """What is to be drawn, and where. It is filled from the top down, before there is a canvas."""

    width: int
    height: int = _MARGIN
    lines: list[_Line] = field(default_factory=list)
    boxes: list[tuple[_Box, str]] = field(default_factory=list)  # with the colour of their background
    pictures: list[tuple[_Box, Picture]] = field(default_factory=list)
    rules: list[int] = field(default_factory=list)  # how far down a line is drawn from margin to margin

    def write(self, text: str, style: Style, x: int, y: int, width: int) -> int:
        """Write a text, wrapped to the width, and return where it ends."""
        for line in wrap(text, style, width):
            self.lines.append(_Line(line, style, x, y))
            y += style.line_height
        return y


def _lay_out(grid: Grid) -> _Sheet:
    """Place all that the grid shows."""
    widths = _column_widths(grid)
    xs = [_MARGIN + _TEXT_WIDTH + _GAP + sum(widths[:at]) + _GAP * at for at in range(len(widths))]
    whole = _TEXT_WIDTH + sum(_GAP + width for width in widths)
    sheet = _Sheet(whole + 2 * _MARGIN)
    for at, block in enumerate(grid.blocks):
        if at:
            _rule(sheet)
        sheet.height = sheet.write(block.title, TITLE, _MARGIN, sheet.height, whole)
        if block.rows:
            _place_headings(sheet, grid.columns, xs, widths)
        for row in block.rows:
            _place_row(sheet, row, xs, grid.max_side)
    notes = [*grid.notes, *_note_of_scaled(grid)]
    if notes and grid.blocks:
        _rule(sheet)
    for note in notes:
        sheet.height = sheet.write(note, DETAIL, _MARGIN, sheet.height, whole)
    sheet.height += _MARGIN
    return sheet


def _column_widths(grid: Grid) -> list[int]:
    """How wide each column is: as its widest tile."""
    widths = [_COLUMN_WIDTH] * len(grid.columns)
    for row in (row for block in grid.blocks for row in block.rows):
        if len(row.tiles) != len(widths):
            raise ValueError(f"a row has {len(row.tiles)} tiles for {len(widths)} columns")
        sizes = _tile_sizes(row, grid.max_side)
        widths = [max(width, size[0]) for width, size in zip(widths, sizes, strict=True)]
    return widths


def _tile_sizes(row: Row, max_side: int) -> list[tuple[int, int]]:
    """The width and height of each tile of a row.

    Words have as much room as the row's widest and tallest pictures have, and more where they need it.
    """
    shown = [_shown_size(tile.size, max_side) for tile in row.tiles if isinstance(tile, Picture)]
    width = max([_COLUMN_WIDTH, *(size[0] for size in shown)])
    height = max([0, *(size[1] for size in shown)])
    sizes = []
    for tile in row.tiles:
        if isinstance(tile, Picture):
            sizes.append(_shown_size(tile.size, max_side))
        elif tile is None:
            sizes.append((0, 0))
        else:
            words = len(_wrap_words(tile, width)) * WORDS.line_height + 2 * _PADDING
            sizes.append((width, max(height, words)))
    return sizes


def _wrap_words(words: str, width: int) -> tuple[str, ...]:
    return wrap(words, WORDS, width - 2 * _PADDING)


def _shown_size(size: tuple[int, int], max_side: int) -> tuple[int, int]:
    """The width and height at which a picture of a size is drawn."""
    if max(size) <= max_side:
        return size
    width, height = (max(1, round(side * max_side / max(size))) for side in size)
    return width, height


def _note_of_scaled(grid: Grid) -> list[str]:
    tiles = (tile for block in grid.blocks for row in block.rows for tile in row.tiles)
    if any(isinstance(tile, Picture) and max(tile.size) > grid.max_side for tile in tiles):
        return [f"Pictures wider or taller than {grid.max_side} pixels are scaled down to that."]
    return []


def _rule(sheet: _Sheet) -> None:
    """Draw a line across the sheet below all that is there."""
    sheet.rules.append(sheet.height + _BLOCK_GAP)
    sheet.height += 2 * _BLOCK_GAP


def _place_headings(sheet: _Sheet, columns: Sequence[str], xs: Sequence[int], widths: Sequence[int]) -> None:
    """Place the headings of all columns side by side, their last lines level just above the pictures."""
    heights = [len(wrap(c, HEADING, w)) * HEADING.line_height for c, w in zip(columns, widths, strict=True)]
    bottom = sheet.height + _GAP + max([0, *heights])
    for column, x, width, height in zip(columns, xs, widths, heights, strict=True):
        sheet.write(column, HEADING, x, bottom - height, width)
    sheet.height = bottom


def _place_row(sheet: _Sheet, row: Row, xs: Sequence[int], max_side: int) -> None:
    """Place a row: its text on the left, and its tiles, all from the same height down."""
    top = sheet.height + _GAP
    end = sheet.write(row.label, LABEL, _MARGIN, top, _TEXT_WIDTH)
    ends = [sheet.write(row.detail, DETAIL, _MARGIN, end, _TEXT_WIDTH)]
    for tile, x, (width, height) in zip(row.tiles, xs, _tile_sizes(row, max_side), strict=True):
        box = _Box(x, top, width, height)
        if isinstance(tile, Picture):
            sheet.boxes.append((box, "white"))
            sheet.pictures.append((box, tile))
        elif tile is not None:
            sheet.boxes.append((box, _WORDS_BACKGROUND))
            _place_words(sheet, tile, box)
        ends.append(top + height)
    sheet.height = max(ends)


def _place_words(sheet: _Sheet, words: str, box: _Box) -> None:
    """Place words in the middle of a box."""
    lines = _wrap_words(words, box.width)
    top = box.y + (box.height - len(lines) * WORDS.line_height) // 2
    for at, line in enumerate(lines):
        sheet.lines.append(_Line(line, WORDS, box.x + box.width / 2, top + at * WORDS.line_height, "ma"))


def _pixels(picture: Picture, box: _Box) -> Image.Image:
    """The picture as large as its box, opened."""
    opened = picture.open()
    if opened.size != picture.size:
        raise ValueError(f"a picture is of {opened.size} pixels and was to be of {picture.size}")
    pixels = opened.convert("RGB")
    if pixels.size == (box.width, box.height):
        return pixels
    return pixels.resize((box.width, box.height), Image.Resampling.LANCZOS)
