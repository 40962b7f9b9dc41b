"""Keeps values that are computed once, under `<destination>/.cache/<kind>/<key>/` in parts of a few hundred values."""

import hashlib
import json
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from job.storage.base import Digest, ObjectInfo
from job.storage.files import DamagedObjectError, MissingObjectError, atomic_file, digest_of, local_errors
from job.storage.folder import RunFolder
from job.storage.uris import is_remote, local_path
from lora_engine.system.scratch import adopt, make_folder

Value = TypeVar("Value")
_PART_VALUES = 256  # in a part: the most that a kill can cost; a stop costs nothing
_NAME = re.compile(r"([0-9a-f]{64})\.shard")  # of a part; one that an older version named otherwise is not used


@dataclass(frozen=True)
class ContentCache(Generic[Value]):
    """Values by name, in parts: objects of a few hundred values each.

    The folder's own name, the key, has to tell apart everything that changes a value but the value's name. A part is
    named by the SHA-256 of its bytes, so that it can be checked, and that several processes may write the same part.
    """

    folder: RunFolder
    scratch: Path  # the folder for copies of parts that cross a network
    warn: Callable[[str], None]
    dump: Callable[[Mapping[str, Value]], bytes]  # makes a part of values
    load: Callable[[Path], Mapping[str, Value]]  # reads a part
    files: list[Path] = field(default_factory=list, init=False)  # the parts on this machine that `values` came upon

    def values(
        self, names: Sequence[str], compute: Callable[[Sequence[str]], Iterable[tuple[str, Value]]]
    ) -> Generator[tuple[str, Value], None, None]:
        """Yield each name with its value, stored ones first. Missing values are computed, and stored as they come.

        Those that have been computed when `compute` raises, or when the reader closes the generator, are stored, too.
        A damaged part is removed with a warning, and its values are computed anew.

        Args:
            compute: yields the values of the names that it is given. Called only where values are missing.
        """
        missing = dict.fromkeys(names)
        for key, info in self.folder.list():
            if not missing:
                break
            named = _NAME.fullmatch(key)
            if named is None or not self._is_at_hand(key, info, named[1]):
                continue
            self.files.append(self._path(key))
            for name, value in self.load(self._path(key)).items():
                if name in missing:
                    del missing[name]
                    yield name, value
        part: dict[str, Value] = {}
        try:
            for name, value in compute(list(missing)) if missing else ():
                part[name] = value
                if len(part) == _PART_VALUES:
                    self._add(part)
                    part = {}
                yield name, value
        finally:
            if part:
                self._add(part)

    def _path(self, key: str) -> Path:
        """The path at which a part lies on this machine, or will once it is downloaded."""
        return self.scratch / key if is_remote(self.folder.root) else local_path(self.folder.uri(key))

    def _is_at_hand(self, key: str, info: ObjectInfo, sha256: str) -> bool:
        """Whether the whole part lies on this machine, downloaded if need be. A damaged one is removed."""
        path = self._path(key)
        found = _sha256(path)
        if found == sha256:
            return True
        if is_remote(self.folder.root):
            if found is not None:
                self.warn(f"{path}, a copy of {info.uri}, is damaged: it is fetched again.")
            try:
                make_folder(path.parent)
                self.folder.download(key, path, Digest(info.size, sha256))
                adopt(path)
                return True
            except MissingObjectError:  # Another process found it damaged, and removed it since it was listed.
                return False
            except DamagedObjectError:
                pass
        elif found is None:
            return False
        self.warn(f"{info.uri} is damaged: it is removed, and what it held is computed anew.")
        if self.folder.storage.head(info.uri) == info:  # If not, another process has stored a whole one meanwhile.
            self.folder.delete(key)
        return False

    def _add(self, part: Mapping[str, Value]) -> None:
        """Store a part, and keep a copy on this machine."""
        data = self.dump(part)
        key = f"{hashlib.sha256(data).hexdigest()}.shard"
        self.folder.write(key, data)
        path = self._path(key)
        if is_remote(self.folder.root):
            make_folder(path.parent)
            with atomic_file(path, durable=False) as copy:
                copy.write(data)
            adopt(path)
        self.files.append(path)


def text_cache(folder: RunFolder, scratch: Path, warn: Callable[[str], None]) -> ContentCache[str]:
    """A cache of texts."""

    def dump(part: Mapping[str, str]) -> bytes:
        return json.dumps(part, sort_keys=True).encode()

    return ContentCache(folder, scratch, warn, dump, lambda path: json.loads(path.read_bytes()))


def _sha256(path: Path) -> str | None:
    """The SHA-256 of a file; None when there is no file."""
    with local_errors(path):
        try:
            return digest_of(path).sha256
        except FileNotFoundError:
            return None
