"""The commands. Each reads its arguments and calls the function that does the work; docstrings are shown as help."""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from job.cli.examples import examples
from job.cli.forms import compare, export
from job.cli.init import init
from job.cli.render import app as render
from job.cli.several import with_several_values
from job.manifest.load import load_manifest
from job.manifest.schema import Manifest, manifest_schema
from job.manifest.trackers import with_defaults
from job.process.stop import StopFlag
from lora_engine.config.models import DeviceChoice
from lora_engine.system.cores import Load

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(),
)
app.add_typer(render, name="render")
app.command(epilog=examples("init"))(init)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"lora-job {version('lora-job')}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
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


@app.command(epilog=examples("run"))
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
    load, stop = Load(), StopFlag()
    stop.install()
    stop.at_once(_import_attempt)
    from job import env
    from job.attempt import run_attempt

    processes = env.processes(os.environ, manifest)
    loaded = stop.at_once(lambda: _load(manifest, sets))  # Reading a pipe that nobody closes must end at a signal.
    run_attempt(loaded, workdir, env.shard(os.environ, shard), stop, processes, load)


@app.command(epilog=examples("validate"))
def validate(
    manifest: ManifestArgument = None,
    sets: SetOption = None,
    offline: Annotated[bool, typer.Option("--offline", help="Check the manifest alone.")] = False,
) -> None:
    """Report every error of a manifest; unless --offline also of storage, device, dataset, and models but a hub's."""
    from job import env

    loaded = _load(manifest, sets)
    from job.preflight import check_access, check_device, check_loras, check_trainable
    from job.trackers.installed import lacking

    env.check_stores(loaded, os.environ)
    check_loras(loaded)
    for text in lacking(with_defaults(loaded.trackers), os.environ):
        typer.echo(text, err=True)
    if not offline:
        check_access(loaded)
        check_device(loaded)
        check_trainable(loaded)
        _look_into_data(loaded)
    typer.echo(f"{loaded.name}: valid")


@app.command(epilog=examples("plan"))
def plan(manifest: ManifestArgument = None, sets: SetOption = None, as_json: JsonOption = False) -> None:
    """Say what a run would do, without doing it."""
    from job.cli.plan import render_plan
    from job.plan import make_plan

    planned = make_plan(_load(manifest, sets))
    typer.echo(json.dumps(planned.as_dict(), indent=2) if as_json else render_plan(planned))


@app.command(epilog=examples("schema"))
def schema(
    report: Annotated[bool, typer.Option("--report", help="The schema of report/comparison.json.")] = False,
) -> None:
    """Print the JSON Schema of the manifest."""
    if report:
        from job.report.schema import report_schema

        typer.echo(json.dumps(report_schema(), indent=2))
    else:
        typer.echo(json.dumps(manifest_schema(), indent=2))


@app.command(epilog=examples("convert"))
def convert(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="TOML or JSON of kohya's sd-scripts, or a shell file with a command.")
    ],
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the manifest goes; default: standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite that file.")] = False,
) -> None:
    """Make a manifest of another trainer's configuration; standard error says what of that it does not hold."""
    from job.cli.convert import convert_command

    typer.echo(convert_command(file, output, overwrite=force), nl=False)


