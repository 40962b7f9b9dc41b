"""Reads the artefacts of a run that a report cannot be without."""

from typing import TypeVar

from job.errors import ExitCode, JobError
from job.storage.folder import RunFolder

Model = TypeVar("Model")


def stored(run: RunFolder, key: str, kind: type[Model]) -> Model:
    """The object as a `kind`. Raises JobError 46 where it is missing or something else."""
    value = run.read_stored(key, kind)
    if value is None:
        raise missing(run, key)
    return value


def rows(run: RunFolder, key: str, kind: type[Model]) -> list[Model]:
    """The rows, each a `kind`. Raises JobError 46 where they are missing or something else."""
    found = run.read_rows(key, kind)
    if found is None:
        raise missing(run, key)
    return found


def missing(run: RunFolder, key: str) -> JobError:
    """The error that the file is missing."""
    return JobError(
        ExitCode.CONFLICT, f"{run.uri(key)} is missing, so there is no report.", "Run the manifest again to finish it."
    )
