"""Models as files: what identifies them, and that they hold weights and no code. Torch-free."""

import hashlib
from pathlib import Path

from lora_engine.errors import ModelError

_SUFFIXES = (".json", ".txt", ".safetensors", ".model")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def model_sha256(path: Path) -> str:
    """One hash over the names and contents of a model's weights, configuration and vocabulary; or of its one file."""
    if path.is_file():
        return _file_sha256(path)
    digest = hashlib.sha256()
    files = [file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file()]
    for file in sorted(files, key=lambda file: file.relative_to(path).as_posix()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{_file_sha256(file)}\n".encode())
    return digest.hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_safetensors(folder: Path, what: str) -> None:
    """Refuse a model whose weights are pickles, which can run code.

    Raises:
        ModelError: `what`, the manifest's key, names no safetensors weights.
    """
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
    found = f"its weights are pickles ({', '.join(pickles)})" if pickles else "it holds no weights"
    raise ModelError(
        f"{what}: {folder.name} has no .safetensors file; {found}.",
        "Pin a revision that has safetensors (BLIP base: refs/pr/50), or convert the model.",
    )
