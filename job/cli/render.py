"""`lora-job render`: documents on standard output, what to do with them on standard error."""

import json
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated

import typer

from job.deploy.aws_batch import aws_batch_commands, aws_batch_job_definition
from job.deploy.gcp_batch import gcp_batch_command, gcp_batch_job
from job.deploy.kubernetes import kubernetes_documents
from job.deploy.settings import AwsBatchSettings, GcpBatchSettings, KubernetesSettings, mebibytes
from job.deploy.workload import Workload, check_containable
from job.env import read_manifest
from job.manifest.load import load_manifest
from job.manifest.yaml_reader import write_yaml
from job.storage import is_remote

app = typer.Typer(no_args_is_help=True, help="Print a ready document for a platform.")

ManifestArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="MANIFEST",
        help="A file or -, whose text goes into the document, or s3://..., which the containers read; "
        "else $LORA_JOB_MANIFEST.",
    ),
]
ImageOption = Annotated[str, typer.Option("--image", help="The container image; best pinned by its digest.")]
SetsOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key, e.g. lora.rank=16.")
]
GpusOption = Annotated[int, typer.Option("--gpus", min=0, help="Of each container; 0 trains on CPUs.")]
CpusOption = Annotated[int, typer.Option("--cpus", min=1, help="Of each container.")]
MemoryOption = Annotated[str, typer.Option("--memory", help="Of each container, in Mi or Gi.")]
ScratchOption = Annotated[str, typer.Option("--scratch", help="Disk of each container, in Mi or Gi.")]
ServiceAccountOption = Annotated[
    str | None, typer.Option("--service-account", help="Whose rights the container has; for AWS Batch a role's ARN.")
]
PerVariantOption = Annotated[
    bool, typer.Option("--per-variant", help="A container for each variant; they share the run.")
]
PerSeedOption = Annotated[
    bool, typer.Option("--per-seed", help="A container for each seed; they share the run. With both, one an adapter.")
]
SecretOption = Annotated[
    list[str] | None,
    typer.Option("--secret", metavar="VARIABLE=SECRET", help="A variable, and the stored secret that it holds."),
]


@app.command()
def kubernetes(
    image: ImageOption,
    manifest: ManifestArgument = None,
    sets: SetsOption = None,
    gpus: GpusOption = 1,
    cpus: CpusOption = 3,
    memory: MemoryOption = "12Gi",
    scratch: ScratchOption = "30Gi",
    secret: Annotated[
        list[str] | None, typer.Option("--secret", metavar="NAME", help="A Secret; its keys become variables.")
    ] = None,
    service_account: ServiceAccountOption = None,
    per_variant: PerVariantOption = False,
    per_seed: PerSeedOption = False,
    namespace: Annotated[str | None, typer.Option(help="Without it, that of your context.")] = None,
    queue: Annotated[str | None, typer.Option(help="A LocalQueue of Kueue, which starts the Job.")] = None,
    network_policy: Annotated[
        bool,
        typer.Option("--network-policy", help="Let only DNS, HTTPS and the manifest's stores out, and nothing in."),
    ] = False,
) -> None:
    """A Job and its ConfigMap, in YAML."""
    settings = KubernetesSettings(
        image=image,
        gpus=gpus,
        cpus=cpus,
        memory_mib=mebibytes("memory", memory),
        scratch_mib=mebibytes("scratch", scratch),
        secrets=tuple(secret or ()),
        service_account=service_account,
        namespace=namespace,
        queue=queue,
        network_policy=network_policy,
    )
    documents = kubernetes_documents(_workload(manifest, sets, per_variant, per_seed), settings)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # for a program to read, whatever the terminal has
    typer.echo(write_yaml(*documents), nl=False)
    _say_next("kubectl apply --server-side -f job.yaml")


@app.command()
def aws_batch(
    image: ImageOption,
    queue: Annotated[str, typer.Option(help="The job queue's name or ARN.")],
    manifest: ManifestArgument = None,
    sets: SetsOption = None,
    gpus: GpusOption = 1,
    cpus: CpusOption = 3,
    memory: MemoryOption = "12Gi",
    secret: SecretOption = None,
    service_account: ServiceAccountOption = None,
    execution_role: Annotated[str | None, typer.Option(help="The ARN of the role that reads the secrets.")] = None,
    per_variant: PerVariantOption = False,
    per_seed: PerSeedOption = False,
) -> None:
    """A job definition, in JSON."""
    settings = AwsBatchSettings(
        image=image,
        queue=queue,
        gpus=gpus,
        cpus=cpus,
        memory_mib=mebibytes("memory", memory),
        secrets=tuple(secret or ()),
        service_account=service_account,
        execution_role=execution_role,
    )
    workload = _workload(manifest, sets, per_variant, per_seed)
    typer.echo(json.dumps(aws_batch_job_definition(workload, settings), indent=2))
    _say_next(*aws_batch_commands(workload, settings))


@app.command()
def gcp_batch(
    image: ImageOption,
    location: Annotated[str, typer.Option(help="The region, e.g. us-central1.")],
    manifest: ManifestArgument = None,
    sets: SetsOption = None,
    gpus: GpusOption = 1,
    cpus: CpusOption = 3,
    memory: MemoryOption = "12Gi",
    scratch: ScratchOption = "30Gi",
    secret: SecretOption = None,
    service_account: ServiceAccountOption = None,
    per_variant: PerVariantOption = False,
    per_seed: PerSeedOption = False,
    machine_type: Annotated[str | None, typer.Option(help="E.g. g2-standard-4, which has an L4.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="The type of the GPUs, e.g. nvidia-tesla-t4.")] = None,
    spot: Annotated[bool, typer.Option("--spot", help="On machines that may be taken away, for less.")] = False,
) -> None:
    """A job's configuration, in JSON."""
    settings = GcpBatchSettings(
        image=image,
        location=location,
        gpus=gpus,
        cpus=cpus,
        memory_mib=mebibytes("memory", memory),
        scratch_mib=mebibytes("scratch", scratch),
        secrets=tuple(secret or ()),
        service_account=service_account,
        machine_type=machine_type,
        accelerator=accelerator,
        spot=spot,
    )
    workload = _workload(manifest, sets, per_variant, per_seed)
    typer.echo(json.dumps(gcp_batch_job(workload, settings), indent=2))
    _say_next(gcp_batch_command(workload, settings))


def _workload(argument: str | None, sets: Sequence[str] | None, per_variant: bool, per_seed: bool) -> Workload:
    """The manifest with all overrides; it is read by the containers if it lies where they can."""
    text, origin = read_manifest(argument, os.environ, sys.stdin)
    by = [name for name, chosen in (("variant", per_variant), ("seed", per_seed)) if chosen]
    overrides = (*(sets or ()), *([f"split_packs_by=[{', '.join(by)}]"] if by else []))
    manifest = load_manifest(text, origin, overrides)
    workload = Workload(manifest, origin, overrides) if is_remote(origin) else Workload(manifest)
    check_containable(workload, origin)
    return workload


def _say_next(*commands: str) -> None:
    for command in commands:
        typer.echo(f"next: {command}", err=True)
