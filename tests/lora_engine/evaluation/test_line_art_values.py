"""Measures of pictures against what can be counted by hand, and formulas written out pixel by pixel."""

import math
from statistics import fmean, pstdev, pvariance

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw

from lora_engine.evaluation.line_art import Measures, distances, measure

Pixels = npt.NDArray[np.uint8]


def paper(side: int, colour: tuple[int, int, int] = (255, 255, 255)) -> Pixels:
    return np.full((side, side, 3), colour, dtype=np.uint8)


def measured(pixels: Pixels) -> Measures:
    return measure(Image.fromarray(pixels))


def noise(side: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def greys(pixels: Pixels) -> list[int]:
    """By the weights of ITU-R 601-2, in Pillow's sixteen bits."""
    return [(19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16 for r, g, b in pixels.reshape(-1, 3).tolist()]


def split(values: list[int]) -> tuple[list[int], list[int]]:
    """Ink and paper at the threshold that parts the two with the most variance between them."""

    def between(threshold: int) -> float:
        low = [v for v in values if v <= threshold]
        high = [v for v in values if v > threshold]
        return len(low) * len(high) * (fmean(low) - fmean(high)) ** 2

    threshold = max(sorted(set(values))[:-1], key=between)
    return [v for v in values if v <= threshold], [v for v in values if v > threshold]


def three_tones(side: int) -> Pixels:
    """Black, grey and white, in stripes of unlike widths."""
    pixels = paper(side)
    pixels[: side // 4], pixels[side // 4 : side // 3] = 0, 100
    return pixels


@pytest.mark.parametrize("pixels", [noise(20), noise(20, seed=1), three_tones(20)], ids=["one", "other", "three tones"])
def test_ink_is_what_otsus_threshold_parts_from_the_paper(pixels: Pixels) -> None:
    found, values = measured(pixels), greys(pixels)
    ink, rest = split(values)
    assert found.ink_coverage == len(ink) / 400
    between = len(ink) * len(rest) / 400**2 * (fmean(ink) - fmean(rest)) ** 2
    assert found.bimodality == pytest.approx(between / pvariance(values))
    assert found.contrast == pytest.approx(2 * pstdev(values) / 255)


@pytest.mark.parametrize("side", [16, 15, 31, 32, 100, 128])
def test_the_border_is_a_sixteenth_of_the_side_wide_and_a_pixel_at_least(side: int) -> None:
    pixels = noise(side)
    width = max(1, side // 16)
    border = [
        min(pixels[y, x].tolist())
        for y in range(side)
        for x in range(side)
        if min(x, y) < width or max(x, y) >= side - width
    ]
    assert measured(pixels).border_whiteness == pytest.approx(fmean(border) / 255)


def test_colour_is_counted_as_hasler_and_suesstrunk_do() -> None:
    pixels = noise(12)
    values = (pixels / 255).reshape(-1, 3).tolist()
    red_green, yellow_blue = [r - g for r, g, _ in values], [0.5 * (r + g) - b for r, g, b in values]
    spread = math.sqrt(pvariance(red_green) + pvariance(yellow_blue))
    mean = math.sqrt(fmean(red_green) ** 2 + fmean(yellow_blue) ** 2)
    assert measured(pixels).colourfulness == pytest.approx(spread + 0.3 * mean)
    # of one colour, only the mean is left
    assert measured(paper(12, (255, 0, 0))).colourfulness == pytest.approx(0.3 * math.hypot(1, 0.5))


@pytest.mark.parametrize(("thick", "distance"), [(1, 1), (3, 2), (5, 3)])
def test_the_stroke_of_a_bar_is_twice_the_distance_of_its_middle_from_the_paper(thick: int, distance: int) -> None:
    pixels = paper(50)
    pixels[20 : 20 + thick] = 0  # from edge to edge, so that the skeleton is the middle row or nearly so
    assert measured(pixels).stroke_width == pytest.approx(2 * distance / 50, rel=0.03)
    narrow = paper(50)
    narrow[20, 10:40] = 0
    assert measured(narrow).stroke_width == 2 / 50


@pytest.mark.parametrize("value", [0, 99, 128, 255])
def test_a_blank_sheet_has_no_ink(value: int) -> None:
    found = measured(paper(16, (value, value, value)))
    assert (found.ink_coverage, found.bimodality, found.stroke_width, found.colourfulness) == (0, 0, 0, 0)
    assert (found.border_whiteness, found.contrast) == (pytest.approx(value / 255), pytest.approx(0))


def test_two_tones_that_are_next_to_each_other_are_ink_and_paper() -> None:
    pixels = paper(16, (100, 100, 100))
    pixels[4:8] = 101
    found = measured(pixels)
    assert (found.ink_coverage, found.bimodality) == (0.75, pytest.approx(1))


def test_what_is_larger_than_128_pixels_is_measured_on_128() -> None:
    large = Image.fromarray(noise(300))
    assert measure(large) == measure(large.resize((128, 128), Image.Resampling.LANCZOS))
    just = Image.fromarray(noise(129))
    assert measure(just) == measure(just.resize((128, 128), Image.Resampling.LANCZOS))
    small = noise(127)
    border = np.ones((127, 127), dtype=bool)
    border[7:-7, 7:-7] = False
    assert measured(small).border_whiteness == pytest.approx(small.min(axis=2)[border].mean() / 255)


def test_pictures_of_other_modes_are_measured_in_colour() -> None:
    pixels = noise(16)
    grey = Image.fromarray(pixels).convert("L")
    assert measure(grey) == measure(grey.convert("RGB"))
    assert measure(grey).colourfulness == 0
    see_through = Image.fromarray(pixels).convert("RGBA")
    assert measure(see_through) == measured(pixels)


def test_distances_are_the_areas_between_the_distributions() -> None:
    def one(*values: float) -> Measures:
        return Measures(*values)

    ours = [one(0.0, 0.1, 0.5, 0.2, 0.1, 0.0), one(1.0, 0.3, 0.5, 0.4, 0.1, 2.0)]
    theirs = [
        one(0.0, 0.2, 0.25, 0.2, 0.4, 0.0),
        one(0.5, 0.4, 0.25, 0.4, 0.4, 0.0),
        one(1.0, 0.6, 0.25, 0.3, 0.4, 0.0),
    ]
    found = distances(iter(ours), theirs)
    assert list(found) == [
        "border_whiteness",
        "ink_coverage",
        "bimodality",
        "contrast",
        "stroke_width",
        "colourfulness",
    ]
    # from each value to the next, times how far apart the shares of those that are not above it are
    assert found["border_whiteness"] == pytest.approx(0.5 / 6 + 0.5 / 6)
    assert found["ink_coverage"] == pytest.approx(0.1 / 2 + 0.1 / 6 + 0.1 * 2 / 3 + 0.2 / 3)
    assert found["bimodality"] == pytest.approx(0.25)
    assert found["contrast"] == pytest.approx(0.1 / 6 + 0.1 / 6)
    assert found["stroke_width"] == pytest.approx(0.3)
    assert found["colourfulness"] == pytest.approx(1.0)


def test_an_empty_set_is_at_no_distance() -> None:
    with pytest.raises((ValueError, IndexError)):
        distances([], [Measures(0, 0, 0, 0, 0, 0)])


def test_of_a_picture_that_is_no_square_the_middle_square_is_measured() -> None:
    """Wide, high, and larger than what is measured on, beside what would change every measure."""
    square = ring(200)
    for size, corner in (((360, 200), (80, 0)), ((200, 260), (0, 30))):
        whole = Image.new("RGB", size, "red")
        whole.paste(square, corner)
        assert measure(whole) == measure(square)


def ring(side: int) -> Image.Image:
    """A black ring on white."""
    picture = Image.new("RGB", (side, side), "white")
    ImageDraw.Draw(picture).ellipse((20, 20, side - 20, side - 20), outline="black", width=9)
    return picture
