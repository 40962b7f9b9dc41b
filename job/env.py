"""Reads from the environment where the manifest and the scratch folder are, and which of several processes this is."""

import contextlib
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from job.errors import ExitCode, JobError
from job.manifest.packs import Pack
from job.manifest.schema import MANIFEST_VARIABLE, Manifest
from job.storage import is_remote, open_from_environment
from job.storage.backends import source_backend_of
from job.storage.hub import is_hub
from lora_engine.system.distributed import ALONE, Processes
from lora_engine.system.limits import raise_if_limit
from lora_engine.system.scratch import make_folder

WORKDIR_VARIABLE = "LORA_JOB_WORKDIR"
# The variables in which platforms tell each process of a job its index, from 0, and the number of processes.
_SHARD_VARIABLES = (
    ("JOB_COMPLETION_INDEX", None),  # Kubernetes, Indexed Job, which does not tell the number
    ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    ("BATCH_TASK_INDEX", "BATCH_TASK_COUNT"),  # GCP Batch
)
# The variables in which torchrun tells processes that train together who they are, with the value of one that is not
# set. Without LOCAL_RANK each process has a machine of its own.
_RANK_VARIABLES = (("RANK", ""), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("MASTER_ADDR", ""), ("MASTER_PORT", ""))
_LARGEST_READ = 2**20 + 1  # bytes; one more than a manifest may have, so that one that is too long is found out


@dataclass(frozen=True)
class Shard:
    """The place of a process among those that share a run.

    Its own packs are those whose index is `index` modulo `count`. When it has trained these, it takes those of others
    that no process works on.
    """

    index: int  # from 0
    count: int | None = None  # how many processes share the run; None: as many as there are packs

    def owns(self, pack: Pack, packs: Sequence[Pack]) -> bool:
        """Whether the pack is this process's to train."""
        return self._distance(pack, packs) == 0

    def in_turn(self, packs: Sequence[Pack]) -> tuple[Pack, ...]:
        """The packs in the order in which the process tries them: each process starts elsewhere, so that few meet."""
        return tuple(sorted(packs, key=lambda pack: self._distance(pack, packs)))

    def _distance(self, pack: Pack, packs: Sequence[Pack]) -> int:
        """How many shards further the pack's own shard is: 0 for this one."""
        count = self.count or len(packs)
        return (pack.index - self.index) % count


def read_manifest(argument: str | None, environ: Mapping[str, str], stdin: TextIO | None) -> tuple[bytes, str]:
    """The manifest's text, and a name of where it was read for messages.

    Args:
        argument: a path, a URI, or `-`; None for what `LORA_JOB_MANIFEST` holds. That is one of these or the manifest
            itself, which has several lines or, as JSON, begins with a brace.
        stdin: the stream that `-` names; None where it is closed.

    Raises:
        JobError: 2 when no manifest is named or standard input is closed, 40 when there is none at that place.
    """
    place = argument if argument is not None else environ.get(MANIFEST_VARIABLE)
    if not place:
        raise JobError(
            ExitCode.USAGE, "No manifest is named.", f"Name a file, - or s3://..., or set {MANIFEST_VARIABLE}."
        )
    if argument is None and ("\n" in place or place.startswith("{")):
        return os.fsencode(place), MANIFEST_VARIABLE
    return read_text(place, "manifest", environ, stdin)


def read_text(place: str, what: str, environ: Mapping[str, str], stdin: TextIO | None) -> tuple[bytes, str]:
    """A text that a user names, and a name of where it was read for messages.

    Args:
        place: a path, a URI, or `-`.
        what: the text is, in a word.
        stdin: the stream that `-` names; None where it is closed.

    Raises:
        JobError: 2 when standard input is closed, 40 when there is no text at that place.
    """
    if place == "-":
        if stdin is None:
            raise JobError(ExitCode.USAGE, "Standard input is closed.", f"Name a file, or pass the {what} to -.")
        return stdin.buffer.read(_LARGEST_READ), "<stdin>"
    if is_remote(place):
        data = open_from_environment(place, environ).read(place)
        if data is None:
            raise JobError(ExitCode.MANIFEST, f"There is no {what} at {place}.", "Correct the name.")
        return data, place
    try:
        with Path(place).open("rb") as file:
            return file.read(_LARGEST_READ), place
    except OSError as error:
        raise_if_limit(error)
        raise JobError(
            ExitCode.MANIFEST,
            f"The {what} {place} cannot be read: {error.strerror}.",
            "Correct the path, or who may read it.",
        ) from error


