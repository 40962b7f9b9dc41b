"""Tells memory, disk and limits that are reached, and hardware that fails, from bugs."""

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

from job.errors import ExitCode, JobError
from job.storage.files import NO_SPACE
from lora_engine.system.limits import errno_of, is_of_the_machine, limit_hit


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
        if (fault := fault_of_the_machine(error)) is not None:
            raise fault from error
        raise
    except (OSError, SafetensorError) as error:
        _refuse_limit(error)
        if (fault := fault_of_the_machine(error)) is not None:
            raise fault from error
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


def fault_of_the_machine(error: Exception) -> JobError | None:
    """The error to end with where memory is full (44) or the GPU failed (53); None for any other."""
    said = " ".join(str(error).split())[:200]
    if not is_of_the_machine(error):
        return None
    # One that says that memory is full may also name CUDA.
    if "CUDA error" in said and "out of memory" not in said:
        return JobError(
            ExitCode.GPU_FAULT,
            f"The GPU failed: {said}.",
            "Start the job again, on another machine if it happens twice; `dmesg` and `nvidia-smi -q` say more.",
        )
    return JobError(
        ExitCode.RESOURCES,
        f"Memory is full: {said or 'no more could be had'}.",
        "Lower training.batch_size (and raise gradient_accumulation), or use a larger machine.",
    )
