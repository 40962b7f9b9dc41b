"""Draw seeded tattoo-like line drawings with captions. Usage: make_drawings.py OUT [-n 48] [--size 128] [--seed 0]"""

import argparse
import math
import random
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageDraw

Point = tuple[float, float]
_SCALE = 4  # drawn larger, then reduced, for smooth strokes


class Pen:
    """Draws strokes in a unit square that is turned, shifted and shaken a little."""

    def __init__(self, size: int, dice: random.Random) -> None:
        self.dice = dice
        self.image = Image.new("L", (size * _SCALE, size * _SCALE), 255)
        self._draw = ImageDraw.Draw(self.image)
        self._side = size * _SCALE
        self._width = dice.uniform(0.018, 0.04) * self._side
        self._angle, self._zoom = dice.uniform(-0.35, 0.35), dice.uniform(0.62, 0.9)
        self._shift = (dice.uniform(-0.07, 0.07), dice.uniform(-0.07, 0.07))

    def stroke(self, points: list[Point], closed: bool = False) -> None:
        placed = [self._place(point) for point in (points + points[:2] if closed else points)]
        self._draw.line(placed, fill=0, width=round(self._width), joint="curve")
        radius = self._width / 2 - 1
        for x, y in placed:
            self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=0)

    def dot(self, x: float, y: float, radius: float) -> None:
        cx, cy = self._place((x, y))
        r = radius * self._zoom * self._side
        self._draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=0)

    def _place(self, point: Point) -> Point:
        x = (point[0] + self.dice.uniform(-0.006, 0.006)) * self._zoom
        y = (point[1] + self.dice.uniform(-0.006, 0.006)) * self._zoom
        cos, sin = math.cos(self._angle), math.sin(self._angle)
        centre = self._side / 2
        return (
            centre + (x * cos - y * sin + self._shift[0]) * self._side,
            centre + (x * sin + y * cos + self._shift[1]) * self._side,
        )


def arc(cx: float, cy: float, rx: float, ry: float, start: float, end: float, count: int = 40) -> list[Point]:
    turns = [math.radians(start + (end - start) * i / count) for i in range(count + 1)]
    return [(cx + rx * math.cos(t), cy + ry * math.sin(t)) for t in turns]


def heart(pen: Pen) -> None:
    wide = pen.dice.uniform(0.8, 1.1)
    turns = [2 * math.pi * i / 60 for i in range(60)]
    pen.stroke(
        [
            (
                wide * 0.025 * 16 * math.sin(t) ** 3,
                -0.025 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)),
            )
            for t in turns
        ],
        closed=True,
    )


def star(pen: Pen) -> None:
    spikes, inner = pen.dice.choice([5, 5, 6, 8]), pen.dice.uniform(0.16, 0.25)
    turns = [math.pi * i / spikes - math.pi / 2 for i in range(2 * spikes)]
    radii = [0.45 if i % 2 == 0 else inner for i in range(2 * spikes)]
    pen.stroke([(r * math.cos(t), r * math.sin(t)) for r, t in zip(radii, turns, strict=True)], closed=True)


def moon(pen: Pen) -> None:
    depth = pen.dice.uniform(0.15, 0.3)
    pen.stroke(arc(0, 0, 0.42, 0.42, 60, 300))
    pen.stroke(arc(depth, 0, 0.42 - depth * 0.55, 0.364, 78, 282))


def dagger(pen: Pen) -> None:
    half, length = pen.dice.uniform(0.05, 0.09), pen.dice.uniform(0.3, 0.45)
    pen.stroke([(-half, -0.1), (0, length), (half, -0.1)], closed=True)
    pen.stroke([(-0.2, -0.1), (0.2, -0.1)])
    pen.stroke([(0, -0.12), (0, -0.36)])
    pen.stroke(arc(0, -0.41, 0.05, 0.05, 0, 360, 16))


def anchor(pen: Pen) -> None:
    wide = pen.dice.uniform(0.28, 0.38)
    pen.stroke(arc(0, -0.36, 0.07, 0.07, 0, 360, 20))
    pen.stroke([(0, -0.29), (0, 0.4)])
    pen.stroke([(-0.18, -0.2), (0.18, -0.2)])
    pen.stroke(arc(0, 0.08, wide, 0.33, 0, 180))


