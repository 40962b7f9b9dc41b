"""The settings of how the learning rate changes from update to update."""

from typing import Annotated, Literal

from pydantic import Field

from lora_engine.config.base import Config


class _Warmup(Config):
    warmup_steps: int = Field(default=0, ge=0, description="Updates over which the rate rises linearly from 0.")


class ConstantLrSchedule(_Warmup):
    """The rate stays; `steps` may grow later."""

    name: Literal["constant"] = "constant"


class LinearLrSchedule(_Warmup):
    """The rate falls linearly to 0 at the last step."""

    name: Literal["linear"]


class CosineLrSchedule(_Warmup):
    """The rate falls to 0 at the last step along half a cosine."""

    name: Literal["cosine"]


LrScheduleConfig = Annotated[ConstantLrSchedule | LinearLrSchedule | CosineLrSchedule, Field(discriminator="name")]
