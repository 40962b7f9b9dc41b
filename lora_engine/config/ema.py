"""The settings of averaging an adapter's weights over its updates."""

from pydantic import Field

from lora_engine.config.base import Config


class EmaConfig(Config):
    """An exponential moving average of the weights, which is what is evaluated and exported."""

    decay: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="How much of the average an update keeps, at most: early ones keep less, so that it follows.",
    )