def check_stores(manifest: Manifest, environ: Mapping[str, str]) -> None:
    """Refuse, without a request, settings and variables with which the manifest's stores can never be reached.

    Raises:
        JobError: 40 for a key of the manifest, 42 for a variable of the environment.
    """
    places = [(manifest.output.destination, manifest.output_storage())]
    places.append((manifest.dataset.source, manifest.dataset_storage()))
    places += [(manifest.output.cache, manifest.output_storage())] if manifest.output.cache else []
    places += [(model.source, manifest.model_storage()) for model in manifest.models() if not is_hub(model.source)]
    for uri, settings in places:
        source_backend_of(uri).check(settings, environ)


def shard(environ: Mapping[str, str], chosen: str | None) -> Shard | None:
    """The place of this process among those that share a run; None where it was told of no other.

    Args:
        chosen: the value of `--shard`, which goes before the platform's variables; None where it is not given.

    Raises:
        JobError: 2 when a value is no place.
    """
    if chosen is not None:
        return parse_shard(chosen, "--shard")
    for index, count in _SHARD_VARIABLES:
        if index in environ:
            return _platform_shard(environ, index, count)
    return None


def _platform_shard(environ: Mapping[str, str], index: str, count: str | None) -> Shard | None:
    """The place that a platform tells in the variables of these names; None where it started one process alone."""
    if count is not None and count in environ:
        found = parse_shard(f"{environ[index]}/{environ[count]}", f"{index}/{count}")
        return found if found.count != 1 else None
    if not environ[index].isdecimal():
        raise JobError(ExitCode.USAGE, f"{index} is {environ[index]!r}, not a number.", "Unset it, or use --shard.")
    return Shard(int(environ[index]))


def processes(environ: Mapping[str, str], manifest: str | None) -> Processes:
    """The place of this process among those that train each pack together, as torchrun and `accelerate launch` tell it.

    Args:
        manifest: the command's argument, which must not be `-` where several processes would read standard input.

    Raises:
        JobError: 2 when the variables make no sense, or the manifest is `-` for several processes.
    """
    told = {name: environ.get(name, default) for name, default in _RANK_VARIABLES}
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
    """The folder in which an attempt keeps its scratch files, made if needed.

    Args:
        chosen: the value of `--workdir`; None for `LORA_JOB_WORKDIR`, or else a folder of this user's in the system's
            temporary folder.
        name: of the run, whose own folder lies below.

    Raises:
        JobError: 47 when what lies in the temporary folder under that name is not this user's alone.
        JobError: 44, nothing can be written there.
    """
    given = environ.get(WORKDIR_VARIABLE)
    base = chosen or (Path(given) if given else _own_folder(Path(tempfile.gettempdir())))
    folder = base / name
    try:
        make_folder(folder)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise _unwritten(folder, error) from error


def _unwritten(folder: Path, error: OSError) -> JobError:
    """The error of a scratch folder in which nothing can be written; a limit's own where one is reached."""
    raise_if_limit(error)
    return JobError(
        ExitCode.RESOURCES,
        f"There is no scratch folder: {folder} cannot be written: {error.strerror}.",
        f"Name one that can: --workdir, {WORKDIR_VARIABLE} or TMPDIR.",
    )


def _own_folder(shared: Path) -> Path:
    """This user's folder in one that all users may write to, where any of them may have made something of its name."""
    user = os.geteuid()
    folder = shared / f"lora-job-{user}"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()  # This is no link's target: where a link leads, its owner decides.
    except OSError as error:
        raise _unwritten(folder, error) from error
    wrong = None
    if not stat.S_ISDIR(found.st_mode):
        wrong = "is a link" if stat.S_ISLNK(found.st_mode) else "is no folder"
    elif found.st_uid != user:
        wrong = f"belongs to another user (number {found.st_uid})"
    elif found.st_mode & 0o077:
        wrong = f"is open to other users (mode {stat.S_IMODE(found.st_mode):04o})"
    if wrong:
        raise JobError(
            ExitCode.UNSAFE,
            f"The scratch folder {folder} {wrong}, so what lies there may be another's.",
            "Remove it, or name another with --workdir.",
        )
    return folder


def parse_shard(text: str, origin: str) -> Shard:
    """Read `I/N`: the index of the process, from 0, and the number of processes.

    Args:
        origin: the name of the option or variable, for the message.

    Raises:
        JobError: 2 when the text is something else.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise JobError(
            ExitCode.USAGE,
            f"{origin} is {text!r}.",
            "Say which process this is, from 0, and how many there are: 0/4, 1/4, 2/4, 3/4.",
        )
    return Shard(int(index), int(count))
