"""When and how the UNet is compiled for training."""

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from lora_engine.config.training import CompileMode

# A run of fewer updates than this does not win back what compiling takes: on a GPU machine more than 110 s for the
# blocks alone, where an update can save 0.03 s. Of all of the run: one that is resumed must not round otherwise.
LEAST_UPDATES: dict[CompileMode, int] = {"regional": 4000, "full": 8000}


def compiled(unet: nn.Module, mode: CompileMode) -> Callable[..., Any]:
    """The UNet, compiled as a whole or block by block when this is first called; called itself, it is as before."""
    # of the few shapes that a pack trains with, each for itself: compiling for all at once takes ten times as long
    if mode == "full":
        on_cpu = next(unet.parameters()).device.type == "cpu"
        # torch 2.13's other layouts lose gradients there, of whole blocks, with the right loss
        options: dict[str, Any] | None = {"layout_optimization": False} if on_cpu else None
        call: Callable[..., Any] = torch.compile(unet, dynamic=False, options=options)
    else:
        call = unet
        cast(Any, unet).compile_repeated_blocks(dynamic=False)
    # of a part of a pack's weights, which the compiler asks and we do not
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
    # what else calls the UNet has other shapes, and would compile it again for each
    torch.compiler.set_stance("force_eager")

    def forward(*inputs: Tensor) -> Any:
        with torch.compiler.set_stance("default"):
            return call(*inputs)

    return forward


def too_few_updates(mode: CompileMode, updates: int) -> str | None:
    """Why so many updates are not worth compiling for; None where they are."""
    if updates >= LEAST_UPDATES[mode]:
        return None
    return f"training.compile: {mode} pays from {LEAST_UPDATES[mode]} updates on, and there are {updates}"
