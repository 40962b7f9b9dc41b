"""Where a drawing lies on its page: to a part of a pixel, whatever else is on the page."""

import random

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lora_engine.images.figure import find_figure
from tests.lora_engine.images.motifs import framed, saved, speckled, tinted

PLACE = (150, 90, 250, 190)  # of a circle on a page of 400 pixels


def circle(grey: int = 0, page: int = 400) -> Image.Image:
    image = Image.new("RGB", (page, page), "white")
    ImageDraw.Draw(image).ellipse(PLACE, outline=(grey,) * 3, width=3)
    return image


def box(image: Image.Image) -> tuple[float, float, float, float]:
    figure = find_figure(image.convert("L"))
    assert figure is not None
    return figure.box


@pytest.mark.parametrize("grey", [0, 190, 225])
def test_the_box_lies_around_what_is_drawn(grey: int) -> None:
    left, top, right, lower = box(circle(grey))
    reach = 1.9 * 49 / 2**0.5  # a circle's ink has a standard deviation of its radius by the root of two
    assert ((left + right) / 2, (top + lower) / 2) == pytest.approx((200.5, 140.5), abs=0.05)
    assert (right - left, lower - top) == pytest.approx((2 * reach, 2 * reach), abs=1)


@pytest.mark.parametrize("grey", [0, 190])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_box_stays_under_compression_tint_specks_and_frames(grey: int, seed: int) -> None:
    print("seed", seed)
    dice, image = random.Random(seed), circle(grey)
    for made in (saved(image, "JPEG", 60), tinted(image), saved(tinted(image), "JPEG", 80), framed(image)):
        assert box(made) == pytest.approx(box(image), abs=0.75)
    assert box(speckled(image, dice, 10)) == pytest.approx(box(image), abs=2.5)
    noise = np.random.default_rng(seed).normal(0, 2, (400, 400, 1))
    grainy = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    assert box(grainy) == pytest.approx(box(image), abs=1.5)


def test_a_mirror_image_has_the_mirrored_box() -> None:
    left, top, right, lower = box(circle())
    assert box(circle().transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == pytest.approx(
        (400 - right, top, 400 - left, lower), abs=1e-6
    )


def test_the_box_of_what_fills_the_page_is_the_page() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)
    assert box(Image.fromarray(noise)) == (0, 0, 300, 300)


def test_a_large_page_is_reduced_by_a_whole_number() -> None:
    figure = find_figure(circle(page=1400).convert("L"))
    assert figure is not None
    assert figure.page.size == (467, 467)
    assert figure.box == pytest.approx([edge / 3 for edge in box(circle())], abs=0.5)


def test_a_frame_is_taken_off_and_a_page_of_ink_is_none() -> None:
    figure = find_figure(framed(circle()).convert("L"))
    assert figure is not None
    assert figure.page.crop((0, 0, 400, 60)).getextrema() == (255, 255)
    stripes = Image.fromarray(np.tile(np.array([0, 255], dtype=np.uint8).repeat(50), (400, 4)))
    assert box(stripes) == (0, 0, 400, 400)


def test_paper_alone_has_no_figure_but_dust_alone_is_one() -> None:
    assert find_figure(Image.new("L", (200, 200), 240)) is None
    dusty = Image.new("L", (200, 200), 255)
    for place in ((40, 50), (120, 60), (90, 150)):
        dusty.putpixel(place, 0)
    assert find_figure(dusty) is not None
    assert find_figure(Image.new("L", (1, 2), 7)) is None
