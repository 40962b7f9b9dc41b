"""The hash against SciPy's cosine transform of what Pillow makes of a picture."""

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from lora_engine.images.perceptual_hash import perceptual_hash


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """Coloured noise, which has every wave and no two channels alike."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def expected(image: Image.Image) -> bytes:
    grey = image.convert("L").resize((64, 64), Image.Resampling.LANCZOS, reducing_gap=2.0)
    waves = dctn(np.asarray(grey, dtype=np.float64), type=2, norm="ortho")[:16, :16]
    return np.packbits(waves > np.median(waves) + 5.0).tobytes()


@pytest.mark.parametrize("size", [(64, 64), (300, 200), (129, 517)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bits_are_the_waves_that_stand_above_the_median(seed: int, size: tuple[int, int]) -> None:
    image = picture(seed, size)
    assert perceptual_hash(image) == expected(image)


def test_a_wave_sets_its_own_bit() -> None:
    """A picture of one wave: five times across and three times down, each row of bits a frequency downwards."""
    across = np.cos(np.pi * 5 * (np.arange(64) + 0.5) / 64)
    down = np.cos(np.pi * 3 * (np.arange(64) + 0.5) / 64)
    values = 128 + 100 * np.outer(down, across)
    bits = np.unpackbits(np.frombuffer(perceptual_hash(Image.fromarray(values.astype(np.uint8))), dtype=np.uint8))
    assert np.argwhere(bits.reshape(16, 16)).tolist() == [[0, 0], [3, 5]]


def test_what_is_fainter_than_the_dead_zone_sets_no_bit() -> None:
    def bits_set(image: Image.Image) -> int:
        return int.from_bytes(perceptual_hash(image)).bit_count()

    # no coefficient of a single pixel is above 2 / 64 of its level, and that of a plain picture is 64 times its level
    black = Image.new("L", (64, 64), 0)
    assert bits_set(black) == 0
    black.putpixel((20, 30), 150)  # 4.7
    assert bits_set(black) == 0
    black.putpixel((20, 30), 255)  # 8.0
    assert bits_set(black) > 0
    assert bits_set(Image.new("L", (64, 64), 1)) == 1
