"""The commands. Each reads its arguments and calls the function that does the work; docstrings are shown as help."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from job.cli.render import app as render
from job.manifest.load import load_manifest
from job.manifest.schema import Manifest, manifest_schema
from job.process.stop import StopFlag

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
    from job import env
    from job.attempt import run_attempt

    processes = env.processes(os.environ, manifest)
    loaded = stop.at_once(lambda: _load(manifest, sets))  # Reading a pipe that nobody closes must end at a signal.
    run_attempt(loaded, workdir, env.shard(os.environ, shard), stop, processes)


@app.command()
def validate(
    manifest: ManifestArgument = None,
    sets: SetOption = None,
    offline: Annotated[bool, typer.Option("--offline", help="Check the manifest alone.")] = False,
) -> None:
    """Report every error of a manifest; also tries storage, device, and models but those of a hub, unless --offline."""
    loaded = _load(manifest, sets)
    if not offline:
        from job.preflight import check_access, check_device

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
    from job.run.status import show_status

    show_status(_folder(run), follow=follow, as_json=as_json)


@app.command()
def report(run: RunArgument) -> None:
    """Rebuild the report from a run's artifacts."""
    from job.layout import COMPARISON
    from job.report.publish import publish_report
    from lora_engine.text import printable

    folder = _folder(run)
    comparison = publish_report(folder)
    typer.echo(folder.uri(COMPARISON))
    typer.echo(printable(comparison.verdict.sentence), err=True)


@app.command()
def collect(run: RunArgument, destination: Annotated[Path, typer.Argument(metavar="DEST", readable=False)]) -> None:
    """Download a run, checking what its commits list."""
    from job.run.collect import collect as collect_run

    typer.echo(collect_run(_folder(run), destination).describe())


def _import_attempt() -> None:
    import job.attempt  # noqa: F401


def _load(argument: str | None, sets: list[str] | None) -> Manifest:
    from job.env import read_manifest

    text, origin = read_manifest(argument, os.environ, sys.stdin)
    return load_manifest(text, origin, sets or ())


def _folder(uri: str) -> Any:
    from job.storage import open_from_environment
    from job.storage.folder import RunFolder

    return RunFolder(open_from_environment(uri, os.environ), uri)
