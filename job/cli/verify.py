"""`lora-job verify`: reads every file that a run names."""

import typer

from job import layout
from job.run.verify import Depth, conflict, others_too, verify
from job.storage.folder import RunFolder
from lora_engine.text import printable


def verify_command(run: RunFolder) -> str:
    """Check all of a run, naming on standard error each file that is missing or altered; say what was read.

    Raises:
        JobError: 42 when there is no run, 46 when something is missing or altered.
    """
    verified = verify(run, Depth.ALL)
    if verified.problems:
        first, *others = verified.problems
        for problem in others:
            typer.echo(printable(problem.text), err=True)
        raise conflict([first], f"{others_too(len(others))}, as said above." if others else "")
    said = f"{verified.files} files are there, {verified.hashed} of them read, and all are what the run says"
    if not verified.finished:
        return f"{said}; it is not finished yet, or not copied as a whole, for there is no {layout.SUCCESS}"
    if not verified.lists_records:
        return f"{said}; an earlier version finished it, which kept no hashes of its records and its report"
    return said
