import io
from itertools import combinations

import pytest
from PIL import Image, ImageDraw

from lora_engine import miniature
from lora_engine.images.perceptual_hash import perceptual_hash

DRAWINGS = sorted(miniature.folder("drawings").glob("*.png"))
THRESHOLD = 6  # bits, the default of preprocess.near_duplicate_distance


def bits(a: bytes, b: bytes) -> int:
    return sum((x ^ y).bit_count() for x, y in zip(a, b, strict=True))


def changed(image: Image.Image, quality: int) -> int:
    """Bits that differ once the image was saved again."""
    return bits(perceptual_hash(image), perceptual_hash(saved_again(image, quality)))


def saved_again(image: Image.Image, quality: int) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


def symmetric(kind: str) -> Image.Image:
    image = Image.new("RGB", (384, 384), "white")
    draw = ImageDraw.Draw(image)
    if kind == "circle":
        draw.ellipse((100, 100, 284, 284), outline="black", width=9)
    elif kind == "square":
        draw.rectangle((120, 120, 264, 264), outline="black", width=9)
    elif kind == "cross":
        draw.line((192, 80, 192, 304), fill="black", width=9)
        draw.line((80, 192, 304, 192), fill="black", width=9)
    return image


@pytest.mark.parametrize("kind", ["circle", "square", "cross", "blank"])
@pytest.mark.parametrize("quality", [95, 80, 60])
def test_symmetric_and_blank_pictures_stay_themselves_when_saved_again(kind: str, quality: int) -> None:
    assert changed(symmetric(kind), quality) <= THRESHOLD


def test_drawings_stay_themselves_and_apart() -> None:
    images = [Image.open(path).convert("RGB").resize((384, 384)) for path in DRAWINGS]
    assert max(changed(image, 80) for image in images) <= THRESHOLD
    hashes = [perceptual_hash(image) for image in images]
    assert min(bits(a, b) for a, b in combinations(hashes, 2)) > 5 * THRESHOLD
