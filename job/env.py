"""Reads from the environment where the manifest and the scratch folder are, and which of several processes this is."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from job.errors import ExitCode, JobError
from job.manifest.packs import Pack
from job.manifest.schema import MANIFEST_VARIABLE
from job.storage import is_remote, open_from_environment
from job.storage.files import local_errors
from lora_engine.system.distributed import ALONE, Processes

WORKDIR_VARIABLE = "LORA_JOB_WORKDIR"
# What platforms tell each process of a job: its place, from 0, and how many there are.
_PLACES = (
    ("JOB_COMPLETION_INDEX", None),  # Kubernetes, Indexed Job
    ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    ("BATCH_TASK_INDEX", "BATCH_TASK_COUNT"),  # GCP Batch
)
# What is told to processes that train together; one machine each where LOCAL_RANK is missing.
_TOGETHER = (("RANK", ""), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", ""), ("MASTER_PORT", ""))
_LARGEST_READ = 2**20 + 1  # bytes; one more than a manifest may have


@dataclass(frozen=True)
class Shard:
    """The place of a process among those that share a run.

    Its packs are those whose index is `index` modulo `count`. It takes free ones of others when it has done its own.
    """

    index: int  # from 0
    count: int | None = None  # of processes; None: as many as there are packs

    def owns(self, pack: Pack, packs: Sequence[Pack]) -> bool:
        """Whether the pack is this process's to train."""
        return self._distance(pack, packs) == 0

    def in_turn(self, packs: Sequence[Pack]) -> tuple[Pack, ...]:
        """The packs in the order in which the process tries them: each starts elsewhere, so that few meet."""
        return tuple(sorted(packs, key=lambda pack: self._distance(pack, packs)))

    def _distance(self, pack: Pack, packs: Sequence[Pack]) -> int:
        count = self.count or len(packs)
        return (pack.index - self.index) % count


def read_manifest(argument: str | None, environ: Mapping[str, str], stdin: TextIO | None) -> tuple[bytes, str]:
    """The manifest's text and a name for messages. `LORA_JOB_MANIFEST` holds a place or the text itself, which has
    several lines or, as JSON, begins with a brace.

    Args:
        stdin: what `-` names; None where it is closed.

    Raises:
        JobError: 2 when none is named or standard input is closed, 40 when there is none there.
    """
    place = argument if argument is not None else environ.get(MANIFEST_VARIABLE)
    if not place:
        raise JobError(
            ExitCode.USAGE, "No manifest is named.", f"Name a file, - or s3://..., or set {MANIFEST_VARIABLE}."
        )
    if argument is None and ("\n" in place or place.startswith("{")):
        return os.fsencode(place), MANIFEST_VARIABLE
    if place == "-":
        if stdin is None:
            raise JobError(ExitCode.USAGE, "Standard input is closed.", "Name a file, or pass the manifest to -.")
        return stdin.buffer.read(_LARGEST_READ), "<stdin>"
    if is_remote(place):
        data = open_from_environment(place, environ).read(place)
        if data is None:
            raise JobError(ExitCode.MANIFEST, f"There is no manifest at {place}.", "Correct the name.")
        return data, place
    try:
        with Path(place).open("rb") as file:
            return file.read(_LARGEST_READ), place
    except OSError as error:
        raise JobError(
            ExitCode.MANIFEST,
            f"The manifest {place} cannot be read: {error.strerror}.",
            "Correct the path, or who may read it.",
        ) from error


def shard(environ: Mapping[str, str], chosen: str | None) -> Shard | None:
    """The place of this process among several that share a run; None where it is the only one, as far as it is told.

    Raises:
        JobError: 2 when what it is told makes no sense.
    """
    if chosen is not None:
        return parse_shard(chosen, "--shard")
    for index, count in _PLACES:
        if index in environ:
            return _told(environ, index, count)
    return None


def _told(environ: Mapping[str, str], index: str, count: str | None) -> Shard | None:
    if count is not None and count in environ:
        found = parse_shard(f"{environ[index]}/{environ[count]}", f"{index}/{count}")
        return found if found.count != 1 else None
    if not environ[index].isdecimal():
        raise JobError(ExitCode.USAGE, f"{index} is {environ[index]!r}, not a number.", "Unset it, or use --shard.")
    return Shard(int(environ[index]))


def processes(environ: Mapping[str, str], manifest: str | None) -> Processes:
    """The place of this process among those that train each pack together, as torchrun and `accelerate launch` say it.

    Raises:
        JobError: 2 when what they say makes no sense, or when all would read `manifest` from one standard input.
    """
    told = {name: environ.get(name, default) for name, default in _TOGETHER}
    if told["WORLD_SIZE"] == "1":
        return ALONE
    numbers = [told[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if not all(number.isdecimal() for number in numbers) or not (told["MASTER_ADDR"] and told["MASTER_PORT"]):
        raise JobError(
            ExitCode.USAGE,
            f"WORLD_SIZE says that {told['WORLD_SIZE']} processes train together, but not all of "
            f"{', '.join(told)} are set as torchrun sets them.",
            "Start them with torchrun, or unset WORLD_SIZE.",
        )
    if manifest == "-":
        raise JobError(
            ExitCode.USAGE, "Several processes cannot all read the manifest from standard input.", "Name a file."
        )
    return Processes(*map(int, numbers))


def workdir(environ: Mapping[str, str], chosen: Path | None, name: str) -> Path:
    """Where an attempt keeps its scratch files; made if needed."""
    base = chosen or Path(environ.get(WORKDIR_VARIABLE) or Path(tempfile.gettempdir()) / "lora-job")
    folder = base / name
    with local_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def parse_shard(text: str, origin: str) -> Shard:
    """Read `i/n`: the process's place, from 0, and how many there are.

    Raises:
        JobError: 2 when it is not that.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise JobError(
            ExitCode.USAGE,
            f"{origin} is {text!r}.",
            "Say which process this is, from 0, and how many there are: 0/4, 1/4, 2/4, 3/4.",
        )
    return Shard(int(index), int(count))
