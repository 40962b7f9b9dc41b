"""What is decoded is what an ordinary viewer shows: Chromium, or libvips and others of what Chromium cannot show.

`scripts/viewers` made the files and took the pictures; docs/formats.md says in words what they hold.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_engine.config.data import PreprocessConfig
from lora_engine.images.decode import decode_with_size, upright_size
from lora_engine.images.unread import RejectedImageError

FOLDER = Path(__file__).parent / "viewers"
FILES = sorted(path.name for path in FOLDER.iterdir() if path.is_file())
CONFIG = PreprocessConfig(resolution=64)
REJECTED = {
    "10-bits.bmp": "cannot be decoded: Unsupported BMP bitfields layout",
    "12-bits-white-is-zero.tif": "a TIFF of grey in 12 bits",
    "15-bits-alpha.bmp": "a BMP of 16 bits with alpha",
    "16-grey-alpha.tif": "a TIFF of grey and alpha in 16 bits",
    "16-white-is-zero-big-endian.tif": "a TIFF of grey in 16 bits",
    "32.tif": "its whole-number pixels need more than 16 bits",
    "cicp-hlg.png": r"an HDR image \(HLG\)",
    "cicp-pq.png": r"an HDR image \(PQ\)",
    "colour-16-key.png": "a PNG of 16 bits that declares a colour transparent",
    "float-colour.tif": "a TIFF of floating-point colour in 32 bits",
    "grey-alpha-planar.tif": "a TIFF of grey and alpha in separate planes",
    "hlg.avif": r"an HDR image \(HLG\)",
    "pq.avif": r"an HDR image \(PQ\)",
}


@pytest.mark.parametrize("name", [name for name in FILES if name not in REJECTED])
def test_it_looks_as_in_a_viewer(name: str) -> None:
    decoded, size = decode_with_size(FOLDER / name, CONFIG)
    with Image.open(FOLDER / "shown" / f"{name}.png") as shown:
        expected = np.asarray(shown).astype(int)
    assert decoded.size == size == upright_size(FOLDER / name, CONFIG) == (expected.shape[1], expected.shape[0])
    assert np.abs(np.asarray(decoded) - expected).max() <= 2, "of 255"


@pytest.mark.parametrize("name", REJECTED)
def test_what_would_look_otherwise_is_rejected_by_its_name(name: str) -> None:
    with pytest.raises(RejectedImageError, match=REJECTED[name]) as caught:
        decode_with_size(FOLDER / name, CONFIG)
    assert len(str(caught.value)) < 120


def test_each_file_has_a_picture_or_a_reason_and_a_place_in_the_table() -> None:
    shown = {path.name.removesuffix(".png") for path in (FOLDER / "shown").iterdir()}
    assert shown | REJECTED.keys() == set(FILES)
    assert not shown & REJECTED.keys()
    page = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()
    assert sorted(re.findall(r"`([\w.-]+\.(?:png|jpg|webp|gif|bmp|avif|tif))`", page)) == FILES


def test_they_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 300_000
