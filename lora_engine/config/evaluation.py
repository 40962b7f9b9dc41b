"""When and how adapters are scored and compared, and which samples they generate."""

from collections.abc import Sequence
from itertools import combinations
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from lora_engine.config.base import Config

Text = Annotated[str, Field(max_length=2000)]
_Side = Annotated[int, Field(ge=64, le=2048, multiple_of=8)]
Size = _Side | tuple[_Side, _Side]  # pixels: of a square's side, or width and height
Guidance = Annotated[float, Field(ge=0, le=50)]
Strength = Annotated[float, Field(ge=-4, le=4)]
SamplerName = Literal["ddim", "pndm", "lms", "euler", "euler_a", "heun", "dpm++_2m", "dpm++_2m_karras", "unipc"]

MOST_PROMPTS, MOST_SEEDS = 256, 64


class PromptConfig(Config):
    """A prompt with settings of its own; those that are left out are the samples'."""

    prompt: Text
    negative: Text | None = Field(default=None, description="Negative prompt.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = Field(default=None, description="The only seed of this one.")
    size: Size | None = Field(default=None, description="Pixels: a square's side, or [width, height].")
    steps: Annotated[int, Field(ge=1, le=1000)] | None = Field(default=None, description="Denoising steps.")
    guidance: Guidance | None = None
    strength: Strength | None = Field(default=None, description="Of the adapter.")


class SamplesConfig(Config):
    """Images generated from fixed prompts and seeds, bare and prompted as each adapter was trained, and measured."""

    prompts: tuple[Text | PromptConfig, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MOST_PROMPTS,
        description="A text, or a mapping with settings of its own. Default: captions of held-out images, at least "
        "24 pictures a variant at the end and 4 on the way, each prompt with seeds of its own.",
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(
        default=(0,), min_length=1, max_length=MOST_SEEDS, description="Of every prompt."
    )
    size: Size | None = Field(
        default=None, description="Pixels: a square's side, or [width, height]. Default: preprocess.resolution."
    )
    steps: int = Field(default=25, ge=1, le=1000, description="Denoising steps.")
    guidance: Guidance = 7.5
    negative_prompt: Text = ""
    sampler: SamplerName | None = Field(default=None, description="Default: the base model's own.")
    strength: Strength = Field(default=1.0, description="Of the adapter: 0 is the base model, 1 as trained.")
    when: Literal["evaluations", "end"] = Field(
        default="evaluations", description="With the base model and every checkpoint, or with the last one alone."
    )

    @property
    def all_steps(self) -> frozenset[int]:
        """The numbers of denoising steps that are asked for."""
        own = (each.steps for each in self.prompts or () if isinstance(each, PromptConfig))
        return frozenset((self.steps, *(steps for steps in own if steps is not None)))

    @model_validator(mode="after")
    def _check_twice(self) -> "SamplesConfig":
        prompts = [each if isinstance(each, PromptConfig) else PromptConfig(prompt=each) for each in self.prompts or ()]
        if len({each.model_dump_json() for each in prompts}) < len(prompts):
            raise ValueError("prompts holds one twice; each prompt once, and more seeds for more pictures")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds holds one twice; each seed once")
        return self


Pairs = Literal["all", "with_first"] | tuple[tuple[str, str], ...]


def _one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("it has to be one line of characters that print, and not empty")
    return text


Question = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]


class RatingConfig(Config):
    """What people are asked who rate pictures blind, in report/rate.html."""

    question: Question = Field(
        default="Which would you rather wear?",
        description="One line. With another question the page is another one, to which earlier answers do not belong.",
    )


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
    rating: RatingConfig = RatingConfig()


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
