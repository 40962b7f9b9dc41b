"""The arguments of `lora-job export` and `lora-job compare`, which make other forms of adapters and look at them."""

from pathlib import Path
from typing import Annotated

import typer

from job.process.stop import StopFlag
from lora_engine.adapters.names import Formats
from lora_engine.config.models import DtypeName

AdapterArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="An adapter's .safetensors file, or a checkpoint: RUN:VARIANT@STEP.")
]


def export(
    target: Annotated[
        str, typer.Argument(metavar="RUN|FILE", help="A run's folder, or an adapter's .safetensors file.")
    ],
    variant: Annotated[str | None, typer.Option(help="Of the run; needed where it has several.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of its training; likewise.")] = None,
    step: Annotated[int | None, typer.Option(help="Of the checkpoint; default: the best one.")] = None,
    last: Annotated[bool, typer.Option("--last", help="The last checkpoint instead of the best.")] = False,
    average: Annotated[
        str | None, typer.Option(metavar="STEP,STEP", help="The mean of what these checkpoints add.")
    ] = None,
    merge: Annotated[
        str | None, typer.Option(metavar="BASE", help="A whole checkpoint: this base model with the adapter in it.")
    ] = None,
    resize: Annotated[int | None, typer.Option(metavar="RANK", help="The highest rank that a layer may have.")] = None,
    strength: Annotated[float, typer.Option(help="By which what the adapter adds is multiplied.")] = 1.0,
    file_format: Annotated[Formats | None, typer.Option("--format", help="Default: kohya.")] = None,
    dtype: Annotated[
        DtypeName | None,
        typer.Option(help="Of the weights; default: fp32, or of a merged checkpoint the base model's own."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="A .safetensors file, or a folder; default: here, named after what was done."
        ),
    ] = None,
    workdir: Annotated[Path | None, typer.Option(help="Scratch folder; kept between starts it saves work.")] = None,
) -> None:
    """Make another form of an adapter: merged into a base model, of another rank, strength or format, or averaged."""
    from job.cli.export import ExportOptions, export_command

    stop = StopFlag()
    stop.install()
    options = ExportOptions(
        variant=variant,
        seed=seed,
        step=step,
        last=last,
        average=average,
        merge=merge,
        resize=resize,
        strength=strength,
        format=file_format,
        dtype=dtype,
        output=output,
        workdir=workdir,
    )
    export_command(target, options, stop)


def compare(
    a: AdapterArgument, b: AdapterArgument, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show how alike two adapters are: cosine and norms of what they add, by block, and what their metadata say."""
    from job.cli.compare import compare_command

    typer.echo(compare_command(a, b, as_json=as_json))
