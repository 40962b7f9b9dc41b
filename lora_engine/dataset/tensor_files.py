"""Tensors by name in safetensors files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of several memory-mapped files by their names; each is read when it is asked for.

    A name that stands in several files gives the first file's tensor.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [_open(path) for path in paths]
        self._file_of: dict[str, Any] = {}
        for file in self._files:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                self._file_of.setdefault(name, file)

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file_of[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def _open(path: Path) -> Any:
    return safe_open(path, framework="pt")
