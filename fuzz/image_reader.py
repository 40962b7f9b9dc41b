"""Feeds damaged images to the decoder: it may reject them, and its pictures are RGB of the size that it says."""

import sys
import tempfile
from pathlib import Path

from lora_engine.config.data import PreprocessConfig
from lora_engine.images.decode import decode_with_size, upright_size
from lora_engine.images.unread import RejectedImageError
from mutate import fuzz

CONFIG = PreprocessConfig(resolution=64, max_pixels=2**20)


def seeds() -> list[bytes]:
    """The decoder's own test pictures, which have every feature that it knows."""
    folder = Path(__file__).parents[1] / "tests/lora_engine/images/viewers"
    return [path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()]


def read(data: bytes, path: Path) -> str:
    """Decode, and make sure that the header told the size."""
    path.write_bytes(data)
    try:
        image, size = decode_with_size(path, CONFIG)
    except RejectedImageError as error:
        reason = str(error)
    else:
        reason = ""
    assert len(reason) < 200, "a reason is short"
    assert reason.isprintable(), "and one plain line"
    if reason:
        return "rejected"
    assert image.mode == "RGB"
    assert image.size == size == upright_size(path, CONFIG)
    return "read"


def main() -> int:
    """Fuzz the decoder."""
    with tempfile.TemporaryDirectory() as folder:
        return fuzz(lambda data: read(data, Path(folder) / "file"), seeds(), Path("fuzz-crashes/image_reader"))


if __name__ == "__main__":
    sys.exit(main())
