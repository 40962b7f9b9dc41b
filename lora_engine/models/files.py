"""Models as files: their hashes, and checks that they hold weights and no code. It does not import torch."""

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lora_engine.config.models import BaseModelUse
from lora_engine.errors import ModelError
from lora_engine.models.accepted import LOADED_PICKLES, find_weights, no_weights
from lora_engine.system.limits import raise_if_limit

_NUMBERS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")  # types in which a weight is the number that it says
_SCALES = (".scale_weight", ".weight_scale", "scaled_fp8")  # ends of names of what such a weight is multiplied with
_SUFFIXES = (".json", ".txt", ".safetensors", ".model", ".jinja")  # of files that belong to a model's hash
_HASHING = threading.Lock()
_AS_THE_FILES_SAY = BaseModelUse()


@dataclass(frozen=True)
class Merge:
    """A LoRA that is added to a base model's weights."""

    path: Path  # of its file
    strength: float  # by which what it adds is multiplied


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine, and whether the pickles among its files may be read."""

    path: Path  # a folder, or one file
    allow_pickle: bool = False
    vae: Path | None = None  # the folder of the autoencoder that a base model is used with; None for its own
    use: BaseModelUse = _AS_THE_FILES_SAY  # how a base model is used
    merge: tuple[Merge, ...] = ()  # what is added to a base model's weights, in this order

    @property
    def sha256(self) -> str:
        """The hash of the model's files, as `model_sha256` gives it; a process hashes them once."""
        return model_sha256(self.path)

    def part(self, name: str) -> "LocalModel":
        """The part of a pipeline that lies in the folder of that name, or that is used instead of it."""
        path = self.vae if name == "vae" and self.vae is not None else self.path / name
        return replace(self, path=path, vae=None)


def vae_folder(model: Path) -> Path:
    """The folder of the VAE that a folder names: the one in a pipeline, or the folder itself."""
    own = model / "vae"
    return own if own.is_dir() else model


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
    return sorted(file for pattern in LOADED_PICKLES for file in folder.glob(pattern) if file.is_file())


def with_pickles(patterns: Sequence[str], *, allow_pickle: bool) -> tuple[str, ...]:
    """The patterns of files to fetch; where pickles are allowed, those that can stand in for safetensors are added."""
    wanted = list(patterns)
    if allow_pickle:
        for pattern in patterns:
            folder, slash, name = pattern.rpartition("/")
            wanted += [f"{folder}{slash}{pickled}" for pickled in LOADED_PICKLES if name.endswith(".safetensors")]
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
        return _weight_files(model.path, what, model.allow_pickle) != ()


def how_to_load(model: LocalModel, what: str) -> dict[str, Any]:
    """What the model libraries are told, so that they read the files that were checked and no others.

    Takes `what`, and raises, as `holds_safetensors` does.
    """
    if not holds_safetensors(model, what):
        return {"use_safetensors": False}
    weights = find_weights([path.name for path in model.path.iterdir()])
    return {"use_safetensors": True, "variant": weights.variant if weights else None}


def weight_files(model: LocalModel, what: str) -> tuple[Path, ...]:
    """The files of safetensors that hold a model's weights; none where they are pickles that are allowed.

    Takes `what`, and raises, as `holds_safetensors` does.
    """
    with _reading(what):
        return _weight_files(model.path, what, model.allow_pickle)


def _weight_files(folder: Path, what: str, allow_pickle: bool) -> tuple[Path, ...]:
    if (folder / "adapter_config.json").exists():
        # The model libraries would load the base model that the adapter names, from wherever that is.
        raise ModelError(
            f"{what}: {folder.name} is an adapter, not a model.", "Name the model, with the adapter merged."
        )
    if _names_a_quantisation(folder / "config.json"):
        raise _quantised(what, folder.name, "its config.json has a quantization_config")
    weights = find_weights([path.name for path in folder.iterdir()]) if folder.is_dir() else None
    if weights is None and allow_pickle and pickled_weights(folder):
        for index in folder.glob("*.bin.index.json"):
            _indexed(index, what, ".bin")
        return ()
    if weights is None:
        raise no_weights(folder, what)
    index_of = None if weights.index is None else folder / weights.index
    files = (folder / weights.file,) if index_of is None else _indexed(index_of, what, ".safetensors")
    for file in files:
        check_safetensors(file, what)
    return files


