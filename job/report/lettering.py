"""How texts stand in the pictures of a report: in which style, broken into which lines, every letter of them told."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path

from PIL import ImageFont

from lora_engine.text import printable


@dataclass(frozen=True)
class Style:
    """How a text is written.

    Attributes:
        file: of a font that comes with matplotlib. Pillow's own font lacks too many letters.
        size: of the font, in pixels.
        line_height: from one line to the next, in pixels.
        colour: as Pillow reads it.
    """

    file: str
    size: int
    line_height: int
    colour: str


TITLE = Style("DejaVuSans-Bold.ttf", 18, 24, "#111111")
HEADING = Style("DejaVuSans-Bold.ttf", 12, 16, "#444444")
LABEL = Style("DejaVuSans.ttf", 13, 18, "#111111")
DETAIL = Style("DejaVuSans.ttf", 12, 16, "#6a6a6a")
WORDS = Style("DejaVuSans.ttf", 12, 15, "#555555")


@lru_cache(maxsize=1024)  # a grid is laid out several times to find out how much of it fits
def wrap(text: str, style: Style, width: int) -> tuple[str, ...]:
    """The lines that show a text whole, none wider than the width in pixels; none at all where the text is blank.

    They break at spaces, and within a word only if it alone is wider than a line. What does not print, such as a line
    break, is escaped as in a Python string; so is what has no glyph, since boxes would make different texts look alike.
    """
    font, glyphs = font_of(style), _glyphs(style.file)
    lines = [""]
    for word in filter(None, text.split(" ")):
        shown = "".join(printable(c) if ord(c) in glyphs else c.encode("unicode_escape").decode("ascii") for c in word)
        longer = f"{lines[-1]} {shown}".lstrip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.extend(_pieces(shown, font, width))
    return tuple(filter(None, lines))


def _pieces(word: str, font: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    """The word in as few pieces as fit the width. A piece holds at least one letter, however wide that is."""
    while word:
        # No line holds more letters than pixels, so that no longer beginning need be measured.
        lengths = range(1, min(len(word), width) + 1)
        end = max(1, bisect_right(lengths, width, key=lambda length: ceil(font.getlength(word[:length]))))
        yield word[:end]
        word = word[end:]


@lru_cache
def font_of(style: Style) -> ImageFont.FreeTypeFont:
    """The font of a style."""
    return ImageFont.truetype(_path(style.file), style.size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache
def _glyphs(file: str) -> frozenset[int]:
    """The code points that the font has a glyph for."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(_path(file)).get_charmap())


def _path(file: str) -> str:
    import matplotlib as mpl

    return str(Path(mpl.get_data_path(), "fonts", "ttf", file))
