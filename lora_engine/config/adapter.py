"""The settings of adapters: which layers get one, and of what size."""

from typing import Annotated

from pydantic import Field

from lora_engine.config.base import Config


class LoraConfig(Config):
    """Low-rank adapters in the UNet's linear layers."""

    rank: int = Field(default=8, ge=1, le=512)
    alpha: float = Field(default=8.0, gt=0, description="The update is scaled by alpha / rank.")
    target_modules: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=("to_q", "to_k", "to_v", "to_out.0"),
        min_length=1,
        description="Names, or ends of names, of the linear layers that get an adapter.",
    )
