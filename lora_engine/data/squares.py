"""Prepared squares as files. They are scratch that is read a few times, so they are not compressed."""

from pathlib import Path

from PIL import Image

SUFFIX = ".ppm"
_FORMAT = "PPM"


def write_square(image: Image.Image, path: Path) -> None:
    """Write the pixels and nothing else."""
    image.save(path, _FORMAT)


def read_square(path: Path) -> Image.Image:
    """The RGB image.

    Raises:
        OSError: no file, or no whole one.
    """
    with Image.open(path, formats=(_FORMAT,)) as image:
        return image.convert("RGB")
