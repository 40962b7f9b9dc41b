"""`lora-job init`: writes a manifest for a folder of pictures."""

import os
import re
import shlex
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from job import layout
from job.errors import ExitCode, JobError
from job.storage import join
from job.storage.files import atomic_file
from job.storage.uris import name_of, scheme_of
from lora_engine.text import printable

if TYPE_CHECKING:
    from job.init.manifest import Order
    from job.manifest.schema import Manifest

_OPTION_OF = {
    "dataset.source": "FOLDER",
    "name": "--name",
    "base_model.source": "--base-model",
    "captioner.source": "--captioner",
    "output.destination": "--destination",
    "storage.endpoint_url": "AWS_ENDPOINT_URL",
}
_NO_NAMES = {"data", "dataset", "images", "img", "imgs", "photos", "pictures", "raw", "train"}  # they tell no style
_LONGEST_NAME = 40  # characters, so that the text encoder reads it whole


def init(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Of pictures: a folder, a .zip or .tar, or one of these at s3://...")
    ],
    output: Annotated[
        str | None, typer.Option(metavar="FILE", help="Default: <name>.yaml; - for standard output.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the run; default: the folder's.")] = None,
    base_model: Annotated[
        str, typer.Option(metavar="SOURCE", help="miniature://stable-diffusion tries everything out in a minute.")
    ] = "hf://stable-diffusion-v1-5/stable-diffusion-v1-5",
    captioner: Annotated[str | None, typer.Option(metavar="SOURCE", help="Default: one that suits the base.")] = None,
    destination: Annotated[str, typer.Option(metavar="PLACE", help="A folder or s3://... for results.")] = "runs",
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Look at a folder of pictures and write a manifest for it, with what was found in comments."""
    from job import env
    from job.init.choose import base_of
    from job.init.make import make_manifest
    from job.init.manifest import Order

    slug, base = _slug(folder), base_of(base_model)
    order = Order(
        name=name if name is not None else slug or "pictures",
        source=_as_source(folder),
        destination=destination,
        base=base,
        captioner=captioner if captioner is not None else base.captioner,
        storage=_storage(folder, destination, base_model, captioner or ""),
    )
    least = _checked(order)
    file = None if output == "-" else Path(output if output is not None else f"{order.name}.yaml")
    if file is not None and Path(folder).is_dir() and file.resolve().is_relative_to(Path(folder).resolve()):
        raise JobError(
            ExitCode.USAGE,
            f"{file} would lie among the pictures.",
            "Name another place with --output.",
        )
    if file is not None and not force:
        _require_free(file)
    words = "my" if slug in _NO_NAMES or not slug else slug.replace("-", " ")
    text, said = make_manifest(least, order, words, env.workdir(os.environ, None, order.name), sys.stderr)
    if file is None:
        typer.echo(text, nl=False)
    else:
        _write(file, text)
        quoted = shlex.quote(str(file))
        said += [f'Look through {file}, where "{words} style" stands for what only you can name, then run']
        said += [f"  lora-job validate {quoted}   # says what of the pictures and captions is odd"]
        said += [f"  lora-job run {quoted}"]
        said += [f"and open {join(destination, order.name, layout.PAGE)}"]
    typer.echo("\n".join(map(printable, said)), err=file is None)


def _slug(folder: str) -> str:
    """The folder's or archive's name in lower-case letters, digits and hyphens; empty where it has none of these."""
    from lora_engine.images.kohya import plain_name

    name = name_of(folder) if scheme_of(folder) != "file" else Path(folder).resolve().name
    name = re.sub(r"(?i)\.(zip|tar|tgz|tar\.gz)$", "", plain_name(name))
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return "-".join(re.findall("[a-z0-9]+", plain))[:_LONGEST_NAME].strip("-")


def _as_source(folder: str) -> str:
    """The folder as a manifest may name it: with a name that looks like an address, or a user's home, after `./`."""
    looks_else = re.match(r"~|[A-Za-z][A-Za-z0-9+.-]*:", folder)
    return f"./{folder}" if looks_else and Path(folder).exists() else folder


def _storage(*places: str) -> dict[str, str]:
    """The settings of the store that the first remote one of the places lies in, as far as the environment has any."""
    from job.storage.backends import BACKENDS

    for scheme in map(scheme_of, places):
        if scheme in BACKENDS and scheme != "file":
            settings = BACKENDS[scheme].settings_in(os.environ)
            if settings.endpoint_url is not None:
                return {"endpoint_url": settings.endpoint_url, "addressing_style": settings.addressing_style}
            return {}
    return {}


def _checked(order: "Order") -> "Manifest":
    """The least manifest of the order.

    Raises:
        JobError: 2, one of the options cannot be.
    """
    from job.init.make import check_order
    from job.manifest.problems import ManifestError

    try:
        return check_order(order)
    except ManifestError as error:
        first = error.problems[0]
        option = _OPTION_OF.get(first.path, first.path)
        raise JobError(ExitCode.USAGE, f"{option}: found {first.found}.", f"Give {first.allowed}.") from error


def _require_free(file: Path) -> None:
    """Refuse, with 2, to replace what is there."""
    if os.path.lexists(file):
        raise JobError(ExitCode.USAGE, f"{file} is there already.", "Name another with --output, or add --force.")


def _write(file: Path, text: str) -> None:
    with atomic_file(file, durable=False) as writer:
        writer.write(text.encode())
