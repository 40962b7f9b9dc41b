"""The settings of the loss that is trained on. What adapters are scored by stays the plain mean squared error."""

from typing import Annotated, Literal

from pydantic import Field

from lora_engine.config.base import Config, named


class MseLoss(Config):
    """The mean squared error."""

    name: Literal["mse"] = "mse"


class HuberLoss(Config):
    """Quadratic for errors below `c`, linear above, so that a few large errors count less; wants a higher rate."""

    name: Literal["huber"]
    c: float = Field(default=0.1, ge=1e-4, le=1, description="Where errors begin to count as large.")
    schedule: Literal["snr", "constant", "exponential"] = Field(
        default="snr",
        description="From little noise to much, c falls from 1: with the signal's share, or `exponential`ly; or it is "
        "`constant`.",
    )


class L1Loss(Config):
    """The mean absolute error."""

    name: Literal["l1"]


LossConfig = Annotated[MseLoss | HuberLoss | L1Loss, Field(discriminator="name"), named("mse")]


class NoWeighting(Config):
    """All timesteps weigh the same."""

    name: Literal["none"] = "none"


class MinSnrWeighting(Config):
    """Timesteps with little noise, whose signal-to-noise ratio is above `gamma`, weigh less."""

    name: Literal["min_snr"]
    gamma: float = Field(default=5.0, gt=0, le=1000)


class SoftMinSnrWeighting(Config):
    """As `min_snr`, without the bend at `gamma`."""

    name: Literal["soft_min_snr"]
    gamma: float = Field(default=5.0, gt=0, le=1000)


class DebiasedWeighting(Config):
    """Timesteps with much noise weigh more, by 1 / sqrt(SNR); of v-prediction by 1 / (SNR + 1)."""

    name: Literal["debiased"]


WeightingConfig = Annotated[
    NoWeighting | MinSnrWeighting | SoftMinSnrWeighting | DebiasedWeighting,
    Field(discriminator="name"),
    named("none"),
]
