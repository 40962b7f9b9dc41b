"""When and how adapters are scored and compared, and which samples they generate."""

from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, Literal

from pydantic import Field

from lora_engine.config.base import Config


class SamplesConfig(Config):
    """Images generated from fixed prompts and seeds, measured for likeness to the training images."""

    prompts: tuple[Annotated[str, Field(max_length=2000)], ...] = Field(min_length=1, max_length=64)
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(default=(0,), min_length=1, max_length=16)
    steps: int = Field(default=25, ge=1, le=1000)
    guidance: float = Field(default=7.5, ge=0, le=50)
    negative_prompt: str = Field(default="", max_length=2000)
    when: Literal["evaluations", "end"] = Field(
        default="evaluations", description="With the base model and every checkpoint, or with the last one alone."
    )


Pairs = Literal["all", "with_first"] | tuple[tuple[str, str], ...]

_MOST_FOR_ALL_PAIRS = 8  # variants; with more, the work to compare each with each grows beyond a quarter of training


class EvaluationConfig(Config):
    """When and how finely the held-out images are scored, and which variants are compared."""

    every: int = Field(default=100, ge=1, description="Optimizer updates between evaluations, each with a checkpoint.")
    timesteps: int = Field(default=4, ge=1, le=1000, description="Strata per image on the curve.")
    final_timesteps: int = Field(
        default=16, ge=1, le=1000, description="Strata per image at step 0 and at the end, for losses as trained."
    )
    batch_size: int = Field(
        default=8, ge=1, le=1024, description="Images, each at one timestep, that are scored at once, per adapter."
    )
    pairs: Pairs | None = Field(
        default=None,
        description="Which variants are compared: `all` with all, `with_first` each with the first one, or those of a "
        f"list [[a, b], ...]. Default: all of up to {_MOST_FOR_ALL_PAIRS} variants, with_first of more.",
    )
    equivalence_margin: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="The largest difference that does not matter, as a share of what training gained over the base.",
    )
    samples: SamplesConfig | None = None


def compared_pairs(pairs: Pairs | None, variants: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The pairs of variants that a study compares, as its `evaluation.pairs` says."""
    if isinstance(pairs, tuple):
        return pairs
    if pairs == "with_first" or (pairs is None and len(variants) > _MOST_FOR_ALL_PAIRS):
        return tuple((variants[0], other) for other in variants[1:])
    return tuple(combinations(variants, 2))


def partners_of(variant: str, pairs: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The variants that a variant is compared with."""
    return tuple(pair[1 - pair.index(variant)] for pair in pairs if variant in pair)
