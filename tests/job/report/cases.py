"""Variants and losses that several tests make runs of."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from lora_engine.evaluation.verdicts import Code
from tests.job.report.made_run import BASE, Floats, Losses, Scored, around

A = {"name": "a", "captions": {"strategy": "existing"}}
B = {"name": "b", "captions": {"strategy": "existing", "style_hints": "ink"}}
C = {"name": "c", "captions": {"strategy": "existing", "style_hints": "chalk"}}
SAME_CAPTIONS = {"name": "b", "captions": {"strategy": "existing", "style_hints": ""}}
MIXED = {
    "name": "mixed",
    "captions": {
        "strategy": "mix",
        "caption_dropout": 0.25,
        "parts": [
            {"weight": 2, "captions": {"strategy": "existing"}},
            {"weight": 1, "captions": {"strategy": "constant", "text": "a drawing"}},
        ],
    },
}
DROPPED = {"name": "dropped", "captions": {"strategy": "existing", "caption_dropout": 0.1}}

Levels = Mapping[str, float]
UNTOUCHED: Levels = {"a": 1, "b": 1, "": 1}


@dataclass(frozen=True)
class Case:
    """Levels of the losses of base and adapters, by whose captions are shown, and what must be said of them."""

    a: Levels
    b: Levels
    code: Code
    says: tuple[str, ...]
    winner: str | None = None
    base: Levels = field(default_factory=lambda: UNTOUCHED)
    noise: float = 0.001
    asks_for_images: bool = False

    @property
    def losses(self) -> Losses:
        return around({BASE: self.base, "a": self.a, "b": self.b}, self.noise)


CASES = {
    "lower, however prompted": Case(
        a={"a": 0.70, "b": 0.72, "": 0.74},
        b={"a": 0.80, "b": 0.80, "": 0.82},
        code="lower",
        winner="a",
        says=("a has a lower denoising loss than b, however they are prompted", "% of what training gained"),
    ),
    "lower, but under its rival's captions the rival is": Case(
        a={"a": 0.70, "b": 0.80, "": 0.80},
        b={"a": 0.78, "b": 0.78, "": 0.80},
        code="lower_but_depends",
        winner="a",
        says=(
            "a has a lower denoising loss than b as each was trained, even against b prompted its best",
            "under b's captions b has the lower",
            "without a prompt they cannot be told apart",
        ),
    ),
    "lower, but not told from the rival shown the same captions": Case(
        a={"a": 0.70, "b": 0.72, "": 0.74},
        b={"a": 0.70, "b": 0.80, "": 0.82},
        code="lower_by_captions",
        says=(
            "a has a lower denoising loss than b as each was trained",
            "but by its captions: b is not found to be worse under a's captions.",
        ),
    ),
    "lower than the rival at its best by less than matters": Case(
        a={"a": 0.70, "b": 0.72, "": 0.74},
        b={"a": 0.71, "b": 0.80, "": 0.82},
        code="lower_by_captions",
        says=("but by its captions: b is not found to be worse under a's captions.",),
    ),
    "told apart by less than matters": Case(
        a={"a": 0.700, "b": 0.700, "": 0.700},
        b={"a": 0.705, "b": 0.705, "": 0.705},
        code="different_within_margin",
        says=(
            "a has a lower denoising loss than b, but the difference is too small to matter",
            "within 10% of the gain",
        ),
    ),
    "told apart by less than matters as trained, by more without a prompt": Case(
        a={"a": 0.700, "b": 0.700, "": 0.700},
        b={"a": 0.705, "b": 0.705, "": 0.800},
        code="different_within_margin",
        says=("too small to matter", "without a prompt it may matter"),
    ),
    "equal, however prompted": Case(
        a={"a": 0.70, "b": 0.75, "": 0.80},
        b={"a": 0.70, "b": 0.70, "": 0.80},
        base={"a": 1.5, "b": 1.5, "": 1.5},
        code="equivalent",
        says=("no difference that matters between a and b, however they are prompted",),
    ),
    "equal as trained": Case(
        a={"a": 0.70, "b": 0.80, "": 0.90},
        b={"a": 0.70, "b": 0.70, "": 0.70},
        code="equivalent_as_trained",
        says=("as trained there is no difference that matters", "under b's captions and without a prompt there may be"),
    ),
    "too noisy": Case(
        a={"a": 0.70, "b": 0.70, "": 0.70},
        b={"a": 0.70, "b": 0.70, "": 0.70},
        noise=0.05,
        code="cannot_tell",
        says=(
            "a and b cannot be told apart",
            "more independent held-out images would tell a difference of 10% of the gain",
        ),
        asks_for_images=True,
    ),
    "trained, but no better than the base prompted well": Case(
        a={"a": 1.00, "b": 1.00, "": 1.00},
        b={"a": 1.00, "b": 1.00, "": 1.00},
        base={"a": 1.2, "b": 1.2, "": 1.0},
        code="cannot_tell",
        says=(
            "a and b cannot be told apart",
            "Together they are not found to be better than the untouched base model, prompted well.",
        ),
    ),
    "no better than the base as trained": Case(
        a={"a": 1.00, "b": 1.00, "": 1.00},
        b={"a": 1.00, "b": 1.00, "": 1.00},
        code="nothing_measurable",
        says=("training changed nothing measurable in a or b",),
    ),
}

WHOLE = ["evaluation.timesteps=2", "evaluation.final_timesteps=8"]


def uneven(scored: Scored) -> Floats:
    """Losses of 14 images that have a part of their own at each timestep, and that training lowers."""
    dice = np.random.default_rng(zlib.crc32(repr(scored).encode()))
    hard = np.random.default_rng(1).lognormal(0, 0.3, (14, 8))
    found: Floats = hard * np.exp(0.1 * dice.standard_normal((14, 8)))
    return 0.6 * found if scored.variant else found