@app.command(epilog=examples("status"))
def status(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Until the run ends.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show where a run stands, from its files alone."""
    from job.cli.status import show_status

    show_status(_folder(run), follow=follow, as_json=as_json)


@app.command(epilog=examples("report"), cls=with_several_values("--ratings"))
def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders of runs: paths or s3://...")],
    output: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Of several runs; default: ./side-by-side-RUN-RUN.")
    ] = None,
    ratings: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE...", help="Votes that report/rate.html exported, of one run; they replace those before."
        ),
    ] = None,
) -> None:
    """Rebuild the report and adapters/ from a run's artifacts; of several runs, put their reports side by side."""
    from job.run.status import require_run
    from lora_engine.text import printable

    folders = [_folder(run) for run in runs]
    for folder in folders:
        require_run(folder)
    if len(folders) > 1:
        if ratings:
            raise typer.BadParameter("votes are on the pictures of one run", param_hint="--ratings")
        from job.report.side_by_side.publish import publish_side_by_side

        page, sentence = publish_side_by_side(folders, output)
        typer.echo(page)
    elif output is not None:
        raise typer.BadParameter("it is of several runs: that of one lies in its folder", param_hint="--output")
    else:
        from job import layout
        from job.report.publish import publish_report
        from job.report.rating.given import read_files
        from job.report.rating.kept import raters_kept
        from job.report.rating.words import given

        votes = read_files(ratings or (), os.environ)
        before = raters_kept(folders[0]) if votes else []
        comparison = publish_report(folders[0], votes=votes)
        if votes and comparison.ratings is not None:
            typer.echo(printable(given(comparison.ratings, before)), err=True)
        sentence = comparison.verdict.sentence
        for key in (layout.COMPARISON, layout.ADAPTER_INDEX, layout.PAGE):
            typer.echo(folders[0].uri(key))
    typer.echo(printable(sentence), err=True)


@app.command(epilog=examples("collect"))
def collect(
    run: RunArgument,
    destination: Annotated[Path, typer.Argument(metavar="DEST", readable=False)],
    adapters: Annotated[bool, typer.Option("--adapters", help="adapters/ and report/ alone.")] = False,
) -> None:
    """Download a run, checking the SHA-256 of all that it lists."""
    from job.run.collect import collect as collect_run

    typer.echo(collect_run(_folder(run), destination, adapters_alone=adapters).describe())


@app.command(epilog=examples("verify"))
def verify(run: RunArgument) -> None:
    """Read every file that a run's commits, pointers and report name: all there, and all whole?"""
    from job.cli.verify import verify_command

    typer.echo(verify_command(_folder(run)))


@app.command(epilog=examples("sample"))
def sample(
    target: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, or an adapter's .safetensors file.")],
    prompts: Annotated[
        str | None, typer.Option(metavar="FILE", help="Prompts: a line each as kohya's scripts take them, or YAML.")
    ] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="A prompt, with options as in such a line. Repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the set, below samples/ of the run.")] = None,
    best: Annotated[bool, typer.Option("--best", help="The best checkpoints instead of all.")] = False,
    base: Annotated[bool, typer.Option("--base", help="The base model alone; with --best beside these.")] = False,
    seed: Annotated[
        list[int] | None, typer.Option(help="Of every prompt. Repeatable; default: as in the manifest, or 0.")
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="N|WxH", help="Pixels; default: as in the manifest.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; default: as in the manifest.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Default: as in the manifest.")] = None,
    negative: Annotated[str | None, typer.Option(metavar="TEXT", help="Negative prompt.")] = None,
    sampler: Annotated[str | None, typer.Option(help="Default: as in the manifest, or the base model's own.")] = None,
    strength: Annotated[float | None, typer.Option(help="Of the adapters.")] = None,
    base_model: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="Where the base model is, if not where the manifest says.")
    ] = None,
    vae: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="Where its VAE is, if not there; for an adapter's file: instead of its own."
        ),
    ] = None,
    clip: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="The CLIP model that scores; default: the manifest's.")
    ] = None,
    device: Annotated[DeviceChoice | None, typer.Option(help="Default: as in the manifest, or auto.")] = None,
    template: Annotated[
        str | None, typer.Option(metavar="TEXT", help="How an adapter's file was trained: '{prompt}, line art'.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="For an adapter's file; default: the folder that it is in.")
    ] = None,
    workdir: Annotated[Path | None, typer.Option(help="Scratch folder; kept between starts it saves work.")] = None,
) -> None:
    """Draw prompts with a run's checkpoints, or an adapter's file, bare and as trained, as a set of its own."""
    from job.cli.sample import SampleOptions, sample_command

    stop = StopFlag()
    stop.install()
    options = SampleOptions(
        prompts=prompts,
        prompt=tuple(prompt or ()),
        name=name,
        best=best,
        base=base,
        seeds=tuple(seed or ()),
        size=size,
        steps=steps,
        guidance=guidance,
        negative_prompt=negative,
        sampler=sampler,
        strength=strength,
        base_model=base_model,
        vae=vae,
        clip=clip,
        device=device,
        template=template,
        output=output,
        workdir=workdir,
    )
    typer.echo(sample_command(target, options, stop))


app.command(epilog=examples("export"))(export)
app.command(epilog=examples("compare"))(compare)


def _look_into_data(manifest: Manifest) -> None:
    """Show what is in the dataset, and what is odd about it."""
    from job import env
    from job.data_check import check_data
    from job.process.progress import Progress
    from lora_engine.text import printable

    said: list[str] = []
    try:
        with Progress(sys.stderr) as progress:
            # A run of this name may be at work in its own folder.
            folder = env.workdir(os.environ, None, manifest.name)
            with tempfile.TemporaryDirectory(prefix="validate-", dir=folder) as scratch:
                said.extend(map(printable, check_data(manifest, Path(scratch), progress, StopFlag())))
    finally:  # What was seen before an error may be its cause.
        if said:
            typer.echo("\n".join(said), err=True)


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
