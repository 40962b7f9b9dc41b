"""A model of a few linear layers, in a block that kohya's format knows by the name of its class."""

import torch
from torch import nn


class Transformer2DModel(nn.Module):
    """Two layers that may have adapters, one without a bias, and one that is not linear."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(5, 4, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(4, 3), nn.Dropout(0.0)])
        self.norm = nn.LayerNorm(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.to_out[0](torch.tanh(self.to_q(x))))


class Toy(nn.Module):
    """The block, after a layer that no file format carries."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Linear(5, 5)
        self.block = Transformer2DModel()
        self.conv_in = nn.Conv2d(1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(self.time(x))


def toy(dtype: torch.dtype = torch.float64) -> Toy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Toy().to(dtype)
