"""Reads the losses that an evaluation of a run left."""

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.storage.folder import RunFolder
from lora_engine.evaluation.loss_file import EvaluationLosses, unpack_losses


def read_losses(run: RunFolder, member: Member, step: int) -> EvaluationLosses:
    """The losses of an adapter in its evaluation at a step.

    Raises:
        JobError: 46 when the file is missing, damaged or another evaluation's.
    """
    return _read(run, layout.validation_losses(member, step), step)


def read_start_losses(run: RunFolder, member: Member) -> EvaluationLosses:
    """The losses of an adapter that starts from a file before its first update. Raises as `read_losses` does."""
    return _read(run, layout.start_losses(member), 0)


def _read(run: RunFolder, key: str, step: int) -> EvaluationLosses:
    data, problem = run.read(key), "missing"
    if data is not None:
        try:
            losses = unpack_losses(data)
        except ValueError:
            problem = "damaged"
        else:
            if losses.step == step:
                return losses
            problem = f"that of step {losses.step}"
    raise JobError(
        ExitCode.CONFLICT, f"{run.uri(key)} is {problem}.", "Restore it, or run under another name: --set name=..."
    )
