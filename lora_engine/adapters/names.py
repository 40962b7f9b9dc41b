"""The formats and names of a checkpoint's files. Torch-free, so that a manifest can be checked against them at once."""

from typing import Literal

Formats = Literal["kohya", "diffusers", "both"]

DIFFUSERS_NAME = "pytorch_lora_weights.safetensors"  # the adapter in diffusers' format, as diffusers names it
STATE_NAME = "state.safetensors"  # what training continues from


def kohya_name(adapter: str) -> str:
    """The file that holds an adapter in kohya's format, by which A1111 and ComfyUI list it."""
    return f"{adapter}.safetensors"


def is_taken(adapter: str) -> bool:
    """Whether an adapter of this name would put its file in place of another file of its checkpoint."""
    return kohya_name(adapter) in (DIFFUSERS_NAME, STATE_NAME)
