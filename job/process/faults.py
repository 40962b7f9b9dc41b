"""Tells memory and disk that run out, and hardware that fails, from bugs."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from job.errors import ExitCode, JobError
from job.storage.files import NO_SPACE


@contextmanager
def resource_errors() -> Iterator[None]:
    """Turn the errors of full memory, a full disk or a failed GPU into one with a remedy; others pass as they are.

    Raises:
        JobError: 44 when memory or disk is full, 53 when the GPU failed.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
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
        if _errno_of(error) in NO_SPACE:
            raise JobError(
                ExitCode.RESOURCES,
                f"The disk of {getattr(error, 'filename', None) or 'the scratch folder'} is full.",
                "Make room, or set --workdir.",
            ) from error
        raise


def _errno_of(error: Exception) -> int | None:
    """The system's number of the error; None where it is not the system's."""
    if isinstance(error, OSError):
        return error.errno
    named = re.search(r"\(os error (\d+)\)", str(error))  # safetensors gives the number in its message alone.
    return int(named[1]) if named else None


def _means_full_memory(error: RuntimeError) -> bool:
    """Whether torch raised it for want of memory: a class of its own on a GPU, a plain RuntimeError on a CPU."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
