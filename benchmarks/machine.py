"""What a benchmark ran on, in a line."""

import os
from importlib.metadata import version
from pathlib import Path

import psutil

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def describe(device: str = "cpu") -> str:
    """CPU, cores that this process may use, its matrix instructions, memory, torch, and the device that was used."""
    fields = _cpu_fields()
    flags = fields.get("flags", "").split()
    return ", ".join(
        (
            fields.get("model name", "unknown CPU"),
            f"{len(os.sched_getaffinity(0))} cores",
            " ".join(flag for flag in _FLAGS if flag in flags) or "no avx2",
            f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
            f"torch {version('torch')}",
            f"device {device}",
        )
    )


def _cpu_fields() -> dict[str, str]:
    """The first processor of /proc/cpuinfo."""
    first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
