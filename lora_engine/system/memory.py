"""How much memory there is, and what takes it."""

import gc
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import torch
from torch import Tensor

from lora_engine.system import malloc


def free_bytes(device: torch.device, processes: int = 1) -> int:
    """What each of the processes may still allocate there; a GPU is one process's alone."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return int(psutil.virtual_memory().available) // processes


def give_back() -> None:
    """Return what nothing refers to any more to the machine: the models of earlier stages, another pack's.

    Memory that C's allocator keeps for later would otherwise stand beside the next model: 0.6 GB of a text encoder's.
    """
    gc.collect()
    torch.cuda.empty_cache()  # nothing, where no GPU is used
    malloc.give_back()


def peak_bytes(device: torch.device) -> int:
    """The most in use so far: allocated on a GPU, or of this process's memory; 0 if the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # not getrusage, which counts the program that started this one
    fields = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return next((int(words[1]) * 1024 for words in fields if words[0] == "VmHWM:"), 0)


def kept_bytes(forward: Callable[[], object], parameters: Iterable[Tensor]) -> int:
    """What a forward pass keeps for its backward pass, beside the parameters. Its result has no backward pass."""
    ours = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    kept: dict[int, torch.UntypedStorage] = {}  # alive until all is counted, so that no address is used twice

    def keep(tensor: Tensor) -> None:
        # not the tensor: one that its own step of the backward pass keeps would never be freed
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            kept[storage.data_ptr()] = storage

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing):
        forward()
    return sum(storage.nbytes() for storage in kept.values())
