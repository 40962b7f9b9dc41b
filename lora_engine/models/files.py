"""Models as files: their hashes, and checks that they hold weights and no code. It does not import torch."""

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from safetensors import SafetensorError, safe_open

from lora_engine.errors import ModelError
from lora_engine.system.limits import raise_if_limit

_SUFFIXES = (".json", ".txt", ".safetensors", ".model", ".jinja")  # of files that belong to a model's hash
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")  # suffixes of pickles
WITH_WEIGHTS = ("unet", "vae", "text_encoder")  # the parts of a Stable Diffusion pipeline that have weights
_LOADED_PICKLES = ("pytorch_model*.bin", "diffusion_pytorch_model*.bin")  # names under which libraries load pickles
_HASHING = threading.Lock()


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine, and whether the pickles among its files may be read."""

    path: Path  # a folder, or one file
    allow_pickle: bool = False

    @property
    def sha256(self) -> str:
        """The hash of the model's files, as `model_sha256` gives it; a process hashes them once."""
        return model_sha256(self.path)

    def part(self, name: str) -> "LocalModel":
        """The part of a pipeline that lies in the folder of that name."""
        return LocalModel(self.path / name, self.allow_pickle)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn an OSError into a ModelError that names the file which cannot be read."""
    try:
        yield
    except OSError as error:
        raise_if_limit(error)
        raise ModelError(
            f"{what}: {error.filename} cannot be read: {error.strerror}.", "Let this user read it, or name another."
        ) from error


@_reading("The model")
def model_sha256(path: Path) -> str:
    """One hash over the names and contents of a model's weights, configuration and vocabulary, or over its one file.

    Raises:
        ModelError: a file cannot be read.
    """
    if path.is_file():
        return _file_sha256(path)
    digest = hashlib.sha256()
    files = [file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file()]
    folders = {path, *(file.parent for file in path.rglob("*.bin"))}
    files += [file for folder in folders for file in pickled_weights(folder)]
    for file in sorted(files, key=lambda file: file.relative_to(path).as_posix()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{_file_sha256(file)}\n".encode())
    return digest.hexdigest()


def hash_ahead(model: LocalModel) -> None:
    """Begin to hash a model in a thread, so that `sha256` takes less time later."""

    def work() -> None:
        with suppress(ModelError):  # `sha256` will raise it where it is asked for.
            _ = model.sha256

    threading.Thread(target=work, name="hash-ahead", daemon=True).start()


def _file_sha256(path: Path) -> str:
    """The SHA-256 of a file, which is computed once unless the file changes: a run asks for it several times."""
    info = path.stat()
    with _HASHING:  # Of two threads that ask for the same file, the second finds it hashed, and does not hash it, too.
        return _hashed(path, info.st_size, info.st_mtime_ns)


@cache
def _hashed(path: Path, _size: int, _changed_ns: int) -> str:
    """Hash a file. Size and time of change are arguments so that the cache keeps no hash of an older content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pickled_weights(folder: Path) -> list[Path]:
    """The pickles that a model library would read in this very folder: none where safetensors stand beside them."""
    if any(folder.glob("*.safetensors")):
        return []
    return sorted(file for pattern in _LOADED_PICKLES for file in folder.glob(pattern) if file.is_file())


def with_pickles(patterns: Sequence[str], *, allow_pickle: bool) -> tuple[str, ...]:
    """The patterns of files to fetch; where pickles are allowed, those that can stand in for safetensors are added."""
    wanted = list(patterns)
    if allow_pickle:
        for pattern in patterns:
            folder, slash, name = pattern.rpartition("/")
            wanted += [f"{folder}{slash}{pickled}" for pickled in _LOADED_PICKLES if name.endswith(".safetensors")]
    return tuple(wanted)


def holds_safetensors(model: LocalModel, what: str) -> bool:
    """Whether a model's weights are safetensors, which cannot hold code; False for pickles that are allowed.

    Args:
        what: the manifest's key of the model, for messages.

    Raises:
        ModelError: the model has no weights or pickles that are not allowed, a file is damaged or cannot be read, or
            the model is an adapter.
    """
    with _reading(what):
        return _holds_safetensors(model.path, what, model.allow_pickle)


def _holds_safetensors(folder: Path, what: str, allow_pickle: bool) -> bool:
    if (folder / "adapter_config.json").exists():
        # The model libraries would load the base model that the adapter names, from wherever that is.
        raise ModelError(
            f"{what}: {folder.name} is an adapter, not a model.", "Name the model, with the adapter merged."
        )
    weights = sorted(folder.glob("*.safetensors"))
    pickles = pickled_weights(folder)
    if not weights and not (allow_pickle and pickles):
        raise _no_safetensors(folder, what, pickles)
    for file in weights:
        check_safetensors(file, what)
    for index in folder.glob("*.index.json"):
        _check_index(index, what, ".safetensors" if weights else ".bin")
    return bool(weights)


def _no_safetensors(folder: Path, what: str, pickles: Sequence[Path]) -> ModelError:
    found = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES) if folder.is_dir() else []
    if not found:
        return ModelError(
            f"{what}: {folder.name} has no .safetensors file; it holds no weights.",
            "Check the name and the revision; the weights stand beside their config.json.",
        )
    allowed = f", or set {what.partition('.source')[0]}.allow_pickle: true if you trust its author" if pickles else ""
    return ModelError(
        f"{what}: {folder.name} has no .safetensors file; its weights are pickles ({', '.join(found)}), "
        "which can run code.",
        f"Pin a revision that has safetensors (BLIP base: refs/pr/50), convert the model{allowed}.",
    )


def check_safetensors(path: Path, what: str) -> None:
    """Refuse a file that is no whole safetensors file, by its header alone, which says how long it must be.

    Args:
        what: the manifest's key of the model, for messages.

    Raises:
        ModelError: the file is cut off, no safetensors file, or cannot be read.
    """
    with _reading(what), path.open("rb"):
        pass  # safe_open would say of a file that may not be read that it does not exist.
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        raise_if_limit(error)
        raise ModelError(
            f"{what}: {path.name} in {path.parent} is damaged or no safetensors file ({error}).",
            "Fetch it again; a download that was cut off looks like this.",
        ) from error


def _check_index(index: Path, what: str, suffix: str) -> None:
    """Refuse an index of weights in several files that names other files than those beside it that were checked."""
    if not index.name.endswith(f"{suffix}.index.json"):
        return
    try:
        names = set(json.loads(index.read_bytes())["weight_map"].values())
        odd = sorted(n for n in names if Path(n).name != n or not n.endswith(suffix) or not (index.parent / n).exists())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{what}: {index.name} is no index of weights.", "Fetch the model again.") from error
    if odd:
        raise ModelError(
            f"{what}: {index.name} names {odd[0]!r}, which is no {suffix} file beside it.",
            "Fetch the model again; every part of its weights must stand in its own folder.",
        )
