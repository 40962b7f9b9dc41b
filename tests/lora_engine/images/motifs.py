"""Twelve motifs in strokes of a pencil on a large page, and what happens to a picture before it is in a dataset."""

import io
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps

Line = Sequence[tuple[float, float]]
Change = Callable[[Image.Image, random.Random], Image.Image]

_TURN = [2 * math.pi * at / 120 for at in range(121)]


def _polygon(corners: int, *, inner: float = 1.0, turn: float = 0.0) -> list[Line]:
    """A regular polygon in the unit circle, or a star whose inner corners lie nearer to the middle."""
    number = corners if inner == 1 else 2 * corners
    angles = [turn + 2 * math.pi * at / number for at in range(number + 1)]
    radii = [inner if at % 2 else 1.0 for at in range(number + 1)]
    return [[(r * math.cos(angle), r * math.sin(angle)) for r, angle in zip(radii, angles, strict=True)]]


MOTIFS: dict[str, list[Line]] = {
    "circle": [[(math.cos(a), math.sin(a)) for a in _TURN]],
    "square": _polygon(4, turn=math.pi / 4),
    "triangle": _polygon(3, turn=-math.pi / 2),
    "hexagon": _polygon(6),
    "star": _polygon(5, inner=0.4, turn=-math.pi / 2),
    "cross": [[(-1, 0), (1, 0)], [(0, -1), (0, 1)]],
    "x": [[(-1, -1), (1, 1)], [(-1, 1), (1, -1)]],
    "wave": [[(a / math.pi - 1, 0.5 * math.sin(2 * a)) for a in _TURN]],
    "spiral": [[(a / 6.3 * math.cos(3 * a), a / 6.3 * math.sin(3 * a)) for a in _TURN]],
    "heart": [
        [(math.sin(a) ** 3, -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a)) / 17) for a in _TURN]
    ],
    "bowl": [[(math.cos(a / 2), math.sin(a / 2)) for a in _TURN] + [(1, 0)]],
    "arrow": [[(-1, 0), (1, 0)], [(0.6, -0.3), (1, 0), (0.6, 0.3)]],
}


def motif(name: str, dice: random.Random, *, grey: int = 200, size: float = 0.4, page: int = 1000) -> Image.Image:
    """The motif in strokes of a thousandth of the page, around its middle, of a size and grey about as asked for.

    Args:
        size: of the page's side.
    """
    drawn = Image.new("L", (page, page), 255)
    half = page * size / 2 * dice.uniform(0.95, 1.05)
    x, y = (page * dice.uniform(0.48, 0.52) for _ in "xy")
    for line in MOTIFS[name]:
        points = [(x + half * across, y + half * down) for across, down in line]
        ImageDraw.Draw(drawn).line(points, fill=grey + dice.randint(-5, 5), width=max(1, page // 1000), joint="curve")
    return drawn.convert("RGB")


def symmetric(kind: str) -> Image.Image:
    """A bold circle, square or cross, or a blank page."""
    image = Image.new("RGB", (384, 384), "white")
    pen = ImageDraw.Draw(image)
    if kind == "circle":
        pen.ellipse((100, 100, 284, 284), outline="black", width=9)
    elif kind == "square":
        pen.rectangle((120, 120, 264, 264), outline="black", width=9)
    elif kind == "cross":
        pen.line((192, 80, 192, 304), fill="black", width=9)
        pen.line((80, 192, 304, 192), fill="black", width=9)
    return image


def saved(image: Image.Image, kind: str, quality: int) -> Image.Image:
    """The picture as a file of that kind has it."""
    data = io.BytesIO()
    image.save(data, kind, quality=quality)
    return Image.open(data).convert("RGB")


def scaled(image: Image.Image, factor: float) -> Image.Image:
    """The picture in another size."""
    return image.resize((round(factor * image.width), round(factor * image.height)), Image.Resampling.LANCZOS)


def tinted(image: Image.Image) -> Image.Image:
    """The picture on yellowish paper."""
    paper = np.array([250, 243, 230]) / 255
    return Image.fromarray((np.asarray(image) * paper).round().astype(np.uint8))


def speckled(image: Image.Image, dice: random.Random, count: int = 20) -> Image.Image:
    """The picture with a scanner's dark specks."""
    image = image.copy()
    for _ in range(count):
        x, y = dice.uniform(0, image.width), dice.uniform(0, image.height)
        reach = image.width / 2000 * dice.uniform(0.5, 1.5)
        ImageDraw.Draw(image).ellipse((x - reach, y - reach, x + reach, y + reach), fill=(90, 90, 90))
    return image


def framed(image: Image.Image, inset: float = 0.01) -> Image.Image:
    """The picture with a thin black line around, a part of the side from the edge."""
    image = image.copy()
    left, right = round(inset * image.width), image.width - 1 - round(inset * image.width)
    ImageDraw.Draw(image).rectangle((left, left, right, right), outline="black", width=max(1, image.width // 400))
    return image


def bordered(image: Image.Image) -> Image.Image:
    """The picture with a thin black border that makes it larger."""
    return ImageOps.expand(image, max(1, image.width // 200), fill="black")


def mirrored(image: Image.Image) -> Image.Image:
    """The picture as a mirror shows it."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


COPIES: dict[str, Change] = {
    "JPEG 95": lambda image, _: saved(image, "JPEG", 95),
    "JPEG 60": lambda image, _: saved(image, "JPEG", 60),
    "WebP 80": lambda image, _: saved(image, "WEBP", 80),
    "half the size": lambda image, _: scaled(image, 0.5),
    "smaller, JPEG 80": lambda image, _: saved(scaled(image, 0.7), "JPEG", 80),
    "mirrored": lambda image, _: mirrored(image),
    "mirrored, JPEG 80": lambda image, _: saved(mirrored(image), "JPEG", 80),
    "tinted paper": lambda image, _: tinted(image),
    "tinted paper, JPEG 80": lambda image, _: saved(tinted(image), "JPEG", 80),
    "specks": speckled,
    "a line around": lambda image, _: framed(image),
    "a black border": lambda image, _: bordered(image),
}
