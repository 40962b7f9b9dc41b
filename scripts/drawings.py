"""Draws tattoo-flash subjects, each in two styles from one geometry: coloured sticker and line art.

Usage: drawings.py OUT [-n 120] [--size 128] [--style line] [--purpose lora]
writes PNG files with their captions beside them. A drawing is a function of (subject, geometry seed, style, size).
The seeds that the miniature models learn from, those of the shipped line drawings and those that figures are measured
on are disjoint: see SEEDS.
"""

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

from PIL import Image, ImageDraw

from subjects import SUBJECTS, Point, Shape

Style = Literal["sticker", "line"]

# Geometry seeds by purpose.
SEEDS = {"base": range(100_000), "lora": range(100_000, 200_000), "validation": range(200_000, 300_000)}

COLOURS = {
    "red": (215, 45, 45),
    "orange": (240, 140, 40),
    "yellow": (245, 215, 70),
    "green": (60, 160, 75),
    "blue": (50, 95, 205),
    "purple": (135, 65, 175),
    "pink": (240, 145, 185),
    "brown": (130, 85, 50),
}
_INK = (0, 0, 0)
_PAPER = (255, 255, 255)
_OVERSAMPLING = 4  # drawn larger, then reduced, for smooth edges


@dataclass(frozen=True)
class Geometry:
    """What both styles of a drawing have in common: shapes in the unit square around (0.5, 0.5), y downwards."""

    subject: str
    seed: int
    shapes: tuple[Shape, ...]


def geometry(subject: str, seed: int) -> Geometry:
    """The subject's shapes in a pose of their own."""
    dice = random.Random(f"geometry/{subject}/{seed}")
    shapes = SUBJECTS[subject](dice)
    angle, zoom = dice.uniform(-0.3, 0.3), dice.uniform(0.72, 0.92)
    shift = dice.uniform(-0.05, 0.05), dice.uniform(-0.05, 0.05)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)

    def placed(point: Point) -> Point:
        x, y = point
        return 0.5 + shift[0] + x * cos - y * sin, 0.5 + shift[1] + x * sin + y * cos

    return Geometry(subject, seed, tuple(Shape(tuple(map(placed, s.points)), s.fill) for s in shapes))


def colours_of(drawing: Geometry) -> tuple[str, str]:
    """The names of a sticker's own colour and of its background's, which differ."""
    first, second = random.Random(f"colours/{drawing.subject}/{drawing.seed}").sample(list(COLOURS), 2)
    return first, second


def caption(drawing: Geometry, style: Style) -> str:
    """The true caption: a sticker's names its colours."""
    if style == "line":
        return with_article(drawing.subject)
    colour, background = colours_of(drawing)
    return f"{with_article(f'{colour} {drawing.subject}')} on {with_article(f'{background} background')}"


def with_article(noun: str) -> str:
    """The noun after `a` or `an`."""
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"


def draw(drawing: Geometry, style: Style, size: int, *, white: bool = False) -> Image.Image:
    """The drawing in one style, as an RGB image of size x size pixels; a sticker may lie on white instead."""
    side = size * _OVERSAMPLING
    image = _sticker(drawing, side, white=white) if style == "sticker" else _line_art(drawing, side)
    return image.resize((size, size), Image.Resampling.LANCZOS)


def _sticker(drawing: Geometry, side: int, *, white: bool) -> Image.Image:
    colour, background = (COLOURS[name] for name in colours_of(drawing))
    background = _PAPER if white else background
    paints = {"main": colour, "second": _mixed(colour, _PAPER, 0.4), "dark": _mixed(colour, _INK, 0.65)}
    image = Image.new("RGB", (side, side), background)
    canvas = ImageDraw.Draw(image)
    edge = _mixed(colour, _INK, 0.35)
    for shape in drawing.shapes:
        points = [(x * side, y * side) for x, y in shape.points]
        if shape.fill is None:
            _stroke(canvas, points, [0.045 * side] * len(points), edge)
        else:
            canvas.polygon(points, fill=paints[shape.fill])
            _stroke(canvas, [*points, points[0]], [0.012 * side] * (len(points) + 1), edge)
    return image


