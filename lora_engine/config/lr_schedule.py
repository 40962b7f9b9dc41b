"""The settings of how the learning rate changes from update to update."""

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from lora_engine.config.base import Config, named


class _Warmup(Config):
    warmup_steps: int = Field(default=0, ge=0, description="Updates over which the rate rises linearly from 0.")
    warmup_share: float | None = Field(
        default=None, ge=0, lt=1, description="The same as a share of all updates, in place of warmup_steps."
    )

    @model_validator(mode="after")
    def _one_length(self) -> "_Warmup":
        if self.warmup_steps and self.warmup_share is not None:
            raise ValueError(
                f"either warmup_steps ({self.warmup_steps}) or warmup_share ({self.warmup_share:g}): both say how long "
                "it warms up"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_what_none_has(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A share that is not there is not written, as by versions that did not know of it."""
        values: dict[str, Any] = dump(self)
        return {key: value for key, value in values.items() if key != "warmup_share" or value is not None}

    def warmup(self, steps: int) -> int:
        """Updates over which the rate rises, of `steps`; where they are a share, one at least is left for the peak."""
        return self.warmup_steps if self.warmup_share is None else min(round(self.warmup_share * steps), steps - 1)


class ConstantLrSchedule(_Warmup):
    """The rate stays; `steps` may grow later."""

    name: Literal["constant"] = "constant"


class LinearLrSchedule(_Warmup):
    """The rate falls linearly to 0 at the last step."""

    name: Literal["linear"]


class CosineLrSchedule(_Warmup):
    """The rate falls to 0 at the last step along half a cosine."""

    name: Literal["cosine"]


class CosineRestartsLrSchedule(_Warmup):
    """The rate falls to 0 along half a cosine, several times, and is at its peak again after each but the last."""

    name: Literal["cosine_restarts"]
    cycles: int = Field(default=2, ge=1, le=1000, description="Times that the rate falls; 1 is cosine.")


class PolynomialLrSchedule(_Warmup):
    """The rate falls to 0 at the last step as a power of what is left."""

    name: Literal["polynomial"]
    power: float = Field(default=2.0, gt=0, le=10, description="1 is linear; more falls sooner.")


class InverseSqrtLrSchedule(_Warmup):
    """The rate falls with the root of the number of updates, and never to 0."""

    name: Literal["inverse_sqrt"]
    timescale_steps: int | None = Field(
        default=None,
        ge=1,
        description="Updates after the warm-up until the rate has fallen to 0.71 of its peak; null: as many as the "
        "warm-up has and one, or 10000 where there is none.",
    )


LrSchedule = (
    ConstantLrSchedule
    | LinearLrSchedule
    | CosineLrSchedule
    | CosineRestartsLrSchedule
    | PolynomialLrSchedule
    | InverseSqrtLrSchedule
)
LrScheduleConfig = Annotated[LrSchedule, Field(discriminator="name"), named("constant")]
