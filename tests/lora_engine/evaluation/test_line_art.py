import numpy as np
import pytest
from PIL import Image, ImageDraw

from lora_engine.evaluation.line_art import Measures, distances, measure


def rings(width: int, side: int = 128, ink: str = "black", paper: str = "white") -> Image.Image:
    image = Image.new("RGB", (side, side), paper)
    ImageDraw.Draw(image).ellipse((side // 4, side // 4, 3 * side // 4, 3 * side // 4), outline=ink, width=width)
    return image


def test_line_art_is_white_at_the_border_two_toned_and_without_colour() -> None:
    found = measure(rings(6))
    assert found.border_whiteness == 1
    assert found.bimodality == pytest.approx(1, abs=1e-9)
    assert found.colourfulness == 0
    assert found.ink_coverage == pytest.approx(np.pi * (32**2 - 26**2) / 128**2, rel=0.05)
    share = found.ink_coverage
    assert found.contrast == pytest.approx(2 * np.sqrt(share * (1 - share)), abs=1e-9)


@pytest.mark.parametrize("width", [4, 8, 12])
def test_stroke_width_is_that_of_the_pen(width: int) -> None:
    assert measure(rings(width)).stroke_width * 128 == pytest.approx(width, abs=1.5)


def test_colour_shows_in_border_and_colourfulness() -> None:
    found = measure(rings(6, ink="red", paper="blue"))
    assert found.border_whiteness == 0
    blue = np.array([0.0, 0.0, 1.0])
    assert found.colourfulness > 0.3 * np.hypot(blue[0] - blue[1], (blue[0] + blue[1]) / 2 - blue[2]) * 0.9


@pytest.mark.parametrize("colour", ["white", "black", "grey"])
def test_a_blank_sheet_has_measures_too(colour: str) -> None:
    found = measure(Image.new("RGB", (64, 64), colour))
    assert (found.ink_coverage, found.bimodality, found.contrast, found.stroke_width) == (0, 0, 0, 0)


def test_larger_pictures_measure_alike() -> None:
    small, large = measure(rings(6)), measure(rings(24, side=512))
    assert large.stroke_width == pytest.approx(small.stroke_width, abs=0.01)
    assert large.ink_coverage == pytest.approx(small.ink_coverage, abs=0.01)


def test_distances_are_those_between_distributions() -> None:
    def inked(share: float) -> Measures:
        return Measures(1, share, 1, 1, 0.1, 0)

    same = [inked(0.1), inked(0.3)]
    assert set(distances(same, same).values()) == {0}
    found = distances([inked(0.1), inked(0.1)], [inked(0.2), inked(0.4)])
    assert found["ink_coverage"] == pytest.approx(0.2)
    assert sum(found.values()) == pytest.approx(0.2)
