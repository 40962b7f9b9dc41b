"""How much memory a device has free, and how much of it computations take."""

import gc
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil
import torch
from torch import Tensor

from lora_engine.system import malloc


def free_bytes(device: torch.device, processes: int = 1) -> int:
    """The bytes that each of so many processes on this machine may still allocate on the device.

    A GPU is one process's alone.
    """
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return int(psutil.virtual_memory().available) // processes


def give_back() -> None:
    """Return memory that nothing refers to any more to the machine, such as that of an earlier stage's models.

    What C's allocator keeps for later would otherwise stand beside the next model: 0.6 GB after a text encoder.
    """
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where no GPU is used
    malloc.give_back()


def peak_bytes(device: torch.device) -> int:
    """The most bytes in use so far: allocated on a GPU, or by this process on a CPU; 0 if the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # getrusage would also count the program that started this one, which may be larger.
    fields = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return next((int(words[1]) * 1024 for words in fields if words[0] == "VmHWM:"), 0)


def kept_bytes(forward: Callable[[], object], parameters: Iterable[Tensor]) -> int:
    """The bytes that a forward pass keeps for its backward pass, beside the parameters.

    Args:
        forward: computes the pass; its result cannot be differentiated.
    """
    ours = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    # Storages by address. They are kept alive until all are counted, so that no address is used twice.
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> None:
        # Only the storage is kept: a tensor refers to the step of the backward pass that made it, and where that step
        # keeps the tensor, neither would ever be freed.
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in ours:
            kept[storage.data_ptr()] = storage

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda nothing: nothing):
        forward()
    return sum(storage.nbytes() for storage in kept.values())
