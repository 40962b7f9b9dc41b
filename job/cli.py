"""The commands: they wire the parts together and turn errors into exit codes, nothing else."""

import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from job.errors import ExitCode, JobError, code_of
from job.manifest import Manifest, load_manifest, manifest_schema
from job.preemption import StopFlag
from job.render import app as render
from job.storage.files import NO_SPACE
from lora_engine.errors import EngineError
from lora_engine.garbage import leave_to_the_system
from lora_engine.printable import printable, shortened

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(render, name="render")


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where every error came from.")] = False,
) -> None:
    """Train one Stable Diffusion LoRA per caption strategy on the same images, and compare them."""


ManifestArgument = Annotated[
    str | None,
    typer.Argument(metavar="MANIFEST", help="A file, - for standard input, or s3://...; else $LORA_JOB_MANIFEST."),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. lora.rank=16.")
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder: a path or s3://...")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def run(
    manifest: ManifestArgument = None,
    sets: SetOption = None,
    workdir: Annotated[Path | None, typer.Option(help="Scratch folder; kept between attempts it saves work.")] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Share the run with N processes, of which this is number I, from 0."),
    ] = None,
) -> None:
    """Do the job, or what is left of it."""
    stop = StopFlag()
    stop.install()
    stop.at_once(_import_attempt)
    from job import settings
    from job.attempt import attempt

    processes = settings.processes(os.environ, manifest)
    loaded = stop.at_once(lambda: _load(manifest, sets))  # from a pipe that stays open it would wait for ever
    attempt(loaded, workdir, settings.shard(os.environ, shard), stop, processes)


@app.command()
def validate(
    manifest: ManifestArgument = None,
    sets: SetOption = None,
    offline: Annotated[bool, typer.Option("--offline", help="Check the manifest alone.")] = False,
) -> None:
    """Report every error of a manifest; also tries storage, device, and models but those of a hub, unless --offline."""
    loaded = _load(manifest, sets)
    if not offline:
        from job.checks import check_access, check_device

        check_access(loaded)
        check_device(loaded)
    typer.echo(f"{loaded.name}: valid")


@app.command()
def plan(manifest: ManifestArgument = None, sets: SetOption = None, as_json: JsonOption = False) -> None:
    """Say what a run would do, without doing it."""
    from job.plan import make_plan, render_plan

    planned = make_plan(_load(manifest, sets))
    typer.echo(json.dumps(planned.as_dict(), indent=2) if as_json else render_plan(planned))


@app.command()
def schema(
    report: Annotated[bool, typer.Option("--report", help="The schema of report/comparison.json.")] = False,
) -> None:
    """Print the JSON Schema of the manifest."""
    if report:
        from job.report.schema import report_schema

        typer.echo(json.dumps(report_schema(), indent=2))
    else:
        typer.echo(json.dumps(manifest_schema(), indent=2))


@app.command()
def status(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Until the run ends.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show where a run stands, from its files alone."""
    from job.status import show_status

    show_status(_folder(run), follow=follow, as_json=as_json)


@app.command()
def report(run: RunArgument) -> None:
    """Rebuild the report from a run's artifacts."""
    from job.layout import COMPARISON
    from job.report.publish import publish_report

    folder = _folder(run)
    publish_report(folder)
    typer.echo(folder.uri(COMPARISON))


@app.command()
def collect(run: RunArgument, destination: Annotated[Path, typer.Argument(metavar="DEST", readable=False)]) -> None:
    """Download a run, checking what its commits list."""
    from job.collect import collect as collect_run

    typer.echo(collect_run(_folder(run), destination).describe())


def _import_attempt() -> None:
    import job.attempt  # noqa: F401


def _load(argument: str | None, sets: list[str] | None) -> Manifest:
    from job.settings import read_manifest

    text, origin = read_manifest(argument, os.environ, sys.stdin)
    return load_manifest(text, origin, sets or ())


def _folder(uri: str) -> Any:
    from job.settings import storage_from_environment
    from job.storage import open_storage
    from job.storage.run_folder import RunFolder

    return RunFolder(open_storage(uri, storage_from_environment(os.environ)), uri)


_TERMINATION_LOG = Path("/dev/termination-log")  # what Kubernetes shows of a container that ended
_LARGEST = 1024  # characters, of at most 4 bytes: Kubernetes takes 4 KB
_CLOSED_PIPE = 128 + signal.SIGPIPE  # as the signal ends other programs


def main() -> None:
    """Run a command and exit with its code; the last line says the cause and the remedy."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error does with what it cannot encode
    code = _guarded()
    if any(code == stop for stop in ExitCode if stop.is_stop):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # what was abandoned may wait for the network longer than the platform waits for us
    leave_to_the_system()
    sys.exit(code)


def _guarded() -> int:
    try:
        result = app(standalone_mode=False)
    except (JobError, EngineError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        return _fail(code_of(error), str(error))
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("lora-job: Stopped.", err=True)
        return 128 + signal.SIGINT
    except SystemExit:  # how the libraries that write answer a pipe that nobody reads
        _drop_output()
        return _CLOSED_PIPE
    except Exception as error:  # noqa: BLE001 - the edge of the program
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            _drop_output()
            what = f"{error.filename or 'Standard output'} cannot be written: {error.strerror}."
            return _fail(ExitCode.RESOURCES, _one_line(f"{what} Free disk space, or write elsewhere."))
        if hasattr(error, "format_message"):  # of the CLI library: an argument that does not fit
            message = error.format_message()
            return (
                _fail(ExitCode.USAGE, _one_line(f"{message} Try `lora-job --help`."))
                if message
                else int(ExitCode.USAGE)
            )
        traceback.print_exc()
        what = shortened(f"{type(error).__name__}: {error}", 1000)
        return _fail(ExitCode.BUG, _one_line(f"{what}. This is a bug in lora-job; please report it."))
    return int(result) if isinstance(result, int) else 0


def _drop_output() -> None:
    """What is still to be written would fail again when the interpreter ends, and change the exit code."""
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)


def _one_line(message: str) -> str:
    return printable(" ".join(message.split()))


def _fail(code: ExitCode, message: str) -> int:
    typer.echo(f"lora-job: {message}", err=True)
    if _TERMINATION_LOG.exists():
        with suppress(OSError):  # that of a container that may not write it
            _TERMINATION_LOG.write_text(f"{code}: {message}"[:_LARGEST])
    return int(code)
