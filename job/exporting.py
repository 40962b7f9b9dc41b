"""Makes other forms of an adapter: averaged, of another rank or strength, in another format, or merged into a base."""

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from job.errors import ExitCode, JobError
from job.manifest.models import BaseModelConfig
from job.run.chosen import Chosen
from job.run.context import Workplace
from job.stages.models import fetch_weights, refuse_pickle_at
from job.storage import StorageSettings
from job.storage.files import local_errors
from lora_engine.adapters import updates
from lora_engine.adapters.lora_file import LoraFile, read_lora
from lora_engine.adapters.names import Formats
from lora_engine.adapters.rewritten import made_from_metadata, write_diffusers, write_kohya
from lora_engine.adapters.updates import Resized
from lora_engine.config.models import DtypeName
from lora_engine.models import accepted, stable_diffusion
from lora_engine.models.files import LocalModel
from lora_engine.models.merged_checkpoint import MergeOrder, merge_file, merge_folder
from lora_engine.system.device import DTYPES


@dataclass(frozen=True)
class Order:
    """What is to be made of an adapter."""

    merge: str | None  # where the base model is; None for a file of the adapter alone
    rank: int | None  # the highest that a layer may have; None for that which it has
    strength: float
    format: Formats
    dtype: DtypeName | None  # of the weights; None for fp32, or of a merged checkpoint for the base model's own
    output: Path | None  # a .safetensors file, or a folder; None for the current folder


@dataclass(frozen=True)
class Exported:
    """What was made."""

    paths: tuple[Path, ...]
    costs: Mapping[str, Resized]  # of each layer that was given another rank


def export(sources: Sequence[Chosen], order: Order, place: Workplace) -> Exported:
    """Make what the order says of an adapter, or of the average of several checkpoints of it.

    Raises:
        JobError: 2 when the adapter, or the base model, is not of a kind that this can be made of; 46 when something
            else is where the result goes.
        ModelError: 43 when a file is no LoRA, or is not for that base model.
    """
    files = [read_lora(source.path) for source in sources]
    _require_plain(files, order)
    operations: list[dict[str, Any]] = []
    file, costs = _of_rank(files, order.rank)
    if len(files) > 1:
        operations.append({"average": [source.origin.get("step") for source in sources]})
    if costs:
        operations.append({"resize": order.rank, **_whole(costs)})
    if order.strength != 1:
        operations.append({"strength": order.strength})
    made_from = {"sources": [source.origin for source in sources], "operations": operations}
    name = _name(sources, order)
    if order.merge is None:
        return Exported(_write_files(file, name, made_from, order), costs)
    return Exported((_write_merged(file, name, made_from, order, sources[0], place),), costs)


def _require_plain(files: Sequence[LoraFile], order: Order) -> None:
    """Refuse what cannot be done to DoRA, whose effect on a weight is no multiple of its factors."""
    if not any(updates.is_dora(file.layers.values()) for file in files):
        return
    for option, is_asked in (
        ("--average", len(files) > 1),
        ("--strength", order.strength != 1 and order.merge is None),
    ):
        if is_asked:
            raise JobError(
                ExitCode.USAGE,
                f"{option}: the adapter is DoRA, which scales the base model's weights as well.",
                "Merge it into its base model: --merge takes a --strength."
                if option == "--strength"
                else "Name one checkpoint.",
            )


def _of_rank(files: Sequence[LoraFile], rank: int | None) -> tuple[LoraFile, dict[str, Resized]]:
    """The file, or the average of several in the ranks of the last, of at most that rank; and what ranks cost."""
    if len(files) == 1 and rank is None:
        return files[0], {}
    file = updates.averaged(files) if len(files) > 1 else files[0]
    own = {name: max(f.layers[name].rank for f in files if name in f.layers) for name in file.layers}
    return updates.resize(file, {name: min(each, rank or each) for name, each in own.items()})


def _whole(costs: Mapping[str, Resized]) -> dict[str, float]:
    """The norm of all updates before their ranks were changed, and of what was left out."""
    values = torch.tensor([[each.norm, each.error] for each in costs.values()], dtype=torch.float64)
    norm, error = values.square().sum(dim=0).sqrt().tolist()
    return {"norm": norm, "error": error}


def _name(sources: Sequence[Chosen], order: Order) -> str:
    """The name of what is made, which says what was done."""
    steps = [str(source.origin["step"]) for source in sources if "step" in source.origin]
    parts = [sources[0].name]
    if len(sources) > 1:
        parts.append(f"average-{'-'.join(steps)}")
    elif steps:
        parts.append(f"step-{steps[0]}")
    parts += [f"rank-{order.rank}"] if order.rank is not None else []
    parts += [f"strength-{order.strength:g}"] if order.strength != 1 else []
    parts += [order.dtype] if order.dtype is not None else []
    parts += ["merged"] if order.merge is not None else []
    return "-".join(parts)


