"""The hash against SciPy's cosine transform of what Pillow makes of a picture."""

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.fft import dctn

from lora_engine.images.figure import find_figure
from lora_engine.images.perceptual_hash import perceptual_hash


def picture(seed: int, size: tuple[int, int], contrast: int = 255) -> Image.Image:
    """Coloured noise, which has every wave and no two channels alike, around a middle grey."""
    values = np.random.default_rng(seed).integers(0, contrast + 1, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values + np.uint8((255 - contrast) // 2))


def expected(pixels: npt.ArrayLike, least: float) -> bytes:
    waves = dctn(np.asarray(pixels, dtype=np.float64), type=2, norm="ortho")[:16, :16]
    waves[0, 0] = 0
    clear = np.clip(0.25 * np.sqrt((waves**2).mean()), least, 5.0)
    return np.packbits(waves > clear).tobytes() + np.packbits(waves < -clear).tobytes()


@pytest.mark.parametrize("size", [(64, 64), (300, 200), (129, 517), (600, 590)])
@pytest.mark.parametrize("contrast", [255, 60])
@pytest.mark.parametrize("seed", [0, 1])
def test_bits_are_the_waves_that_stand_clear(seed: int, size: tuple[int, int], contrast: int) -> None:
    image = picture(seed, size, contrast)
    grey = image.convert("L")
    found, figure = perceptual_hash(image), find_figure(grey)
    assert found[:64] == expected(grey.resize((64, 64), Image.Resampling.LANCZOS, reducing_gap=2.0), 2.0)
    close = np.zeros((64, 64))
    if figure is not None:
        page = figure.page.convert("F")
        close = np.asarray(page.resize((64, 64), Image.Resampling.LANCZOS, figure.box, reducing_gap=2.0))
    assert found[64:] == expected(close, 0.5)


def test_a_wave_sets_its_own_bit_above_or_below() -> None:
    """A picture of one wave: five times across and three times down, each row of bits a frequency downwards."""
    across = np.cos(np.pi * 5 * (np.arange(64) + 0.5) / 64)
    down = np.cos(np.pi * 3 * (np.arange(64) + 0.5) / 64)
    for sign, place in ((100, 0), (-100, 32)):
        values = 128 + sign * np.outer(down, across)
        found = perceptual_hash(Image.fromarray(values.astype(np.uint8)))[:64]
        bits = np.unpackbits(np.frombuffer(found[place : place + 32], dtype=np.uint8))
        assert np.argwhere(bits.reshape(16, 16)).tolist() == [[3, 5]]
        assert found[32 - place :][:32] == bytes(32)


def test_what_is_fainter_than_the_dead_zone_sets_no_bit_of_the_page() -> None:
    def bits_set(level: int) -> int:
        black = Image.new("L", (64, 64), 0)
        black.putpixel((20, 30), level)
        return int.from_bytes(perceptual_hash(black)[:64]).bit_count()

    # no coefficient of a single pixel is above 2 / 64 of its level
    assert bits_set(0) == bits_set(60) == 0
    assert bits_set(255) > 0
