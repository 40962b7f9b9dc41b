"""Copies of a picture hash alike, and other pictures do not: symmetric, blank, and the shipped drawings."""

from itertools import combinations

import pytest
from PIL import Image

from lora_engine import miniature
from lora_engine.images.perceptual_hash import perceptual_hash
from tests.lora_engine.images.motifs import saved, symmetric

DRAWINGS = sorted(miniature.folder("drawings").glob("*.png"))
THRESHOLD = 6  # bits, the default of preprocess.near_duplicate_distance


def page(image: Image.Image) -> int:
    """The bits that pages are compared by."""
    return int.from_bytes(perceptual_hash(image)[:32])


def changed(image: Image.Image, quality: int) -> int:
    """Bits that differ once the image was saved again."""
    return (page(image) ^ page(saved(image, "JPEG", quality))).bit_count()


@pytest.mark.parametrize("kind", ["circle", "square", "cross", "blank"])
@pytest.mark.parametrize("quality", [95, 80, 60])
def test_symmetric_and_blank_pictures_stay_themselves_when_saved_again(kind: str, quality: int) -> None:
    assert changed(symmetric(kind), quality) <= THRESHOLD // 2


def test_drawings_stay_themselves_and_apart() -> None:
    images = [Image.open(path).convert("RGB").resize((384, 384)) for path in DRAWINGS]
    assert max(changed(image, 80) for image in images) <= THRESHOLD // 3
    pages = [page(image) for image in images]
    assert min((a ^ b).bit_count() for a, b in combinations(pages, 2)) > 5 * THRESHOLD


@pytest.mark.parametrize("colour", ["white", "black", "grey", "red", "#fffef0"])
@pytest.mark.parametrize("size", [(8, 8), (64, 64), (384, 384), (1030, 1030), (300, 200)])
def test_a_uniform_picture_sets_no_bit_whatever_its_colour_and_size(colour: str, size: tuple[int, int]) -> None:
    assert perceptual_hash(Image.new("RGB", size, colour)) == bytes(128)
