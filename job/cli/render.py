"""`lora-job render`: documents on standard output, what to do with them on standard error.

A platform's options are the fields of its settings, and their defaults are those of the fields. The table below says
how each is written on the command line and explains it, once for all platforms.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, fields
from functools import partial
from inspect import Parameter, Signature
from io import TextIOWrapper
from typing import Annotated, Any, TypeVar

import typer

from job.cli.examples import examples
from job.deploy.aws_batch import aws_batch_commands, aws_batch_job_definition
from job.deploy.gcp_batch import gcp_batch_command, gcp_batch_job
from job.deploy.kubernetes import kubernetes_documents
from job.deploy.settings import (
    AwsBatchSettings,
    GcpBatchSettings,
    KubernetesSettings,
    Settings,
    mebibytes,
    quantity,
)
from job.deploy.workload import Workload, check_containable, check_gpus
from job.env import read_manifest
from job.manifest.load import load_manifest
from job.manifest.yaml_reader import write_yaml
from job.storage import is_remote

app = typer.Typer(no_args_is_help=True, help="Print a ready document for a platform.", epilog=examples("render"))

S = TypeVar("S", bound=Settings)

# Parameters of every command besides settings, which say what the workload is, with their defaults.
_OF_THE_MANIFEST: dict[str, Any] = {"manifest": None, "sets": None, "per_variant": False, "per_seed": False}
# Every option by its parameter, in the order of the help page; those that must be given come first there.
_OPTIONS: dict[str, Any] = {
    "image": Annotated[str, typer.Option("--image", help="The container image; best pinned by its digest.")],
    "location": Annotated[str, typer.Option(help="The region, e.g. us-central1.")],
    "manifest": Annotated[
        str | None,
        typer.Argument(
            metavar="MANIFEST",
            help="A file or -, whose text goes into the document, or s3://..., which the containers read; "
            "else $LORA_JOB_MANIFEST.",
        ),
    ],
    "sets": Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. lora.rank=16.")
    ],
    "gpus": Annotated[int, typer.Option("--gpus", min=0, help="Of each container; 0 trains on CPUs.")],
    "cpus": Annotated[int, typer.Option("--cpus", min=1, help="Of each container.")],
    "memory_mib": Annotated[str, typer.Option("--memory", help="Of each container, in Mi or Gi.")],
    "scratch_mib": Annotated[str, typer.Option("--scratch", help="Disk of each container, in Mi or Gi.")],
    "secrets": Annotated[
        list[str] | None,
        typer.Option("--secret", metavar="VARIABLE=SECRET", help="A variable, and the stored secret that it holds."),
    ],
    "service_account": Annotated[
        str | None,
        typer.Option("--service-account", help="Whose rights the container has; for AWS Batch a role's ARN."),
    ],
    "execution_role": Annotated[str | None, typer.Option(help="The ARN of the role that reads the secrets.")],
    "per_variant": Annotated[
        bool, typer.Option("--per-variant", help="A container for each variant; they share the run.")
    ],
    "per_seed": Annotated[
        bool,
        typer.Option("--per-seed", help="A container for each seed; they share the run. With both, one an adapter."),
    ],
    "namespace": Annotated[str | None, typer.Option(help="Without it, that of your context.")],
    "queue": Annotated[str | None, typer.Option(help="A LocalQueue of Kueue, which starts the Job.")],
    "network_policy": Annotated[
        bool,
        typer.Option("--network-policy", help="Let only DNS, HTTPS and the manifest's stores out, and nothing in."),
    ],
    "machine_type": Annotated[str | None, typer.Option(help="E.g. g2-standard-4, which has an L4.")],
    "accelerator": Annotated[str | None, typer.Option(help="The type of the GPUs, e.g. nvidia-tesla-t4.")],
    "spot": Annotated[bool, typer.Option("--spot", help="On machines that may be taken away, for less.")],
}
# Fields whose option holds another value: how the field is made of it, and how a default is shown.
_READ: dict[str, Callable[[Any], Any]] = {
    "memory_mib": partial(mebibytes, "memory"),
    "scratch_mib": partial(mebibytes, "scratch"),
    "secrets": lambda given: tuple(given or ()),
}
_WRITE: dict[str, Callable[[Any], Any]] = {"memory_mib": quantity, "scratch_mib": quantity, "secrets": lambda _: None}


def _command(settings: type[S], **own: Any) -> Callable[[Callable[[Workload, S], None]], None]:
    """Make a command of a function that prints a workload's document for a platform.

    Args:
        settings: the platform's, whose fields become options.
        own: options that the platform explains in its own words, by field.
    """

    def register(show: Callable[[Workload, S], None]) -> None:
        def command(**given: Any) -> None:
            of_the_manifest = {name: given.pop(name) for name in _OF_THE_MANIFEST}
            chosen = settings(**{name: _READ.get(name, lambda same: same)(value) for name, value in given.items()})
            workload = _workload(**of_the_manifest)
            check_gpus(workload.manifest, chosen.gpus)
            show(workload, chosen)

        parameters = _parameters(settings, _OPTIONS | own)
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # where typer finds the options
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__name__, command.__doc__ = show.__name__, show.__doc__
        app.command(epilog=examples("render", show.__name__.replace("_", "-")))(command)

    return register


def _parameters(settings: type[Settings], options: dict[str, Any]) -> list[Parameter]:
    """The options of a command: those that must be given first, each group in the order of `options`."""
    defaults = _OF_THE_MANIFEST | {field.name: _default(field) for field in fields(settings)}
    assert defaults.keys() <= options.keys(), "a field of the settings has no option"
    found = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=defaults[name], annotation=annotation)
        for name, annotation in options.items()
        if name in defaults
    ]
    return sorted(found, key=lambda parameter: parameter.default is not Parameter.empty)


def _default(field: Field[Any]) -> Any:
    """The value of a field's option that is not given; `Parameter.empty` where it must be."""
    if field.default is MISSING:
        return Parameter.empty
    return _WRITE.get(field.name, lambda same: same)(field.default)


