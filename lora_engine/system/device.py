"""The device that the engine computes on, and the precision. Both are decided once and frozen with the run."""

import os

import torch

from lora_engine.config.models import DeviceChoice, DtypeName, Precision
from lora_engine.errors import ResourceError

DTYPES: dict[DtypeName, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def find_device(choice: DeviceChoice = "auto") -> torch.device:
    """The process's GPU, which is the first unless it chose another, or the CPU.

    Args:
        choice: `auto` is the GPU where there is one.

    Raises:
        ResourceError: `cuda` where torch finds no GPU.
    """
    if choice != "cpu" and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if choice == "cuda":
        is_without = torch.version.cuda is None
        raise ResourceError(
            "device is cuda, but "
            + ("the torch that is installed is a build without CUDA." if is_without else "torch finds no GPU here."),
            ("Install torch with CUDA" if is_without else "Make nvidia-smi show a GPU here") + ", or set device: auto.",
        )
    return torch.device("cpu")


def resolve_precision(requested: Precision, device: torch.device) -> DtypeName:
    """Decide `auto`, and refuse what the device cannot do.

    `auto` is bf16 where the device computes it natively, else fp16 on a GPU and fp32 on a CPU.

    Raises:
        ResourceError: fp16 on a CPU, which has no fp16 convolutions worth the name.
    """
    if requested == "fp16" and device.type == "cpu":
        raise ResourceError(
            "training.precision is fp16, which needs a GPU, and the device is the CPU.",
            "Use a GPU, or precision: auto, bf16 or fp32.",
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


def threads() -> int:
    """How many threads compute on the CPU at a time."""
    return torch.get_num_threads()


def rounding_threads(device: torch.device) -> int | None:
    """The threads that decide how sums are rounded on the device; None on a GPU, where none do."""
    return threads() if device.type == "cpu" else None


def in_words(device: torch.device) -> str:
    """The device as a person would name it: "NVIDIA H200 (139 GiB)", "the CPU, 2 threads"."""
    if device.type == "cuda":
        size = torch.cuda.get_device_properties(device).total_memory / 2**30
        return f"{torch.cuda.get_device_name(device)} ({size:.0f} GiB)"
    return f"the CPU, {threads()} thread{'s' * (threads() != 1)}"


def describe(device: torch.device) -> str:
    """The device in words, for `environment.json`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU ({torch.backends.cpu.get_cpu_capability()}, {threads()} threads)"