def _write_files(file: LoraFile, name: str, made_from: Mapping[str, Any], order: Order) -> tuple[Path, ...]:
    """Write the adapter's files, all or none, and give their paths."""
    dtype = DTYPES[order.dtype or "fp32"]
    changed = file if order.strength == 1 else updates.scaled(file, order.strength)
    folder, own_name = _place_of(order.output)
    names = {"kohya": own_name or f"{name}.safetensors", "diffusers": own_name or f"{name}-diffusers.safetensors"}
    format_of = {name: kind for kind, name in names.items() if order.format in (kind, "both")}

    def write(path: Path) -> None:
        if format_of[path.name] == "kohya":
            write_kohya(path, changed, path.stem, made_from, dtype)
        else:
            write_diffusers(path, changed, made_from, dtype)

    return _appear(folder, list(format_of), write)


def _place_of(output: Path | None) -> tuple[Path, str | None]:
    """The folder that a result goes into, and its name there; None where the user gives none."""
    if output is not None and accepted.is_single_file(str(output)):
        return output.parent, output.name
    return output or Path(), None


def _write_merged(
    file: LoraFile, name: str, made_from: dict[str, Any], order: Order, source: Chosen, place: Workplace
) -> Path:
    """Write the base model with the adapter in its weights, laid out as it was, and give the path."""
    base = _fetch_base(order, source, place)
    folder, own_name = _place_of(order.output)
    if base.path.is_dir():
        if own_name is not None:
            text = f"{order.output} names a file, and {order.merge} is a folder, whose layout stays."
            raise JobError(ExitCode.USAGE, text, "Name a folder with --output.")
        folder, own_name = (Path(), name) if order.output is None else (order.output.parent, order.output.name)
    operations = [*made_from["operations"], {"merge": {"base": base.path.name, "sha256": base.sha256}}]
    metadata = made_from_metadata({**made_from, "operations": operations})
    merge = MergeOrder(file, order.strength, None if order.dtype is None else DTYPES[order.dtype], metadata)

    def write(path: Path) -> None:
        with place.progress.doing("Merging", f"Merging into {base.path.name}"):
            if base.path.is_dir():
                merge_folder(base, merge, path)
            else:
                merge_file(base.path, merge, path)

    return _appear(folder, [own_name or f"{name}.safetensors"], write)[0]


def _fetch_base(order: Order, source: Chosen, place: Workplace) -> LocalModel:
    """The base model to merge into: a folder, or one file. It warns where a run's adapter was trained on another."""
    assert order.merge is not None
    refuse_pickle_at(order.merge, "--merge")
    config = BaseModelConfig(source=order.merge)
    base = fetch_weights(place, "--merge", config, accepted.PIPELINE, StorageSettings())
    if base.path.is_dir():
        stable_diffusion.require_weights(base)
        if source.base_sha256 not in (None, base.sha256):
            place.progress.warn(f"{order.merge} is not the base model that {source.name} was trained on")
    if source.base_has_merged:
        place.progress.warn(f"{source.name} was trained on a base model with adapters merged in (base_model.merge)")
    return base


def _appear(folder: Path, names: Sequence[str], write: Callable[[Path], None]) -> tuple[Path, ...]:
    """Files or folders of these names in a folder, which is made: all appear once all are whole.

    Args:
        write: makes the file or folder at a path, whose name is one of these.

    Raises:
        JobError: 46 when something has such a name; 42 or 44 when nothing can be written there.
    """
    paths = tuple(folder / name for name in names)
    _require_free(paths)
    with local_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
            (usual := Path(scratch) / ".usual").touch()
            for path in paths:
                with local_errors(path):
                    write(Path(scratch) / path.name)
                _open_as_others(Path(scratch) / path.name, usual)
            _require_free(paths)
            for path in paths:
                (Path(scratch) / path.name).rename(path)
    return paths


def _open_as_others(made: Path, like: Path) -> None:
    """Give a file, or those in a folder, the rights of a file that was made as usual: safetensors leaves fewer."""
    for path in (made, *made.rglob("*")):
        if path.is_file():
            path.chmod(stat.S_IMODE(like.stat().st_mode))


def _require_free(paths: Sequence[Path]) -> None:
    for path in paths:
        if os.path.lexists(path):
            raise JobError(ExitCode.CONFLICT, f"{path} is there already.", "Name another place: --output PATH.")
