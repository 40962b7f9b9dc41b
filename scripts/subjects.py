"""The subjects of the drawings: each a function of dice that gives its shapes, within -0.5..0.5, y downwards."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Point = tuple[float, float]
Fill = Literal["main", "second", "dark"] | None


@dataclass(frozen=True)
class Shape:
    """A line through points, or a filled area within them. A shape covers the shapes before it."""

    points: tuple[Point, ...]
    fill: Fill = None  # None is an open stroke


def _arc(
    cx: float, cy: float, rx: float, ry: float, start: float = 0, end: float = 360, count: int = 32
) -> list[Point]:
    turns = [math.radians(start + (end - start) * i / count) for i in range(count + 1)]
    return [(cx + rx * math.cos(t), cy + ry * math.sin(t)) for t in turns]


def _area(points: Sequence[Point], fill: Fill = "main") -> Shape:
    return Shape(tuple(points), fill)


def _line(*points: Point) -> Shape:
    return Shape(tuple(points))


def _disc(x: float, y: float, radius: float, fill: Fill = "main") -> Shape:
    return _area(_arc(x, y, radius, radius)[:-1], fill)


def _mirrored(points: Sequence[Point]) -> list[Point]:
    """The right half of an outline, downwards, completed by its left half."""
    return [*points, *((-x, y) for x, y in reversed(points))]


def _polar(radius: float, turn: float) -> Point:
    return radius * math.cos(turn), radius * math.sin(turn)


def heart(dice: random.Random) -> list[Shape]:
    wide = dice.uniform(0.024, 0.029)
    turns = [math.tau * i / 60 for i in range(60)]
    outline = [
        (
            wide * 16 * math.sin(t) ** 3,
            -0.027 * (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)),
        )
        for t in turns
    ]
    return [_area(outline)]


def star(dice: random.Random) -> list[Shape]:
    inner = dice.uniform(0.17, 0.23)
    radii = [0.47 if i % 2 == 0 else inner for i in range(10)]
    return [_area([_polar(r, math.pi * i / 5 - math.pi / 2) for i, r in enumerate(radii)])]


def moon(dice: random.Random) -> list[Shape]:
    opening, depth = dice.uniform(50, 65), dice.uniform(0.02, 0.12)
    outer = _arc(0, 0, 0.44, 0.44, opening, 360 - opening)
    x, y = outer[-1]
    return [_area(outer + _arc(x, 0, x + 0.44 - 0.2 - depth, -y, 270, 90)[1:-1])]


def rose(dice: random.Random) -> list[Shape]:
    spin = dice.uniform(0, math.tau)
    bend = dice.choice([-1, 1]) * dice.uniform(0.02, 0.06)
    stem = _line((0, 0.1), (bend, 0.3), (0, 0.48))
    leaf = [(0.01, 0.36), (0.1, 0.24), (0.26, 0.22), (0.16, 0.34)]
    petals = [_disc(*_shifted(_polar(0.15, spin + math.tau * i / 5), -0.16), 0.14) for i in range(5)]
    spiral = _line(*(_shifted(_polar(0.02 + 0.014 * i, spin + 0.75 * i), -0.16) for i in range(12)))
    return [stem, _area(leaf, "second"), *petals, _disc(0, -0.16, 0.16, "second"), spiral]


def _shifted(point: Point, y: float) -> Point:
    return point[0], point[1] + y


def dagger(dice: random.Random) -> list[Shape]:
    half, length = dice.uniform(0.06, 0.1), dice.uniform(0.38, 0.48)
    guard = dice.uniform(0.18, 0.24)
    return [
        _area([(-half, -0.12), (-half, length - 0.15), (0, length), (half, length - 0.15), (half, -0.12)], "second"),
        _line((0, -0.08), (0, length - 0.16)),
        _area([(-0.04, -0.38), (0.04, -0.38), (0.04, -0.14), (-0.04, -0.14)]),
        _area([(-guard, -0.18), (guard, -0.18), (guard, -0.1), (-guard, -0.1)]),
        _disc(0, -0.41, 0.06),
    ]


def anchor(dice: random.Random) -> list[Shape]:
    wide, low = dice.uniform(0.3, 0.38), dice.uniform(0.34, 0.42)
    barbs = [[(s * (wide - 0.15), 0.12), (s * (wide - 0.03), -0.06), (s * (wide + 0.07), 0.12)] for s in (1, -1)]
    return [
        _area([*_arc(0, 0.08, wide, low - 0.04, 5, 175), *_arc(0, 0.08, wide - 0.1, low - 0.15, 175, 5)]),
        *map(_area, barbs),
        _area([(-0.05, -0.3), (0.05, -0.3), (0.05, 0.36), (-0.05, 0.36)]),
        _area([(-0.2, -0.2), (0.2, -0.2), (0.2, -0.11), (-0.2, -0.11)]),
        _disc(0, -0.37, 0.1),
        _disc(0, -0.37, 0.04, "second"),
    ]


def snake(dice: random.Random) -> list[Shape]:
    waves, high, thick = dice.uniform(1.3, 1.8), dice.uniform(0.16, 0.24), dice.uniform(0.055, 0.075)
    spine = [(-0.42 + 0.76 * i / 40, high * math.sin(waves * math.tau * i / 40)) for i in range(41)]
    upper, lower = [], []
    for i, (x, y) in enumerate(spine):
        (xa, ya), (xb, yb) = spine[max(i - 1, 0)], spine[min(i + 1, 40)]
        across = math.hypot(xb - xa, yb - ya)
        w = thick * min(1.0, 0.1 + i / 14)
        upper.append((x - (yb - ya) / across * w, y + (xb - xa) / across * w))
        lower.append((x + (yb - ya) / across * w, y - (xb - xa) / across * w))
    x, y = spine[-1]
    tongue = [_line((x + 0.08, y), (x + 0.15, y)), _line((x + 0.15, y), (x + 0.19, y - 0.04))]
    head = _area(_arc(x + 0.02, y, 0.1, 0.085)[:-1])
    return [_area(upper + lower[::-1]), *tongue, head, _disc(x + 0.03, y - 0.03, 0.022, "dark")]


def moth(dice: random.Random) -> list[Shape]:
    span, low = dice.uniform(0.42, 0.48), dice.uniform(0.3, 0.4)
    upper = [(0.03, -0.08), (span * 0.55, -0.36), (span, -0.34), (span * 0.96, -0.12), (span * 0.6, 0.06), (0.03, 0.06)]
    lower = [(0.03, 0.04), (span * 0.55, 0.06), (span * 0.7, low * 0.6), (span * 0.45, low), (0.1, low * 0.6)]
    wings = [
        _area([(side * x, y) for x, y in wing], fill)
        for wing, fill in ((lower, "second"), (upper, "main"))
        for side in (1, -1)
    ]
    spots = [_disc(side * span * 0.66, -0.16, 0.055, "dark") for side in (1, -1)]
    feelers = [_line((0, -0.2), (side * 0.08, -0.32), (side * 0.18, -0.4)) for side in (1, -1)]
    return [*wings, *spots, *feelers, _area(_arc(0, 0.02, 0.055, 0.24)[:-1], "dark")]


def skull(dice: random.Random) -> list[Shape]:
    wide, jaw = dice.uniform(0.33, 0.4), dice.uniform(0.17, 0.21)
    outline = [*_arc(0, -0.1, wide, 0.34, 150, 390), (jaw, 0.18), (jaw - 0.01, 0.4), (-jaw + 0.01, 0.4), (-jaw, 0.18)]
    teeth = [_line((x, 0.27), (x, 0.38)) for x in (-0.08, 0.0, 0.08)]
    eye = dice.uniform(0.085, 0.11)
    eyes = [_disc(side * 0.15, -0.05, eye, "dark") for side in (1, -1)]
    return [_area(outline), *eyes, _area([(0, 0.08), (0.05, 0.17), (-0.05, 0.17)], "dark"), *teeth]


def sun(dice: random.Random) -> list[Shape]:
    rays = dice.choice([8, 9, 10])
    wedges = []
    for i in range(rays):
        t = math.tau * i / rays
        wedges.append(_area([_polar(0.3, t - 0.2), _polar(0.49, t), _polar(0.3, t + 0.2)], "second"))
    return [*wedges, _disc(0, 0, dice.uniform(0.21, 0.25))]


def fish(dice: random.Random) -> list[Shape]:
    high = dice.uniform(0.18, 0.26)
    body = [*_arc(-0.08, 0, 0.38, high)[:-1]]
    tail = [(0.22, 0), (0.46, -high), (0.4, 0), (0.46, high)]
    fin = [(-0.08, -high + 0.02), (0.04, -high - 0.12), (0.14, -high + 0.05)]
    gill = Shape(tuple(_arc(-0.3, 0, 0.12, high * 0.75, -60, 60, 12)))
    return [_area(tail, "second"), _area(fin, "second"), _area(body), gill, _disc(-0.32, -0.05, 0.035, "dark")]


def key(dice: random.Random) -> list[Shape]:
    ring, teeth = dice.uniform(0.15, 0.18), dice.choice([2, 3])
    bits = [(0.43 - 0.11 * i, dice.uniform(0.15, 0.2)) for i in range(teeth)]
    shaft = _area([(-0.2, -0.04), (0.46, -0.04), (0.46, 0.04), (-0.2, 0.04)])
    cut = [_area([(x - 0.03, 0.0), (x + 0.03, 0.0), (x + 0.03, y), (x - 0.03, y)]) for x, y in bits]
    return [*cut, shaft, _disc(-0.28, 0, ring), _disc(-0.28, 0, ring * 0.5, "second")]


def leaf(dice: random.Random) -> list[Shape]:
    wide = dice.uniform(0.2, 0.28)
    side = [(wide * math.sin(math.pi * (i / 20) ** 0.8), -0.46 + 0.76 * i / 20) for i in range(21)]
    veins = [_line((sign * wide * 0.6, -0.2 + 0.15 * i), (0, -0.08 + 0.15 * i)) for i in range(3) for sign in (1, -1)]
    return [_area(_mirrored(side)), _line((0, -0.34), (0, 0.48)), *veins]


def flower(dice: random.Random) -> list[Shape]:
    petals, far = dice.choice([5, 6]), dice.uniform(0.24, 0.28)
    spin = dice.uniform(0, math.tau)
    round_petals = [_disc(*_polar(far, spin + math.tau * i / petals), 0.17) for i in range(petals)]
    return [*round_petals, _disc(0, 0, 0.14, "second")]


def eye(dice: random.Random) -> list[Shape]:
    high = dice.uniform(0.22, 0.3)
    lid = [(-0.47 + 0.94 * i / 24, -high * math.sin(math.pi * i / 24)) for i in range(25)]
    outline = lid + [(x, -y) for x, y in reversed(lid[1:-1])]
    lashes = [
        _line((0.25 * i, -high * 0.95 + 0.04 * i * i), (0.32 * i, -high - 0.14 + 0.05 * i * i)) for i in (-1, 0, 1)
    ]
    return [*lashes, _area(outline, "second"), _disc(0, 0, high * 0.72), _disc(0, 0, high * 0.34, "dark")]


def crown(dice: random.Random) -> list[Shape]:
    high, low = dice.uniform(0.28, 0.36), 0.28
    points = [(-0.4, low), (-0.46, -high + 0.08), (-0.2, 0.0), (0, -high), (0.2, 0.0), (0.46, -high + 0.08), (0.4, low)]
    balls = [_disc(x, y - 0.04, 0.05, "second") for x, y in (points[1], points[3], points[5])]
    return [_area(points), *balls, _line((-0.38, low - 0.12), (0.38, low - 0.12))]


def arrow(dice: random.Random) -> list[Shape]:
    head, feather = dice.uniform(0.12, 0.17), dice.uniform(0.1, 0.15)
    feathers = [_line((-0.44 + 0.1 * i, side * feather), (-0.34 + 0.1 * i, 0)) for i in range(3) for side in (1, -1)]
    tip = [(0.24, -head), (0.48, 0), (0.24, head)]
    return [_line((-0.36, 0), (0.26, 0)), *feathers, _area(tip)]


def bolt(dice: random.Random) -> list[Shape]:
    lean = dice.uniform(0.0, 0.08)
    points = [(0.08 + lean, -0.48), (-0.24, 0.06), (-0.02, 0.06), (-0.12 - lean, 0.48), (0.26, -0.1), (0.04, -0.1)]
    return [_area([*points, (0.24 + lean, -0.48)])]


def mushroom(dice: random.Random) -> list[Shape]:
    wide, stalk = dice.uniform(0.38, 0.46), dice.uniform(0.1, 0.14)
    cap = _arc(0, 0.0, wide, 0.4, 180, 360)
    dots = [_disc(x * wide, y, 0.06, "second") for x, y in ((-0.5, -0.12), (0.05, -0.26), (0.5, -0.1))]
    stem = [(-stalk, -0.02), (stalk, -0.02), (stalk + 0.04, 0.42), (-stalk - 0.04, 0.42)]
    return [_area(stem, "second"), _area(cap), *dots]


def cup(dice: random.Random) -> list[Shape]:
    wide, low = dice.uniform(0.26, 0.32), dice.uniform(0.28, 0.34)
    handle = [_disc(wide + 0.02, 0.04, 0.16), _disc(wide + 0.02, 0.04, 0.08, "second")]
    steam = [
        _line(*((x + 0.03 * math.sin(9 * y), y) for y in (-0.24, -0.3, -0.36, -0.42, -0.48))) for x in (-0.12, 0.1)
    ]
    bowl = [(-wide, -0.18), (wide, -0.18), (wide - 0.06, low), (-wide + 0.06, low)]
    return [*handle, _area(bowl), *steam]


SUBJECTS: dict[str, Callable[[random.Random], list[Shape]]] = {
    subject.__name__: subject
    for subject in (
        heart, star, moon, rose, dagger, anchor, snake, moth, skull, sun,
        fish, key, leaf, flower, eye, crown, arrow, bolt, mushroom, cup,
    )
}  # fmt: skip