@_command(
    KubernetesSettings,
    secrets=Annotated[
        list[str] | None, typer.Option("--secret", metavar="NAME", help="A Secret; its keys become variables.")
    ],
)
def kubernetes(workload: Workload, settings: KubernetesSettings) -> None:
    """A Job and its ConfigMap, in YAML."""
    documents = kubernetes_documents(workload, settings)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # a program reads the document, whatever the terminal can show
    typer.echo(write_yaml(*documents), nl=False)
    _say_next("kubectl apply --server-side -f job.yaml")


@_command(AwsBatchSettings, queue=Annotated[str, typer.Option(help="The job queue's name or ARN.")])
def aws_batch(workload: Workload, settings: AwsBatchSettings) -> None:
    """A job definition, in JSON."""
    typer.echo(json.dumps(aws_batch_job_definition(workload, settings), indent=2))
    _say_next(*aws_batch_commands(workload, settings))
    # A job definition cannot say how long a container has to stop: the agent of the machine does.
    seconds = workload.grace_seconds
    typer.echo(
        f"note: set ECS_CONTAINER_STOP_TIMEOUT={seconds}s for the ECS agent; without it, it kills after 30s", err=True
    )


@_command(GcpBatchSettings)
def gcp_batch(workload: Workload, settings: GcpBatchSettings) -> None:
    """A job's configuration, in JSON."""
    typer.echo(json.dumps(gcp_batch_job(workload, settings), indent=2))
    _say_next(gcp_batch_command(workload, settings))


def _workload(manifest: str | None, sets: Sequence[str] | None, per_variant: bool, per_seed: bool) -> Workload:
    """The manifest with all overrides. Containers read it themselves if it lies where they can, and then take those."""
    text, origin = read_manifest(manifest, os.environ, sys.stdin)
    by = [name for name, chosen in (("variant", per_variant), ("seed", per_seed)) if chosen]
    overrides = (*(sets or ()), *([f"split_packs_by=[{', '.join(by)}]"] if by else []))
    loaded = load_manifest(text, origin, overrides)
    workload = Workload(loaded, origin, overrides) if is_remote(origin) else Workload(loaded)
    check_containable(workload, origin)
    return workload


def _say_next(*commands: str) -> None:
    """Show, beside the document, how it is submitted."""
    for command in commands:
        typer.echo(f"next: {command}", err=True)
