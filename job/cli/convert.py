"""`lora-job convert`: reads the file, and writes the manifest where it is to go."""

import os
import sys
from pathlib import Path

import typer

from job import env
from job.convert.convert import convert
from job.errors import ExitCode, JobError
from job.storage.files import NO_SPACE


def convert_command(file: str, output: Path | None, *, overwrite: bool) -> str:
    """Convert a file, and show the remarks; give the text for standard output, which is empty where a file is written.

    Raises:
        JobError: 2 when the output exists or cannot be written, 40 when the file cannot be read or converted.
    """
    if output is not None and not overwrite and output.exists():
        raise JobError(ExitCode.USAGE, f"{output} exists.", "Name another file, or give --force to overwrite it.")
    conversion = convert(*env.read_text(file, "configuration", os.environ, sys.stdin))
    if output is not None:
        _write(conversion.manifest, output, overwrite=overwrite)
    for remark in conversion.remarks:
        typer.echo(remark, err=True)
    return conversion.manifest if output is None else ""


def _write(text: str, output: Path, *, overwrite: bool) -> None:
    try:
        with output.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise JobError(
            ExitCode.USAGE,
            f"{output} cannot be written: {error.strerror}.",
            "Correct the path, or who may write there.",
        ) from error
