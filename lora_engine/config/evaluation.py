"""When and how adapters are scored, and which samples they generate."""

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


class EvaluationConfig(Config):
    """When and how finely the held-out images are scored."""

    every: int = Field(default=100, ge=1, description="Optimizer updates between evaluations, each with a checkpoint.")
    timesteps: int = Field(default=4, ge=1, le=1000, description="Strata per image on the curve.")
    final_timesteps: int = Field(
        default=16, ge=1, le=1000, description="Strata per image at step 0 and at the end, where variants are compared."
    )
    batch_size: int = Field(default=8, ge=1, le=1024, description="Images scored at once, per adapter.")
    samples: SamplesConfig | None = None
