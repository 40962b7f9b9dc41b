"""Memory and disk that run out, and hardware that fails, told from bugs."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from job.errors import ExitCode, JobError
from job.storage.files import NO_SPACE


@contextmanager
def resource_errors() -> Iterator[None]:
    """Turn an exhausted memory or disk, or a GPU that failed, into an error with a remedy.

    Raises:
        JobError: 44 or 53.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch has a class for a GPU's memory, and a plain RuntimeError for the machine's
        if isinstance(error, MemoryError) or _says_memory(error):
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
    if isinstance(error, OSError):
        return error.errno
    named = re.search(r"\(os error (\d+)\)", str(error))  # safetensors says no more
    return int(named[1]) if named else None


def _says_memory(error: RuntimeError) -> bool:
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
