"""Miniature models and drawings that come with the package; README.md beside this file is their model card."""

from pathlib import Path

NAMES = ("stable-diffusion", "clip", "blip", "drawings")


def folder(name: str) -> Path:
    """Where one of NAMES lies.

    Raises:
        ValueError: another name.
    """
    if name not in NAMES:
        raise ValueError(f"the package holds no miniature {name!r}; it holds {', '.join(NAMES)}")
    return Path(__file__).parent / name
