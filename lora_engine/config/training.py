"""Adapters, the optimizer, its schedule and the loop."""

from typing import Annotated, Literal

from pydantic import Field

from lora_engine.config.base import Config
from lora_engine.config.models import AllowPickle, Precision, Revision, Source


class LoraConfig(Config):
    """Low-rank adapters in the UNet's linear layers."""

    rank: int = Field(default=8, ge=1, le=512)
    alpha: float = Field(default=8.0, gt=0, description="The update is scaled by alpha / rank.")
    target_modules: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=("to_q", "to_k", "to_v", "to_out.0"),
        min_length=1,
        description="Names, or ends of names, of the linear layers that get an adapter.",
    )


class AdamWConfig(Config):
    """Decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101)."""

    name: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)


class _Warmup(Config):
    warmup_steps: int = Field(default=0, ge=0, description="Updates over which the rate rises linearly from 0.")


class ConstantSchedule(_Warmup):
    """The rate stays; `steps` may grow later."""

    name: Literal["constant"] = "constant"


class LinearSchedule(_Warmup):
    """The rate falls linearly to 0 at the last step."""

    name: Literal["linear"]


class CosineSchedule(_Warmup):
    """The rate falls to 0 at the last step along half a cosine."""

    name: Literal["cosine"]


ScheduleConfig = Annotated[ConstantSchedule | LinearSchedule | CosineSchedule, Field(discriminator="name")]


CompileMode = Literal["regional", "full"]  # where it is on


class TrainingConfig(Config):
    """One optimizer update sees `batch_size * gradient_accumulation` images."""

    steps: int = Field(ge=1, le=1_000_000, description="Optimizer updates, not micro-batches.")
    batch_size: int = Field(default=4, ge=1, le=1024)
    gradient_accumulation: int = Field(default=1, ge=1, le=1024)
    optimizer: AdamWConfig = AdamWConfig()
    schedule: ScheduleConfig = ConstantSchedule()
    max_grad_norm: float | None = Field(default=1.0, gt=0, description="Per adapter; null switches clipping off.")
    random_flip: bool = Field(
        default=False, description="Show half of the images mirrored left to right; not for images with writing."
    )
    precision: Precision = Field(default="auto", description="Of the frozen base; adapters stay in fp32.")
    memory: Literal["auto", "fast", "low"] = Field(
        default="auto",
        description="How much of an update is computed at once: as much as fits, all of it, or one image of one "
        "variant at a time with activations computed twice.",
    )
    compile: Literal["off", "regional", "full"] = Field(
        default="off",
        description="Compile the UNet's blocks, or all of it, for training. A run with too few updates for that trains "
        "without, and says so.",
    )
    cuda_graph: Literal["auto", "off"] = Field(
        default="auto",
        description="On a GPU, start an update as one graph of kernels; where that fails, train without and say why.",
    )
    deterministic: bool = Field(default=False, description="Only deterministic kernels; slower on a GPU.")
    max_skipped_steps: int = Field(
        default=20,
        ge=0,
        description="Updates refused for an adapter's loss or gradients that are not finite, before it is frozen. In "
        "fp16, gradients count only where a smaller loss scale cannot help.",
    )

    @property
    def images_per_step(self) -> int:
        """Images that one adapter sees in one optimizer update."""
        return self.batch_size * self.gradient_accumulation


class ClipConfig(Config):
    """The CLIP model that scores how well samples fit their prompts."""

    source: Source = Field(description="A folder, s3://..., hf://owner/name or miniature://clip.")
    revision: Revision | None = Field(default=None, description="Commit, tag or branch of an hf:// source.")
    allow_pickle: AllowPickle = False


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
    clip: ClipConfig | None = Field(default=None, description="Scores the samples; without it they have no CLIP score.")


class EvaluationConfig(Config):
    """When and how finely the held-out images are scored."""

    every: int = Field(default=100, ge=1, description="Optimizer updates between evaluations, each with a checkpoint.")
    timesteps: int = Field(default=4, ge=1, le=1000, description="Strata per image on the curve.")
    final_timesteps: int = Field(
        default=16, ge=1, le=1000, description="Strata per image at step 0 and at the end, where variants are compared."
    )
    batch_size: int = Field(default=8, ge=1, le=1024, description="Images scored at once, per adapter.")
    samples: SamplesConfig | None = None
