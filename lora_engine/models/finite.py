"""Finds weights that are not numbers, in one pass over each tensor as it is loaded."""

from collections.abc import Iterable

import torch
from torch import Tensor

REMEDY = (
    "Fetch the model again, or name another version of it: a merge or a conversion that overflowed leaves such "
    "weights, and in fp16 large ones are infinite."
)


def why_not_finite(weights: Iterable[tuple[str, Tensor]]) -> str | None:
    """Say of the first of these tensors that holds a NaN or an infinity which one it is; None where all are numbers.

    Waits for the device once. The least and the largest value are enough to know, and a tenth of the work of asking
    every value: a NaN is both.
    """
    names, extremes = [], []
    for name, weight in weights:
        if weight.is_floating_point() and weight.numel():
            names.append(f"{name} (as {str(weight.dtype).removeprefix('torch.')})")
            extremes.append(torch.stack(torch.aminmax(weight.detach())).float())
    if not names:
        return None
    finite = torch.stack(extremes).isfinite().all(dim=1).tolist()
    return next(
        (
            f"its weight {name} holds values that are not finite"
            for name, ok in zip(names, finite, strict=True)
            if not ok
        ),
        None,
    )
