"""What every part of a report has in common, and the interval, which stands in most of them."""

from dataclasses import asdict

from pydantic import BaseModel, ConfigDict, Field

from lora_engine.evaluation import statistics


class Part(BaseModel):
    """A part of a report."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Interval(Part):
    """An estimate and the ends of its interval."""

    mean: float
    low: float | None = Field(description="Null where the data cannot tell, as with one group of images.")
    high: float | None
    confidence: float = Field(description="Of this interval by itself.")

    @classmethod
    def of(cls, found: statistics.Interval) -> "Interval":
        """An interval as the report shows it."""
        return cls(**asdict(found))
