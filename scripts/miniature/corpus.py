"""The drawings that the miniature models learn from, with all that can truly be said of each."""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from drawings import COLOURS, SEEDS, Style, colours_of, draw, geometry, with_article
from subjects import SUBJECTS

SIZE = 64  # pixels
HINTS = "clean line tattoo, stencil, high contrast"


@dataclass(frozen=True)
class Said:
    """What a text says of a drawing; None where it is silent."""

    text: str
    subject: str
    colour: str | None = None
    background: str | None = None
    style: Style | None = None


@dataclass(frozen=True)
class Corpus:
    """Drawings of one style."""

    style: Style
    pixels: Tensor  # uint8 [N, 3, SIZE, SIZE]
    subjects: tuple[str, ...]
    colours: tuple[tuple[str, str], ...]

    def images(self, at: Tensor) -> Tensor:
        """Chosen drawings in [-1, 1], fp32 [B, 3, SIZE, SIZE]."""
        return self.pixels[at].float() / 127.5 - 1

    def sayings(self, at: int) -> tuple[Said, ...]:
        """Texts that are true of a drawing; the fullest comes first."""
        subject, (colour, background) = self.subjects[at], self.colours[at]
        if self.style == "line":
            return line_sayings(subject)
        return sticker_sayings(subject, colour, background)


@cache
def line_sayings(subject: str) -> tuple[Said, ...]:
    """Texts for line art of a subject."""
    plain = with_article(subject)
    return (
        Said(plain, subject),
        Said(f"a line drawing of {plain}", subject, style="line"),
        Said(f"{plain}, {HINTS}", subject, style="line"),
        Said(f"{plain}, black and white", subject, style="line"),
    )


@cache
def sticker_sayings(subject: str, colour: str, background: str) -> tuple[Said, ...]:
    """Texts for a coloured sticker of a subject."""
    coloured, around = with_article(f"{colour} {subject}"), f"on {with_article(f'{background} background')}"
    return (
        Said(f"{coloured} {around}", subject, colour, background, "sticker"),
        Said(coloured, subject, colour, None, "sticker"),
        Said(f"{with_article(subject)} {around}", subject, None, background, "sticker"),
        Said(with_article(subject), subject),
    )


def all_texts() -> list[str]:
    """Every text that can be said, and the empty one."""
    texts = [""]
    for subject in SUBJECTS:
        texts += [said.text for said in line_sayings(subject)]
        for colour in COLOURS:
            for background in (*COLOURS, "white"):
                texts += [said.text for said in sticker_sayings(subject, colour, background)]
    return list(dict.fromkeys(texts))


@cache
def corpus(purpose: str, style: Style, count: int, white_every: int = 0) -> Corpus:
    """The first drawings of a purpose's geometry seeds; the subjects take turns.

    With `white_every`, the stickers of every so many-th seed lie on white.
    """
    names, seeds = tuple(SUBJECTS), SEEDS[purpose]
    found = [geometry(names[at % len(names)], seeds[at // len(names)]) for at in range(count)]
    white = [white_every > 0 and drawing.seed % white_every == 0 for drawing in found]
    pixels = np.stack(
        [np.asarray(draw(drawing, style, SIZE, white=blank)) for drawing, blank in zip(found, white, strict=True)]
    )
    return Corpus(
        style,
        torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(),
        tuple(drawing.subject for drawing in found),
        tuple(
            (colours_of(drawing)[0], "white") if blank else colours_of(drawing)
            for drawing, blank in zip(found, white, strict=True)
        ),
    )


def truth(texts: list[Said], others: list[Said]) -> Tensor:
    """Whether each text is true of the drawing that each of `others` says everything about: bool [T, O]."""

    def fits(text: Said, other: Said) -> bool:
        parts = ("subject", "colour", "background", "style")
        return all(getattr(text, part) in (None, getattr(other, part)) for part in parts)

    return torch.tensor([[fits(text, other) for other in others] for text in texts])
