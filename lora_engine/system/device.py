"""The device that the engine computes on, and the precision. Both are decided once and frozen with the run."""

import os
from typing import Literal

import torch

from lora_engine.config.models import Precision
from lora_engine.errors import ResourceError

DtypeName = Literal["bf16", "fp16", "fp32"]

DTYPES: dict[DtypeName, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def find_device() -> torch.device:
    """The process's GPU, which is the first unless it chose another, or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def resolve_precision(requested: Precision, device: torch.device) -> DtypeName:
    """Decide `auto`, and refuse what the device cannot do.

    `auto` is bf16 where the device computes it natively, else fp16 on a GPU and fp32 on a CPU.

    Raises:
        ResourceError: fp16 on a CPU, which has no fp16 convolutions worth the name.
    """
    if requested == "fp16" and device.type == "cpu":
        raise ResourceError(
            "training.precision is fp16, but there is no GPU here.", "Use precision: auto, bf16 or fp32."
        )
    if requested != "auto":
        return requested
    if has_bf16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" else "fp32"


def has_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16. Others emulate it: SD 1.5 takes minutes an image on such a CPU."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def use_deterministic_kernels(*, enabled: bool) -> None:
    """Let torch compute with kernels that give the same bits each time from now on; or again with the fastest ones."""
    if enabled:
        # Without this setting torch refuses any matrix product on a GPU.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(enabled)


def describe(device: torch.device) -> str:
    """The device in words, for `environment.json`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)"
