"""The settings of adapters: which layers get one, and of what size."""

import math
from typing import Annotated

from pydantic import Field

from lora_engine.config.base import Config


class LoraConfig(Config):
    """Low-rank adapters in the UNet's linear layers.

    Sources: Hu et al., arXiv 2106.09685; of `rank_stabilized` Kalajdzievski, arXiv 2312.03732; of `plus_ratio` Hayou et
    al., arXiv 2402.12354.
    """

    rank: int = Field(default=8, ge=1, le=512)
    # The files that readers scale by, and the layers, hold its multiples in fp32, where more is infinite.
    alpha: float = Field(default=8.0, gt=0, le=1e30, description="The update is scaled by alpha / rank.")
    rank_stabilized: bool = Field(
        default=False,
        description="Scale the update by alpha / sqrt(rank) instead, which keeps it as large at higher ranks.",
    )
    plus_ratio: float | None = Field(
        default=None,
        ge=1,
        le=1000,
        description="LoRA+: the learning rate of the up weights is so many times that of the down weights.",
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        le=0.99,
        description="In training, the share of the values between down and up that an image does without, as kohya's "
        "network_dropout has it.",
    )
    target_modules: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=("to_q", "to_k", "to_v", "to_out.0"),
        min_length=1,
        description="Names, or ends of names, of the linear layers that get an adapter.",
    )

    @property
    def file_alpha(self) -> float:
        """The alpha by which readers of its files, who scale by alpha / rank, scale as it was trained."""
        return self.alpha * math.sqrt(self.rank) if self.rank_stabilized else self.alpha
