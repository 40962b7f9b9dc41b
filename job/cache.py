"""What is computed once and kept under `<destination>/.cache/<kind>/<key>/`, an object for every few hundred values."""

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from job.storage.run_folder import RunFolder
from job.storage.uris import is_remote, local_path

Value = TypeVar("Value")
_SHARD_ITEMS = 256  # values to an object: what a kill can cost; a stop costs nothing


@dataclass(frozen=True)
class ShardCache(Generic[Value]):
    """Values by name. `key` in the folder's name must tell apart everything that changes a value but its name."""

    folder: RunFolder
    scratch: Path  # for copies of objects that cross a network
    dump: Callable[[Mapping[str, Value]], bytes]
    load: Callable[[Path], Mapping[str, Value]]

    def values(
        self, names: Sequence[str], compute: Callable[[Sequence[str]], Iterable[tuple[str, Value]]]
    ) -> Generator[tuple[str, Value], None, None]:
        """Each name with its value, stored ones first; the missing are computed and stored as they come.

        What was computed when `compute` raises, or when the reader closes this, is stored too.
        """
        missing = dict.fromkeys(names)
        for path in self.files():
            for name, value in self.load(path).items():
                if name in missing:
                    del missing[name]
                    yield name, value
        shard: dict[str, Value] = {}
        try:
            for name, value in compute(list(missing)) if missing else ():
                shard[name] = value
                if len(shard) == _SHARD_ITEMS:
                    self._add(shard)
                    shard = {}
                yield name, value
        finally:
            if shard:
                self._add(shard)

    def files(self) -> Iterator[Path]:
        """What is stored, as files of this machine."""
        for key, _ in self.folder.list():
            if not is_remote(self.folder.root):
                yield local_path(self.folder.uri(key))
                continue
            path = self.scratch / key
            if not path.exists():
                self.folder.download(key, path)
            yield path

    def _add(self, shard: Mapping[str, Value]) -> None:
        name = hashlib.sha256("\n".join(sorted(shard)).encode()).hexdigest()
        self.folder.write(f"{name[:32]}.shard", self.dump(shard))


def text_cache(folder: RunFolder, scratch: Path) -> ShardCache[str]:
    """A cache of texts."""

    def dump(shard: Mapping[str, str]) -> bytes:
        return json.dumps(shard, sort_keys=True).encode()

    return ShardCache(folder, scratch, dump, lambda path: json.loads(path.read_bytes()))