def snake(pen: Pen) -> None:
    waves, high = pen.dice.uniform(1.5, 2.6), pen.dice.uniform(0.12, 0.25)
    pen.stroke([(-0.42 + 0.84 * i / 60, high * math.sin(waves * 2 * math.pi * i / 60)) for i in range(61)])
    end = high * math.sin(waves * 2 * math.pi)
    pen.dot(0.43, end, 0.05)
    pen.stroke([(0.45, end), (0.5, end - 0.03)])
    pen.stroke([(0.45, end), (0.5, end + 0.03)])


def flower(pen: Pen) -> None:
    petals = pen.dice.choice([5, 6, 7, 8])
    for i in range(petals):
        t = 2 * math.pi * i / petals
        pen.stroke(arc(0.2 * math.cos(t), -0.12 + 0.2 * math.sin(t), 0.11, 0.11, 0, 360, 20))
    pen.dot(0, -0.12, 0.07)
    pen.stroke([(0, 0.15), (0.03, 0.3), (0, 0.46)])


def skull(pen: Pen) -> None:
    wide = pen.dice.uniform(0.3, 0.38)
    pen.stroke(arc(0, -0.1, wide, 0.32, 140, 400))
    pen.stroke([(-wide * 0.72, 0.1), (-0.18, 0.2), (-0.17, 0.36), (0.17, 0.36), (0.18, 0.2), (wide * 0.72, 0.1)])
    pen.dot(-0.13, -0.05, 0.08)
    pen.dot(0.13, -0.05, 0.08)
    for x in (-0.08, 0.0, 0.08):
        pen.stroke([(x, 0.26), (x, 0.36)])


def sun(pen: Pen) -> None:
    rays = pen.dice.choice([8, 10, 12])
    pen.stroke(arc(0, 0, 0.2, 0.2, 0, 360))
    for i in range(rays):
        t = 2 * math.pi * i / rays
        pen.stroke([(0.27 * math.cos(t), 0.27 * math.sin(t)), (0.44 * math.cos(t), 0.44 * math.sin(t))])


def fish(pen: Pen) -> None:
    high = pen.dice.uniform(0.15, 0.25)
    pen.stroke(arc(-0.05, 0, 0.33, high, 20, 340))
    pen.stroke([(0.26, high * 0.34), (0.45, high), (0.45, -high), (0.26, -high * 0.34)])
    pen.dot(-0.24, -0.04, 0.025)


def key(pen: Pen) -> None:
    teeth = pen.dice.choice([2, 3])
    pen.stroke(arc(-0.28, 0, 0.15, 0.15, 0, 360, 24))
    pen.stroke([(-0.13, 0), (0.44, 0)])
    for i in range(teeth):
        pen.stroke([(0.42 - 0.1 * i, 0), (0.42 - 0.1 * i, pen.dice.uniform(0.1, 0.16))])


def leaf(pen: Pen) -> None:
    wide = pen.dice.uniform(0.15, 0.25)
    side = [(wide * math.sin(math.pi * i / 20), -0.42 + 0.7 * i / 20) for i in range(21)]
    pen.stroke(side + [(-x, y) for x, y in reversed(side)])
    pen.stroke([(0, -0.3), (0, 0.46)])
    for i in range(3):
        pen.stroke([(-wide * 0.6, -0.22 + 0.15 * i), (0, -0.12 + 0.15 * i), (wide * 0.6, -0.22 + 0.15 * i)])


SUBJECTS: tuple[Callable[[Pen], None], ...] = (
    heart, star, moon, dagger, anchor, snake, flower, skull, sun, fish, key, leaf,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("-n", type=int, default=48)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for at in range(options.n):
        subject = SUBJECTS[at % len(SUBJECTS)]
        pen = Pen(options.size, random.Random(f"{options.seed}/{at}"))
        subject(pen)
        name = f"{subject.__name__}-{at // len(SUBJECTS):02d}"
        pen.image.resize((options.size, options.size), Image.Resampling.LANCZOS).save(
            options.out / f"{name}.png", optimize=True
        )
        (options.out / f"{name}.txt").write_text(f"a line drawing of a {subject.__name__}\n")


if __name__ == "__main__":
    main()
