"""Tells memory, disk and limits that are reached, and hardware that fails, from bugs."""

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from job.errors import ExitCode, JobError
from job.storage.files import NO_SPACE
from lora_engine.system.limits import errno_of, limit_hit


@contextmanager
def resource_errors() -> Iterator[None]:
    """Turn the errors of full memory, a full disk or a failed GPU into one with a remedy; others pass as they are.

    Raises:
        JobError: 44 when memory or disk is full or a limit of the process is reached, 53 when the GPU failed.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        _refuse_limit(error)
        if isinstance(error, MemoryError) or _means_full_memory(error):
            raise JobError(
                ExitCode.RESOURCES,
                f"Memory is full: {' '.join(str(error).split())[:200]}.",
                "Lower training.batch_size (and raise gradient_accumulation), or use a larger machine.",
            ) from error
        if "CUDA error" in str(error):
            raise JobError(
                ExitCode.GPU_FAULT,
                f"The GPU failed: {' '.join(str(error).split())[:200]}.",
                "Start the job again, on another machine if it happens twice; `dmesg` and `nvidia-smi -q` say more.",
            ) from error
        raise
    except (OSError, SafetensorError) as error:
        _refuse_limit(error)
        if errno_of(error) in NO_SPACE:
            raise JobError(
                ExitCode.RESOURCES,
                f"The disk of {getattr(error, 'filename', None) or 'the scratch folder'} is full.",
                "Make room, or set --workdir.",
            ) from error
        raise


def _refuse_limit(error: Exception) -> None:
    if (found := limit_hit(error)) is not None:
        raise JobError(ExitCode.RESOURCES, *found) from error


def _means_full_memory(error: RuntimeError) -> bool:
    """Whether torch raised it for want of memory: a class of its own on a GPU, a plain RuntimeError on a CPU."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
