"""The settings of how gradients become updates."""

from typing import Literal

from pydantic import Field

from lora_engine.config.base import Config


class AdamWConfig(Config):
    """Decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101)."""

    name: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=1e-4, gt=0, le=1)
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)


OptimizerConfig = AdamWConfig
