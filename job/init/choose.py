"""Decides how to train on what was found. Pure; docs/your-own-images.md tells users these rules."""

import re
from collections import Counter
from dataclasses import dataclass

from job.init.look import Found
from lora_engine.config.data import SplitConfig
from lora_engine.text import shortened

_BATCH = 4  # images at once
_IMAGES_FOR = ((500, 4), (100, 2))  # from so many training images on, so many batches are accumulated to one update
_MOST_EPOCHS = 100  # over the training images, above which `plan` warns that they may be memorised
_STEPS_UNIT = 20  # of which the steps are a multiple, so that a quarter of them and a twentieth are whole numbers
_MANY_STEPS, _EVERY = 500, 100  # from so many steps on, the held-out images are scored every so many
_MOST_WITHOUT_CAPTION = 0.2  # of the pictures, for captions of one's own to be a variant
_LONGEST_TEXT = 200  # characters of a caption that becomes the text of `vanilla`


@dataclass(frozen=True)
class Base:
    """A base model and what suits it."""

    source: str
    revision: str | None
    resolution: int  # pixels a side that it was trained at
    known: bool  # whether that is so, and not a guess
    captioner: str
    clip: str
    learning_rate: str
    most_steps: int
    miniature: bool = False

    @property
    def reduced(self) -> int:
        """The side in pixels at which it still trains well, for small pictures: three quarters of its own."""
        return self.resolution * 3 // 4


_SD15, _SD15_REVISION = "hf://stable-diffusion-v1-5/stable-diffusion-v1-5", "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
_BLIP, _CLIP = "hf://Salesforce/blip-image-captioning-large", "hf://openai/clip-vit-base-patch32"
_SD2_V = re.compile(r"stable-diffusion-2(?!.*base)|(?<!\d)768(?!\d)")  # in the name of a base that predicts v at 768


def base_of(source: str) -> Base:
    """The base model that the source names, as far as its name tells."""
    if source == "miniature://stable-diffusion":
        return Base(source, None, 64, True, "miniature://blip", "miniature://clip", "4.0e-3", 200, miniature=True)
    pinned, at_768 = source == _SD15, bool(_SD2_V.search(source))
    revision = _SD15_REVISION if pinned else None
    return Base(source, revision, 768 if at_768 else 512, pinned or at_768, _BLIP, _CLIP, "1.0e-4", 1000)


def fitting_resolution(found: Found, base: Base) -> int:
    """The base's own resolution, or three quarters of it where most pictures are smaller, which would be enlarged."""
    smaller = sum(side < base.resolution for side in found.short_sides)
    return base.reduced if smaller > len(found.pictures) / 2 and base.reduced >= 64 else base.resolution


@dataclass(frozen=True)
class Study:
    """What the manifest will say, and the figures that it follows from."""

    resolution: int
    train: int  # images, roughly where there are many
    held_out: int
    max_rejected: float | None  # None for the default
    batch_size: int
    accumulation: int
    steps: int
    warmup: int
    every: int
    text: str  # of `vanilla`, and of an image without a caption
    text_of: str  # where the text comes from: "captions" that are all the same, "kohya", or the "name"
    hints: str
    own: bool  # whether captions that came with the pictures are a variant

    @property
    def epochs(self) -> float:
        """How often each training image is seen."""
        return self.steps * self.batch_size * self.accumulation / self.train


def choose(found: Found, base: Base, words: str, resolution: int) -> Study:
    """Decide on a study of what was found.

    Args:
        words: what the pictures are called, in words that any text encoder reads.
    """
    held_out = SplitConfig().expected_held_out(len(found.pictures))
    train, held_out = found.split or (len(found.pictures) - held_out, held_out)
    batch_size = min(_BATCH, train)
    accumulation = next((count for images, count in _IMAGES_FOR if train >= images), 1)
    most = min(base.most_steps, _MOST_EPOCHS * train // (batch_size * accumulation))
    steps = most // _STEPS_UNIT * _STEPS_UNIT
    text, text_of = _text(found, words)
    return Study(
        resolution=resolution,
        train=train,
        held_out=held_out,
        max_rejected=_max_rejected(found.rejected_fraction),
        batch_size=batch_size,
        accumulation=accumulation,
        steps=steps,
        warmup=steps // _STEPS_UNIT,
        every=_EVERY if steps >= _MANY_STEPS and steps % _EVERY == 0 else steps // 4,
        text=text,
        text_of=text_of,
        hints=f"{words} style",
        own=text_of != "captions" and len(found.captions) >= (1 - _MOST_WITHOUT_CAPTION) * len(found.pictures),
    )


def _max_rejected(fraction: float) -> float | None:
    """The share of files that may be unusable, a little more than are; None where the default lets them pass."""
    return None if fraction <= 0.05 else min(1.0, (fraction * 20 // 1 + 1) / 20)


def _text(found: Found, words: str) -> tuple[str, str]:
    """The one text for every picture, and where it comes from."""
    (common, count), *_ = Counter(found.captions.values()).most_common(1) or [("", 0)]
    if count == len(found.pictures) and len(common) <= _LONGEST_TEXT and common.isprintable():
        return common, "captions"
    shown = tuple(found.shown)
    if len(shown) == 1 and len(shown[0]) <= _LONGEST_TEXT and shown[0].isprintable():
        return shown[0], "kohya"
    return f"{words} style", "name"


def mostly_alike(found: Found) -> str | None:
    """What to say of captions most of which are the same; None of others."""
    (common, count), *_ = Counter(found.captions.values()).most_common(1) or [("", 0)]
    if count > 1 and count > len(found.captions) / 2:
        return f'"{shortened(common, 40)}" is the caption of {count} of {len(found.pictures)} pictures'
    return None
