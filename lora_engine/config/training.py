"""The settings of the training loop."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from pydantic import Field, model_validator

from lora_engine.config.base import Config
from lora_engine.config.ema import EmaConfig
from lora_engine.config.loss import LossConfig, MseLoss, NoWeighting, WeightingConfig
from lora_engine.config.lr_schedule import ConstantLrSchedule, LrScheduleConfig
from lora_engine.config.models import Precision
from lora_engine.config.noise import NoiseConfig, TimestepsConfig
from lora_engine.config.optimizer import AdamWConfig, OptimizerConfig

MOST_STEPS = 1_000_000

CompileMode = Literal["regional", "full"]  # how the UNet is compiled, where it is

# The fields of `TrainingConfig` that shape a pass through the UNet, and so are equal in all adapters of a pack. Every
# other is an adapter's own.
SHARED = (
    *("batch_size", "gradient_accumulation", "random_flip"),
    *("precision", "memory", "compile", "cuda_graph", "deterministic"),
)


class TrainingConfig(Config):
    """One optimizer update sees `batch_size * gradient_accumulation` images."""

    steps: int | None = Field(
        default=None,
        ge=1,
        le=MOST_STEPS,
        description="Optimizer updates, not micro-batches. Required, unless epochs stands in its place, also where "
        "every variant has its own.",
    )
    epochs: float | None = Field(
        default=None,
        gt=0,
        le=100_000,
        description="In place of steps, how often each training image is seen; steps follow once images are counted.",
    )
    batch_size: int = Field(default=4, ge=1, le=1024)
    gradient_accumulation: int = Field(default=1, ge=1, le=1024)
    optimizer: OptimizerConfig = AdamWConfig()
    schedule: LrScheduleConfig = ConstantLrSchedule()
    loss: LossConfig = Field(default=MseLoss(), description="Trained on; scores are the plain squared error.")
    weighting: WeightingConfig = Field(default=NoWeighting(), description="Of the loss, by timestep, in training.")
    noise: NoiseConfig = NoiseConfig()
    timesteps: TimestepsConfig = TimestepsConfig()
    ema: EmaConfig | None = Field(
        default=None, description="Average the weights, and score and export the average; null does not."
    )
    max_grad_norm: float | None = Field(default=1.0, gt=0, description="Per adapter; null switches clipping off.")
    random_flip: bool = Field(
        default=False, description="Show half of the images mirrored left to right; not for images with writing."
    )
    precision: Precision = Field(default="auto", description="The frozen base's; adapters stay in fp32.")
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

    @model_validator(mode="after")
    def _check_length(self) -> "TrainingConfig":
        if self.steps is None and self.epochs is None:
            raise ValueError(
                "steps: this key is required, or epochs in its place, also where every variant has its own"
            )
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"epochs: null, since training.steps is {self.steps}; or training.steps: null")
        return self

    @property
    def last_step(self) -> int:
        """The number of the last update, where the first is 1; 0 as long as that is epochs of unknown images."""
        return self.steps or 0

    def counted(self, images: int) -> "TrainingConfig":
        """The same with the steps that `epochs` stands for when so many images are trained on."""
        if self.epochs is None:
            return self
        steps = max(1, min(self._updates_of(self.epochs, images), MOST_STEPS))
        return self.model_copy(update={"steps": steps, "epochs": None})

    def is_cut_short(self, images: int) -> bool:
        """Whether `epochs` of so many images are more updates than there may be, which are then fewer."""
        return self.epochs is not None and self._updates_of(self.epochs, images) > MOST_STEPS

    def _updates_of(self, epochs: float, images: int) -> int:
        """The updates that see each image so often, counted in the digits that stand in a manifest.

        In binary, 1.1 is more than 1.1, and 1.1 epochs of 50 images would see a 56th.
        """
        return math.ceil(Fraction(repr(epochs)) * images / self.images_per_step)

    @property
    def images_per_step(self) -> int:
        """Images that one adapter sees in one optimizer update."""
        return self.batch_size * self.gradient_accumulation


def require_shared(configs: Sequence[TrainingConfig]) -> None:
    """Check that these can train in one pack.

    Raises:
        ValueError: they differ in a field of `SHARED`.
    """
    for name in SHARED:
        if len({getattr(config, name) for config in configs}) > 1:
            raise ValueError(f"a pack has one training.{name}")
