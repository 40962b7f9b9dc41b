"""Objects below one folder of a storage, such as a run's, named by the keys of `job.layout`."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from job.errors import ExitCode, JobError
from job.storage.base import Digest, ObjectInfo, Storage
from job.storage.stored import StoredJson
from job.storage.uris import as_folder, join

Model = TypeVar("Model")


@dataclass(frozen=True)
class RunFolder:
    """A storage as it looks from one folder: keys are relative to `root`.

    Errors are those of `Storage`, and 47 for a key that leads out of the folder.
    """

    storage: Storage
    root: str  # URI

    def uri(self, key: str) -> str:
        """The URI of the object with that key."""
        return join(self.root, key)

    def read(self, key: str) -> bytes | None:
        """The whole of a small object; None when there is none."""
        return self.storage.read(self.uri(key))

    def write(self, key: str, data: bytes) -> Digest:
        """Create or replace a small object atomically."""
        return self.storage.write(self.uri(key), data)

    def read_json(self, key: str) -> dict[str, Any] | None:
        """The JSON object that is stored there; None when nothing is. 46 when it is not a JSON object."""
        data = self.read(key)
        return None if data is None else self._parse(key, data)

    def write_json(self, key: str, value: Mapping[str, Any]) -> Digest:
        """Store a JSON object; equal values give equal bytes. ValueError for a number that is not finite."""
        return self.write(key, json_bytes(value))

    def write_jsonl(self, key: str, rows: Iterable[Mapping[str, Any]]) -> Digest:
        """Store each row as a line of JSON, written as `write_json` would."""
        return self.write(key, jsonl_bytes(rows))

    def read_stored(self, key: str, kind: type[Model]) -> Model | None:
        """The object as a `kind`, a pydantic model or a dataclass; None when there is none. 46 when it is not one."""
        data = self.read(key)
        return None if data is None else self._validated(key, data, kind)

    def write_stored(self, key: str, value: StoredJson) -> Digest:
        """Create or replace the object; `read_stored` gives an equal one."""
        return self.write_json(key, value.model_dump(mode="json", by_alias=True))

    def read_rows(self, key: str, kind: type[Model]) -> list[Model] | None:
        """The rows, each a `kind`; None when there is no object. 46 when a line is something else."""
        data = self.read(key)
        return None if data is None else [self._validated(key, line, kind) for line in data.splitlines() if line]

    def download(self, key: str, path: Path, expect: Digest | None = None) -> Digest:
        """Copy the object to a local file, and check it against `expect`. 42 when there is no object."""
        return self.storage.download(self.uri(key), path, expect)

    def upload(self, path: Path, key: str) -> Digest:
        """Copy a local file into the object; the store verifies what it received."""
        return self.storage.upload(path, self.uri(key))

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return self.storage.head(self.uri(key)) is not None

    def list(self, prefix: str = "") -> Iterator[tuple[str, ObjectInfo]]:
        """Every object below the folder `prefix`, with its key, in the order of the keys."""
        start = len(as_folder(self.root))
        for info in self.storage.list(self.uri(prefix) if prefix else self.root):
            yield info.uri[start:], info

    def delete(self, key: str) -> None:
        """Remove the object; it may be absent."""
        self.storage.delete(self.uri(key))

    def _validated(self, key: str, data: bytes, kind: type[Model]) -> Model:
        try:
            value: Model = _adapter(kind).validate_json(data)  # type: ignore[arg-type]
            return value
        except (ValidationError, RecursionError) as error:
            raise self._no_such_json(key, first_problem(error)) from error

    def _parse(self, key: str, data: bytes) -> dict[str, Any]:
        try:
            value = json.loads(data)
            json_bytes(value)  # Python reads a NaN and a half of a character, which no JSON that a run writes can hold.
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise self._no_such_json(key)
        return value

    def _no_such_json(self, key: str, problem: str = "") -> JobError:
        return JobError(
            ExitCode.CONFLICT,
            f"{self.uri(key)} does not hold the JSON that a run writes there{problem}.",
            "Something else wrote it: remove it, or give the run another name.",
        )


def first_problem(error: Exception) -> str:
    """The key that is wrong, and why, for a message; nothing where the whole is no JSON."""
    if not isinstance(error, ValidationError):
        return ""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f" ({place}: {first['msg'][:1].lower()}{first['msg'][1:200]})" if place else ""


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """The adapter of a model or dataclass: making one takes longer than reading a file with it."""
    return TypeAdapter(kind)


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """A JSON object as a run keeps it: equal values give equal bytes. ValueError for a number that is not finite."""
    return f"{_dump(value, indent=2)}\n".encode()


def jsonl_bytes(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Rows as a run keeps them, a line of JSON each. ValueError for a number that is not finite."""
    return "".join(f"{_dump(row)}\n" for row in rows).encode()


def _dump(value: Mapping[str, Any], indent: int | None = None) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False, indent=indent)
