"""The settings of adapters: of which kind they are, which layers get one, and of what size."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from lora_engine.config.base import Config
from lora_engine.config.kinds import Kind

MOST_RANK = 512

_Rank = Annotated[int, Field(ge=1, le=MOST_RANK)]
# The files that readers scale by, and the layers, hold its multiples in fp32, where more is infinite.
_Alpha = Annotated[float, Field(gt=0, le=1e30)]

# Ends of the names of the UNet's layers that a preset names; the layers of the other presets are found by their kinds.
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
LISTED: Mapping[str, tuple[str, ...]] = {
    "attention": _ATTENTION,
    "attention+mlp": (*_ATTENTION, "ff.net.0.proj", "ff.net.2"),
}
Preset = Literal["attention", "attention+mlp", "kohya", "full"]


def _by_preset(value: Any) -> Any:
    """The preset that a list is equal to, in any order; else the list. So either way of it is one setting."""
    if isinstance(value, list | tuple):
        same = (preset for preset, names in LISTED.items() if sorted(map(str, value)) == sorted(names))
        return next(same, tuple(value))  # A strict model takes no list for a tuple from a function.
    return value


TargetModules = Annotated[
    Preset | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)],
    BeforeValidator(_by_preset),
]


class BlockConfig(Config):
    """What layers of a part of the UNet have in place of the settings for all."""

    rank: _Rank | None = Field(default=None, description="null is that of all.")
    alpha: _Alpha | None = Field(default=None, description="null is that of all.")


class TextEncoderLoraConfig(Config):
    """Adapters in the attention and MLP layers of the text encoder, 72 in that of SD 1.x."""

    rank: _Rank | None = Field(default=None, description="null is the UNet's, lora.rank.")
    alpha: _Alpha | None = Field(default=None, description="null is the UNet's, lora.alpha.")
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="At its peak, under the same schedule; null is the UNet's, training.optimizer.learning_rate.",
    )
    stop_after: int | None = Field(
        default=None, ge=1, description="The update after which these weights stay as they are; null trains them on."
    )


class LoraConfig(Config):
    """Low-rank adapters in layers of the UNet, and of the text encoder where asked for.

    Sources: Hu et al., arXiv 2106.09685; of `dora` Liu et al., arXiv 2402.09353; of `rank_stabilized` Kalajdzievski,
    arXiv 2312.03732; of `plus_ratio` Hayou et al., arXiv 2402.12354; of convolutions kohya's and LyCORIS' LoCon, arXiv
    2309.14859.
    """

    kind: Kind = Field(
        default="lora", description="dora learns the size of each output's weights apart from their direction."
    )
    rank: _Rank = 8
    alpha: _Alpha = Field(default=8.0, description="The update is scaled by alpha / rank.")
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
    target_modules: TargetModules = Field(
        default="attention",
        description="Layers of the UNet: attention; attention+mlp; kohya, its own default, which adds proj_in and "
        "proj_out; full, kohya's with conv_dim, which adds the layers of ResNet blocks and samplers; or a list of "
        "names, or ends of names.",
    )
    conv_rank: _Rank | None = Field(default=None, description="Of convolutions of 3x3; null is rank.")
    conv_alpha: _Alpha | None = Field(default=None, description="Of convolutions of 3x3; null is alpha.")
    patterns: dict[Annotated[str, Field(min_length=1)], BlockConfig] = Field(
        default={},
        description="By the beginning of names of the UNet's layers, such as mid_block or up_blocks.1, what these have "
        "in place of the above; of several that fit a layer the longest counts.",
    )
    text_encoder: TextEncoderLoraConfig | None = Field(
        default=None, description="Train the text encoder as well; null leaves it as it is."
    )
    init_from: str | None = Field(
        default=None,
        min_length=1,
        description="A LoRA's file to start from, in kohya's or diffusers' format: a path, s3://... or "
        "hf://owner/name/FILE; or a folder that has it as pytorch_lora_weights.safetensors. What is not said here of "
        "kind, ranks, alphas and layers is as in the file, and what is has to agree. The optimizer begins anew.",
    )

    def size_of(self, name: str, *, is_spatial: bool) -> tuple[int, float]:
        """The rank and alpha of one of the UNet's layers.

        Args:
            name: the layer's, in the UNet.
            is_spatial: whether it is a convolution of more than one pixel.
        """
        rank, alpha = self.rank, self.alpha
        if is_spatial:
            rank, alpha = self.conv_rank or rank, self.conv_alpha or alpha
        if (begin := self.pattern_of(name)) is not None:
            block = self.patterns[begin]
            rank, alpha = block.rank or rank, block.alpha or alpha
        return rank, alpha

    def pattern_of(self, name: str) -> str | None:
        """Which of `patterns` counts for one of the UNet's layers."""
        fitting = [begin for begin in self.patterns if f"{name}.".startswith(f"{begin}.")]
        return max(fitting, key=len, default=None)

    @property
    def size_in_text_encoder(self) -> tuple[int, float]:
        """The rank and alpha of the text encoder's layers."""
        own = self.text_encoder or TextEncoderLoraConfig()
        return own.rank or self.rank, own.alpha or self.alpha

    @property
    def max_rank(self) -> int:
        """The largest rank that a layer of the UNet may have."""
        blocks = [block.rank for block in self.patterns.values()]
        return max(rank for rank in (self.rank, self.conv_rank, *blocks) if rank)

    def file_alpha(self, rank: int, alpha: float) -> float:
        """The alpha by which readers of files, who scale by alpha / rank, scale a layer as it was trained."""
        return alpha * math.sqrt(rank) if self.rank_stabilized else alpha