def _names_a_quantisation(config: Path) -> bool:
    try:
        found = json.loads(config.read_bytes()) if config.is_file() else {}
    except (ValueError, RecursionError):
        return False  # Whoever loads the model says so.
    return isinstance(found, dict) and bool(found.get("quantization_config"))


def _quantised(what: str, name: str, sign: str) -> ModelError:
    return ModelError(
        f"{what}: {name} is quantised: {sign}.", "Name a version in fp32, fp16 or bf16, from which it was made."
    )


def check_safetensors(path: Path, what: str) -> None:
    """Refuse a file that is no whole safetensors file, by its header alone, which says how long it must be.

    One of quantised weights is refused, too: as they are stored, they are other numbers than the model's.

    Args:
        what: the manifest's key of the model, for messages.

    Raises:
        ModelError: the file is cut off, no safetensors file, or cannot be read.
    """
    with _reading(what), path.open("rb") as file:  # safe_open says of a file that may not be read that it is not there.
        start = file.read(64)
    try:
        with safe_open(path, framework="numpy") as opened:
            sign = next(_signs_of_quantisation(opened), None)
    except (SafetensorError, OSError) as error:
        raise_if_limit(error)
        other = next((name for sign, name in _OTHER_STARTS.items() if start.lstrip().lower().startswith(sign)), None)
        found = f"is {other}, whatever its name says" if other else "is damaged or no safetensors file"
        raise ModelError(
            f"{what}: {path.name} in {path.parent} {found}.",
            _INSTEAD.get(other or "", "Fetch it again; a download that was cut off looks like this."),
        ) from error
    if sign:
        raise _quantised(what, path.name, sign)


def _signs_of_quantisation(opened: Any) -> Iterator[str]:
    for name in opened.keys():  # noqa: SIM118 - no mapping
        if name.endswith(_SCALES):
            yield f"it holds {name}"
        if name.endswith((".weight", ".bias")) and (dtype := opened.get_slice(name).get_dtype()) not in _NUMBERS:
            yield f"{name} is of the type {dtype}"


_PICKLE, _GGUF, _ARCHIVE = "a pickle, which can run code", "a GGUF file, whose weights are quantised", "an archive"
_ANSWER = "an answer of a server"
_INSTEAD = {  # of what to name, by what a file is; a file that is none of these is fetched again
    _PICKLE: "Name a version of it that is safetensors.",
    _GGUF: "Name a version of it that is safetensors.",
    _ARCHIVE: "Unpack it, and name the .safetensors file in it.",
    _ANSWER: "It says why; the file itself was not given.",
}
_OTHER_STARTS = {
    b"pk\x03\x04": _PICKLE,
    **{b"\x80%c" % protocol: _PICKLE for protocol in range(2, 6)},
    b"gguf": _GGUF,
    b"\x1f\x8b": _ARCHIVE,
    b"7z\xbc\xaf": _ARCHIVE,
    b"rar!": _ARCHIVE,
    b"<?xml": _ANSWER,
    b'{"': _ANSWER,
    b"version https://git-lfs": "a pointer of git LFS, which stands for the file",
    b"<!doctype": "a web page",
    b"<html": "a web page",
}


def _indexed(index: Path, what: str, suffix: str) -> tuple[Path, ...]:
    """The files that an index of weights names; one that names other files than those beside it is refused."""
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        odd = [n for n in names if Path(n).name != n or not n.endswith(suffix) or not (index.parent / n).exists()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{what}: {index.name} is no index of weights.", "Fetch the model again.") from error
    if odd or not names:
        named = repr(odd[0]) if odd else "nothing"
        raise ModelError(
            f"{what}: {index.name} names {named}, which is no {suffix} file beside it.",
            "Fetch the model again; every part of its weights must stand in its own folder.",
        )
    return tuple(index.parent / name for name in names)
