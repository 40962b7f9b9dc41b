"""`lora-job export`: makes of the options what is to be exported, and says what was made."""

import math
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import typer
from pydantic import TypeAdapter, ValidationError

from job import env
from job.errors import ExitCode, JobError
from job.manifest.limits import LimitsConfig
from job.manifest.places import ModelSource
from job.process.cores import settle_threads
from job.process.deadline import end_in_time
from job.process.faults import resource_errors
from job.process.progress import Progress
from job.process.stop import StopFlag
from job.run.context import Workplace
from job.storage import is_remote, open_from_environment
from job.storage.folder import RunFolder
from lora_engine.adapters.names import Formats
from lora_engine.config.models import DtypeName
from lora_engine.models.accepted import is_single_file
from lora_engine.system.cores import Load
from lora_engine.text import printable

if TYPE_CHECKING:
    from job.exporting import Exported
    from job.run.chosen import Chosen, Step


@dataclass(frozen=True)
class ExportOptions:
    """The options of the command, as they were given; None where one was not."""

    variant: str | None
    seed: int | None
    step: int | None
    last: bool
    average: str | None
    merge: str | None
    resize: int | None
    strength: float
    format: Formats | None
    dtype: DtypeName | None
    output: str | None
    workdir: Path | None


def export_command(target: str, options: ExportOptions, stop: StopFlag) -> None:
    """Make what the options ask for; show the paths, and on standard error what each layer lost.

    Args:
        target: a run's folder, or an adapter's file.

    Raises:
        JobError: 2 for options that do not fit, 42 when there is no such file or run; else as `export`.
    """
    end_in_time(stop, LimitsConfig().stop_seconds)
    steps = _checked(target, options)
    with Progress(sys.stderr) as progress, resource_errors():
        with progress.doing("Loading the model libraries"):
            settle_threads(os.environ, Load())
            stop.at_once(_import_libraries)
        from job.exporting import Order, export

        order = Order(
            merge=options.merge,
            rank=options.resize,
            strength=options.strength,
            format=options.format or "kohya",
            dtype=options.dtype,
            output=None if options.output is None else Path(options.output),
        )
        folder = RunFolder(open_from_environment(target, os.environ), target)
        scratch = env.workdir(os.environ, options.workdir, "export")
        place = Workplace(run=folder, workdir=scratch, progress=progress, stop=stop, fenced=False)
        with TemporaryDirectory(dir=scratch) as files:
            made = export(_sources(folder, options, steps, Path(files)), order, place)
    _show(made)


def _sources(target: RunFolder, options: ExportOptions, steps: tuple[int, ...], folder: Path) -> "list[Chosen]":
    """The adapter's file, or those of the run's checkpoints."""
    from job.run.chosen import fetch_adapter_file, find_adapter

    if is_single_file(target.root):
        return [fetch_adapter_file(target.storage, target.root, folder)]
    adapter = find_adapter(target, options.variant, options.seed)
    if steps:
        return [adapter.fetch(step, folder) for step in steps]
    step: Step = options.step if options.step is not None else "last" if options.last else "best"
    return [adapter.fetch(step, folder)]


def _import_libraries() -> None:
    """Import torch and the model libraries, which takes seconds."""
    import job.exporting  # noqa: F401
    from lora_engine.system.quiet import quiet_libraries

    quiet_libraries()


def _checked(target: str, options: ExportOptions) -> tuple[int, ...]:
    """The steps to average; none where one checkpoint is meant.

    Raises:
        JobError: 2, options cannot be meant, or not together.
    """
    of_run = {
        "--variant": options.variant,
        "--seed": options.seed,
        "--step": options.step,
        "--last": options.last or None,
        "--average": options.average,
    }
    given = [option for option, value in of_run.items() if value is not None]
    if is_single_file(target) and given:
        raise JobError(ExitCode.USAGE, f"{given[0]} is not for an adapter's file.", "Leave it out, or name a run.")
    which = [option for option in ("--step", "--last", "--average") if option in given]
    if len(which) > 1:
        raise JobError(ExitCode.USAGE, f"{which[0]} and {which[1]} say which checkpoint is meant.", "Give one of them.")
    if options.merge is not None and options.format is not None:
        raise JobError(ExitCode.USAGE, "--format is of an adapter, not of a merged checkpoint.", "Leave it out.")
    _check_values(options)
    return () if options.average is None else _steps(options.average)


def _check_values(options: ExportOptions) -> None:
    if options.resize is not None and options.resize < 1:
        raise JobError(ExitCode.USAGE, f"--resize: {options.resize}.", "Give a rank of 1 or more.")
    if not math.isfinite(options.strength) or abs(options.strength) > 100:
        raise JobError(ExitCode.USAGE, f"--strength: {options.strength}.", "Give a number from -100 to 100.")
    if options.merge is not None:
        try:
            TypeAdapter(ModelSource).validate_python(options.merge)
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise JobError(ExitCode.USAGE, f"--merge: {options.merge!r}.", f"Give {message}.") from error
    if options.output is None:
        return
    if not options.output or "\0" in options.output or is_remote(options.output):
        raise JobError(ExitCode.USAGE, f"--output: {options.output!r}.", "Give a path on this machine.")
    if options.format == "both" and is_single_file(options.output):
        text = f"--output: {options.output} is one file, and --format both makes two."
        raise JobError(ExitCode.USAGE, text, "Name a folder.")


def _steps(text: str) -> tuple[int, ...]:
    steps = tuple(int(step) for step in text.split(",")) if re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})+", text) else ()
    if len(set(steps)) < max(len(steps), 2):
        raise JobError(ExitCode.USAGE, f"--average: {text!r}.", "Give two steps or more, such as 800,900,1000.")
    return steps


def _show(made: "Exported") -> None:
    """Print the paths; on standard error what other ranks left out of each layer's update, and of all."""
    if made.costs:
        for name, each in made.costs.items():
            typer.echo(f"{printable(name)}: rank {each.layer.rank}, {_share(each.error, each.norm)}", err=True)
        error, norm = (
            math.hypot(*values) for values in zip(*((e.error, e.norm) for e in made.costs.values()), strict=True)
        )
        typer.echo(f"all: {_share(error, norm)}", err=True)
    for path in made.paths:
        typer.echo(printable(str(path)))


def _share(error: float, norm: float) -> str:
    return f"leaves out {error:.3g} of {norm:.3g} ({error / norm if norm else 0:.2%})"
