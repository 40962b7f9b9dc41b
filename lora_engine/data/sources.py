"""The files of a dataset: those below a folder, or the members of an archive."""

import errno
import lzma
import os
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from lora_engine.errors import DataError
from lora_engine.records import SourceFile

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_MAX_MEMBERS = 1_000_000
_MAX_BYTES = 2**40
_MAX_RATIO = 200  # unpacked to packed, of the whole archive; pictures hardly compress
_RATIO_FREE_BYTES = 2**28  # below so much nobody is hurt
_DAMAGE = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, UnicodeDecodeError,
)  # fmt: skip


def is_archive(name: str) -> bool:
    """Whether a file of this name is read as an archive."""
    return name.lower().endswith(_ARCHIVES)


def list_files(folder: Path) -> Iterator[SourceFile]:
    """Every regular file below a folder in the order of the keys; links are not followed.

    Raises:
        DataError: a folder cannot be read, or a name is not UTF-8.
    """
    paths = [Path(at, name) for at, _, names in os.walk(folder, onerror=_unreadable) for name in names]
    regular = [path for path in paths if path.is_file() and not path.is_symlink()]
    files = [SourceFile(_plain_key(path.relative_to(folder).as_posix()), str(path)) for path in regular]
    yield from sorted(files, key=lambda file: file.key)


def _unreadable(error: OSError) -> None:
    raise DataError(
        f"The folder {error.filename} cannot be read ({error.strerror}).", "Correct its name or its permissions."
    ) from error


def _plain_key(name: str) -> str:
    """The name itself, which stands in JSON and so must be text."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"The file name {name!r} is not UTF-8.", "Rename the file.") from error
    return name


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    is_file: bool
    is_folder: bool
    is_encrypted: bool
    open: Callable[[], IO[bytes] | None]


def extract_archive(archive: Path, folder: Path) -> Iterator[SourceFile]:
    """Unpack the members of a `.zip` or `.tar(.gz)` one by one, under names of our own; the key is the member's name.

    Raises:
        DataError: the archive is damaged or encrypted, would unpack to far more than it is, or has a member whose name
            leads elsewhere or cannot be told from another's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seen: dict[str, str] = {}
    total, limit = 0, max(_RATIO_FREE_BYTES, min(_MAX_BYTES, archive.stat().st_size * _MAX_RATIO))
    try:
        for at, member in enumerate(_members(archive)):
            if at >= _MAX_MEMBERS:
                raise _refused(archive, f"has more than {_MAX_MEMBERS} members")
            if member.is_folder:
                continue
            key = _checked_key(archive, member, seen)
            total += member.size
            if total > limit:
                raise _refused(archive, f"would unpack to more than {limit} bytes")
            path = folder / f"{at:07d}{_extension(key)}"
            _unpack(archive, member, path)
            yield SourceFile(key, str(path))
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # of this machine's disk, not of offsets in the archive
        raise DataError(
            f"The archive {archive.name} is damaged or uses a compression that is not supported: {error}.",
            "Pack it again as .zip or .tar.gz.",
        ) from error


def _unpack(archive: Path, member: _Member, path: Path) -> None:
    packed = member.open()
    assert packed is not None, "regular members can be opened"
    with packed, path.open("wb") as file:
        shutil.copyfileobj(packed, file, 2**20)
        if file.tell() != member.size:
            raise _refused(archive, f"has a member {member.name!r} of another size than it says")


def _members(archive: Path) -> Iterator[_Member]:
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                is_file = kind in (0, stat.S_IFREG) and not info.is_dir()
                encrypted = bool(info.flag_bits & 1)
                yield _Member(
                    info.filename, info.file_size, is_file, info.is_dir(), encrypted, partial(packed.open, info)
                )
        return
    with tarfile.open(archive, "r|*") as packed_tar:
        for item in packed_tar:
            yield _Member(
                item.name, item.size, item.isreg(), item.isdir(), False, partial(packed_tar.extractfile, item)
            )


def _checked_key(archive: Path, member: _Member, seen: dict[str, str]) -> str:
    """The member's name with forward slashes and without `./`, if it is one of its own and leads nowhere else."""
    name = member.name.replace("\\", "/")
    if member.is_encrypted:
        raise _refused(archive, f"has an encrypted member {name!r}")
    if not member.is_file:
        raise _refused(archive, f"has a member {name!r} that is a link or a device")
    key = _plain_key(PurePosixPath(name).as_posix())
    if key == "." or name.startswith("/") or ".." in name.split("/") or re.match("[A-Za-z]:", name) or "\0" in name:
        raise _refused(archive, f"has a member {name!r} that leads out of the archive")
    folded = unicodedata.normalize("NFC", key).casefold()
    if folded in seen:
        raise _refused(archive, f"has members {seen[folded]!r} and {name!r} that cannot be told apart on every system")
    seen[folded] = name
    return key


def _extension(key: str) -> str:
    return re.sub("[^.a-z0-9]", "", PurePosixPath(key).suffix.lower())[:10]


def _refused(archive: Path, what: str) -> DataError:
    return DataError(f"The archive {archive.name} {what}.", "Pack the images alone, under plain names.")


def is_leftover(key: str) -> bool:
    """Whether systems leave such files behind: they are ignored, not rejected."""
    parts = key.split("/")
    return (
        parts[-1].startswith(".")
        or parts[-1].lower() in ("thumbs.db", "desktop.ini")
        or any(part == "__MACOSX" or part.startswith(".") for part in parts[:-1])
    )
