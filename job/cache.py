"""What is computed once and kept under `<destination>/.cache/<kind>/<key>/`, an object for every few hundred values."""

import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from job.storage.run_folder import RunFolder

Value = TypeVar("Value")
_SHARD_ITEMS = 256  # values to an object: what a kill can cost; a stop costs nothing


@dataclass(frozen=True)
class ShardCache(Generic[Value]):
    """Values by name. `key` in the folder's name must tell apart everything that changes a value but its name."""

    folder: RunFolder
    dump: Callable[[Mapping[str, Value]], bytes]
    parse: Callable[[bytes], Mapping[str, Value]]

    def values(
        self, names: Sequence[str], compute: Callable[[Sequence[str]], Iterable[tuple[str, Value]]]
    ) -> Generator[tuple[str, Value], None, None]:
        """Each name with its value, stored ones first; the missing are computed and stored as they come.

        What was computed when `compute` raises, or when the reader closes this, is stored too.
        """
        missing = dict.fromkeys(names)
        for key, _ in self.folder.list():
            data = self.folder.read(key)
            for name, value in self.parse(data).items() if data is not None else ():
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

    def _add(self, shard: Mapping[str, Value]) -> None:
        name = hashlib.sha256("\n".join(sorted(shard)).encode()).hexdigest()
        self.folder.write(f"{name[:32]}.shard", self.dump(shard))


def text_cache(folder: RunFolder) -> ShardCache[str]:
    """A cache of texts."""
    return ShardCache(folder, lambda shard: json.dumps(shard, sort_keys=True).encode(), json.loads)
