"""Collects what a run is made with for `environment.json`."""

import platform
from importlib import metadata
from typing import Any

import psutil
import torch

from lora_engine.system.device import describe

_PACKAGES = (
    "lora-job", "torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "pillow", "safetensors", "boto3",
)  # fmt: skip


def environment(device: torch.device) -> dict[str, Any]:
    """The versions of the libraries that decide a run's numbers, and the hardware, as one level of names and values."""
    versions = {name: metadata.version(name) for name in _PACKAGES}
    return versions | {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": describe(device),
        "cuda": torch.version.cuda,
        "cpus": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }
