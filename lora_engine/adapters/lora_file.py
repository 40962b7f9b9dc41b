"""A LoRA from its file, in kohya's or diffusers' format, as low-rank updates of layers by their names.

Shape legend: R rank, I and O features in and out, h and w the size of a convolution's kernel.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class LoraLayer:
    """What an adapter adds to the weight of one layer: up @ down * alpha / rank."""

    down: Tensor  # [R, I], or [R, I, h, w] of a convolution
    up: Tensor  # [O, R], or [O, R, 1, 1]
    alpha: float
    magnitude: Tensor | None = None  # [O], of DoRA: the norms that the sum's rows are scaled to

    @property
    def rank(self) -> int:
        """R."""
        return len(self.down)


@dataclass(frozen=True)
class LoraFile:
    """What a file holds."""

    layers: Mapping[str, LoraLayer]  # by names in the UNet, or, behind `text_encoder.`, in the text encoder
    metadata: Mapping[str, str]


def read_lora(path: Path) -> LoraFile:
    """Read a file, whatever its format and dtype, on the CPU.

    Raises:
        ModelError: it is damaged, no LoRA of Stable Diffusion 1.x or 2.x, or of a kind that is not read here.
    """
    raise NotImplementedError
