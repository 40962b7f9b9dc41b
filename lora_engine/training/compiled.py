"""When and how the UNet is compiled for training."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn

from lora_engine.config.training import CompileMode

# A run of fewer updates than this does not win back what compiling takes: on a GPU machine more than 110 s for the
# blocks alone, where an update can save 0.03 s. Of all of the run: one that is resumed must not round otherwise.
LEAST_UPDATES: dict[CompileMode, int] = {"regional": 4000, "full": 8000}


class CompiledUnet:
    """The UNet as a whole, or its blocks, compiled at their first call; outside of `engaged` it is as before."""

    def __init__(self, unet: nn.Module, mode: CompileMode) -> None:
        options: dict[str, Any] | None = None
        self._parts = [unet]
        if mode == "regional":
            repeated = cast(Any, unet)._repeated_blocks
            self._parts = [module for module in unet.modules() if type(module).__name__ in repeated]
        elif next(unet.parameters()).device.type == "cpu":
            # torch 2.13's other layouts lose gradients there, of whole blocks, with the right loss
            options = {"layout_optimization": False}
        # of the few shapes that a pack trains with, each for itself: compiling for all at once takes ten times as long
        self._forwards = [torch.compile(part.forward, dynamic=False, options=options) for part in self._parts]
        # of a part of a pack's weights, which the compiler asks and we do not
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the UNet runs compiled, also where a backward pass computes activations again.

        Not outside: what else calls it has other shapes, and would compile it again for each.
        """
        for part, forward in zip(self._parts, self._forwards, strict=True):
            part.forward = forward
        try:
            yield
        finally:
            for part in self._parts:
                del part.forward


def too_few_updates(mode: CompileMode, updates: int) -> str | None:
    """Why so many updates are not worth compiling for; None where they are."""
    if updates >= LEAST_UPDATES[mode]:
        return None
    return f"training.compile: {mode} pays from {LEAST_UPDATES[mode]} updates on, and there are {updates}"
