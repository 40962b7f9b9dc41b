"""The settings of how image files become training images, and which of them are held out."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from lora_engine.config.base import Config

NAMED_BACKGROUNDS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128)}


def _colour(value: str) -> str:
    if value not in NAMED_BACKGROUNDS and not re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        raise ValueError(f"must be one of {', '.join(NAMED_BACKGROUNDS)} or #rrggbb")
    return value


class PreprocessConfig(Config):
    """Decode, orient, composite, crop and resize."""

    resolution: int = Field(default=384, ge=64, le=2048, multiple_of=8, description="Side of the square, in pixels.")
    crop: Literal["center"] = "center"
    background: Annotated[str, AfterValidator(_colour)] = Field(
        default="white", description="Under transparent pixels: white, black, grey or #rrggbb."
    )
    deduplicate: Literal["exact", "none"] = Field(
        default="exact", description="`exact` keeps one of the files that hold the same bytes."
    )
    near_duplicate_distance: int = Field(
        default=6,
        ge=0,
        le=32,
        description="Images whose perceptual hashes, of the page or of what is drawn on it, differ in at most so many "
        "of 256 bits form a group, mirrored or not, and a group is never split between training and validation.",
    )
    max_pixels: int = Field(
        default=100_000_000, ge=4096, le=1_000_000_000, description="A larger image is rejected unread."
    )
    max_rejected_fraction: float = Field(default=0.05, ge=0, le=1)

    @property
    def background_rgb(self) -> tuple[int, int, int]:
        """The background as 8-bit red, green and blue."""
        if self.background in NAMED_BACKGROUNDS:
            return NAMED_BACKGROUNDS[self.background]
        value = int(self.background[1:], 16)
        return value >> 16, value >> 8 & 255, value & 255


class SplitConfig(Config):
    """How many groups of near-duplicate images are held out. Which ones is a function of their names alone."""

    validation_fraction: float = Field(default=0.05, gt=0, lt=0.5)
    validation_min: int = Field(
        default=16,
        ge=1,
        description="Images to hold out at least; small sets fill up by the smallest hashes, to a quarter at most.",
    )

    def expected_held_out(self, images: int) -> int:
        """How many of so many images are held out, roughly, since hashes of the images decide."""
        return max(round(images * self.validation_fraction), min(self.validation_min, images // 4))
