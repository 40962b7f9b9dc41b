"""Draws worse what was drawn well, as an unpractised model would: bent, broken, blurred and grainy."""

import torch
from torch import Tensor
from torch.nn import functional


def distorted(images: Tensor, dice: torch.Generator) -> Tensor:
    """Images in [-1, 1], [B, 3, S, S], each distorted in its own way and more or less."""
    strength = torch.rand(len(images), 1, 1, 1, generator=dice)
    bent = _bent(images, strength, dice)
    blurred = functional.avg_pool2d(functional.pad(bent, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    mixed = bent.lerp(blurred, torch.rand(len(images), 1, 1, 1, generator=dice))
    grain = 0.15 * strength * torch.randn(images.shape, generator=dice)
    return (_broken(mixed, strength, dice) + grain).clamp(-1, 1)


def _bent(images: Tensor, strength: Tensor, dice: torch.Generator) -> Tensor:
    """Turned, scaled and shifted a little, then moved by a smooth field of up to about a tenth of the side."""
    count, side = len(images), images.shape[-1]
    matrices = torch.eye(2, 3).repeat(count, 1, 1) + 0.12 * strength[:, 0] * torch.randn(count, 2, 3, generator=dice)
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    field = torch.randn(count, 2, 5, 5, generator=dice) * 0.09 * strength
    smooth = functional.interpolate(field, size=(side, side), mode="bicubic", align_corners=True)
    return functional.grid_sample(images, grid + smooth.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)


def _broken(images: Tensor, strength: Tensor, dice: torch.Generator) -> Tensor:
    """Patches of an eighth of the side vanish into the colour of the corner."""
    count = len(images)
    gone = torch.rand(count, 1, 8, 8, generator=dice) < 0.12 * strength
    mask = functional.interpolate(gone.float(), size=images.shape[-2:], mode="bilinear", align_corners=False)
    return images.lerp(images[:, :, :1, :1].expand_as(images), mask)