def _line_art(drawing: Geometry, side: int) -> Image.Image:
    dice = random.Random(f"hand/{drawing.subject}/{drawing.seed}")
    image = Image.new("RGB", (side, side), _PAPER)
    canvas = ImageDraw.Draw(image)
    width = dice.uniform(0.022, 0.042) * side
    for shape in drawing.shapes:
        points = _wobbled(_dense(shape.points, closed=shape.fill is not None), dice)
        points = [(x * side, y * side) for x, y in points]
        if shape.fill is not None:
            canvas.polygon(points, fill=_INK if shape.fill == "dark" else _PAPER)
        _stroke(canvas, points, _pressure(len(points), width, dice), _INK)
    return image


def _stroke(
    canvas: ImageDraw.ImageDraw, points: Sequence[Point], widths: Sequence[float], colour: tuple[int, ...]
) -> None:
    """A line of round brush prints, each as wide as given, joined by straight pieces."""
    for (x0, y0), (x1, y1), width in zip(points, points[1:], widths, strict=False):
        canvas.line((x0, y0, x1, y1), fill=colour, width=max(1, round(width)))
    for (x, y), width in zip(points, widths, strict=True):
        r = width / 2 - 0.5
        canvas.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _dense(points: Sequence[Point], *, closed: bool) -> list[Point]:
    """The same line with a point at least every 0.02, so that it can wobble between its corners."""
    corners = [*points, points[0]] if closed else list(points)
    result = [corners[0]]
    for (x0, y0), (x1, y1) in pairwise(corners):
        pieces = max(1, math.ceil(math.hypot(x1 - x0, y1 - y0) / 0.02))
        result += [(x0 + (x1 - x0) * i / pieces, y0 + (y1 - y0) * i / pieces) for i in range(1, pieces + 1)]
    return result


def _wobbled(points: Sequence[Point], dice: random.Random) -> list[Point]:
    """Each point moved by a slow wave, as a hand does."""
    high = dice.uniform(0.002, 0.007)
    waves = [(dice.uniform(0.15, 0.5), dice.uniform(0, math.tau)) for _ in range(2)]
    (fx, px), (fy, py) = waves
    return [(x + high * math.sin(fx * i + px), y + high * math.sin(fy * i + py)) for i, (x, y) in enumerate(points)]


def _pressure(count: int, width: float, dice: random.Random) -> list[float]:
    """A stroke's width along its way: it swells and thins by up to a fifth."""
    speed, phase = dice.uniform(0.05, 0.2), dice.uniform(0, math.tau)
    return [width * (1 + 0.2 * math.sin(speed * i + phase)) for i in range(count)]


def _mixed(colour: tuple[int, ...], other: tuple[int, ...], share: float) -> tuple[int, ...]:
    return tuple(round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))


def write_drawings(folder: Path, count: int, size: int, style: Style, purpose: str) -> None:
    """Write the first drawings of a purpose's geometry seeds, the subjects taking turns: PNG and caption."""
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(SUBJECTS)
    for at in range(count):
        drawing = geometry(names[at % len(names)], SEEDS[purpose][at // len(names)])
        path = folder / f"{drawing.subject}-{drawing.seed}.png"
        picture = draw(drawing, style, size)
        (picture.convert("L") if style == "line" else picture).save(path, optimize=True)
        path.with_suffix(".txt").write_text(f"{caption(drawing, style)}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("-n", type=int, default=120)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--style", choices=get_args(Style), default="line")
    parser.add_argument("--purpose", choices=tuple(SEEDS), default="lora")
    options = parser.parse_args()
    write_drawings(options.out, options.n, options.size, options.style, options.purpose)


if __name__ == "__main__":
    main()
