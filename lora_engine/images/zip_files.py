"""Opens zips, also those that claim of names in another code that they are UTF-8."""

import io
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from zipfile import ZipFile

_LOCAL, _CENTRAL = b"PK\3\4", b"PK\1\2"  # what the header before a member, and a row of the directory, begin with
_LOCAL_BYTES, _CENTRAL_BYTES = 30, 46
_IS_UTF8 = 1 << 11  # of the flags


@contextmanager
def open_zip(archive: Path) -> Iterator[ZipFile]:
    """Open a zip.

    `zipfile` refuses one of which a name is not the UTF-8 that its flag says. That is opened with no such flags, so
    that all names are as bytes are in code page 437.

    Raises:
        zipfile.BadZipFile, OSError: as `ZipFile`.
    """
    with ExitStack() as stack:
        try:
            opened = stack.enter_context(ZipFile(archive))
        except UnicodeDecodeError:
            file = stack.enter_context(_WithoutFlags(io.FileIO(archive)))
            opened = stack.enter_context(ZipFile(file))
        yield opened


class _WithoutFlags(io.BufferedReader):
    """A zip's file, whose headers are read as if they said nothing of the code of names."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size == _LOCAL_BYTES and data.startswith(_LOCAL):
            return _cleared(data, [6])
        return _cleared(data, [at + 8 for at in _rows(data)]) if data.startswith(_CENTRAL) else data


def _rows(directory: bytes) -> list[int]:
    """Where the rows of a zip's directory begin."""
    found, at = [], 0
    while at + _CENTRAL_BYTES <= len(directory) and directory.startswith(_CENTRAL, at):
        found.append(at)
        at += _CENTRAL_BYTES + sum(struct.unpack_from("<HHH", directory, at + 28))  # name, extra field, comment
    return found


def _cleared(data: bytes, places: list[int]) -> bytes:
    """The data, with the flag for UTF-8 off in the flags at those places."""
    changed = bytearray(data)
    for at in places:
        (flags,) = struct.unpack_from("<H", changed, at)
        struct.pack_into("<H", changed, at, flags & ~_IS_UTF8)
    return bytes(changed)
