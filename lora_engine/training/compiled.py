"""When and how the UNet is compiled for training.

Shape legend: K members that take part, P weights of one adapter.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import nn

from lora_engine.config.training import CompileMode
from lora_engine.training.gradients import Batch, PackGradients

# A run of fewer updates than this does not win back what compiling takes: on a GPU machine more than 110 s for the
# blocks alone, where an update can save 0.03 s. All updates of the run count, not those that an attempt has left: a run
# that is resumed would round otherwise.
LEAST_UPDATES: dict[CompileMode, int] = {"regional": 4000, "full": 8000}

_GRADIENT_ERROR = 0.1  # relative, of one layer's gradient; half precision alone stays well below


class CompiledUnet:
    """A UNet, or each of its blocks, that is compiled at its first call. Outside of `applied` it is as before.

    Args:
        mode: "full" compiles the UNet as a whole, "regional" its repeated blocks one by one.
    """

    def __init__(self, unet: nn.Module, mode: CompileMode) -> None:
        options: dict[str, Any] | None = None
        self._parts = [unet]
        if mode == "regional":
            repeated = cast(Any, unet)._repeated_blocks
            self._parts = [module for module in unet.modules() if type(module).__name__ in repeated]
        elif next(unet.parameters()).device.type == "cpu":
            # With its layout optimisation torch 2.13 loses the gradients of whole blocks on a CPU, at the right loss.
            options = {"layout_optimization": False}
        # A pack trains with a few shapes, and each is compiled for itself: compiling for all at once takes ten times as
        # long.
        self._forwards = [torch.compile(part.forward, dynamic=False, options=options) for part in self._parts]
        # The compiler asks slices of a pack's weights for their `.grad`, which warns; nothing of ours does.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the UNet run compiled within, also where a backward pass computes activations again.

        Not outside: evaluation and samples have other shapes, and it would be compiled again for each.
        """
        for part, forward in zip(self._parts, self._forwards, strict=True):
            part.forward = forward
        try:
            yield
        finally:
            for part in self._parts:
                del part.forward


def too_few_updates(mode: CompileMode, updates: int) -> str | None:
    """Why a run of so many updates is not worth compiling for; None where it is."""
    if updates >= LEAST_UPDATES[mode]:
        return None
    return f"training.compile: {mode} pays from {LEAST_UPDATES[mode]} updates on, and there are {updates}"


def compile_if_equal(gradients: PackGradients, batch: Batch, mode: CompileMode) -> str | None:
    """Compute gradients with a compiled UNet from now on, if it can be compiled and gives this batch the same ones.

    Returns:
        Why not; None where it is compiled.

    Raises:
        torch.OutOfMemoryError: the gradients do not fit.
    """
    try:
        eager_KP = gradients.compute(batch)
        gradients.unet_context = CompiledUnet(gradients.unet, mode).applied
        error = gradients.weights.relative_error(gradients.compute(batch), eager_KP)
        if error <= _GRADIENT_ERROR:  # a NaN is not
            return None
        reason = f"compiled, the UNet gives other gradients (a layer's differ by {error:.0%})"
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as failure:  # a machine without a compiler, or one that cannot compile this, can still train
        reason = f"the UNet cannot be compiled here: {' '.join(str(failure).split())[:200]}"
    gradients.unet_context = nullcontext
    return reason
