"""Lists the files of a dataset: those below a folder, or the members of an archive, which are unpacked."""

import errno
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from lora_engine.errors import DataError, EngineError, UnsafeError
from lora_engine.images.links import leads_out
from lora_engine.images.member_names import member_names
from lora_engine.images.zip_files import open_zip
from lora_engine.records import SourceFile
from lora_engine.system.limits import raise_if_limit
from lora_engine.system.scratch import adopt, make_folder
from lora_engine.text import shortened

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_MAX_MEMBERS = 1_000_000
_MAX_BYTES = 2**40  # unpacked, of the whole archive
_MAX_RATIO = 200  # unpacked to packed, of the whole archive; pictures hardly compress
_RATIO_FREE_BYTES = 2**28  # unpacked, below which the ratio does not matter
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile unpacks a block of others a million-fold at once
_MAX_HEADER_BYTES = 2**14  # of a tar member's extended header, such as its long name
# Parsing an extended header takes the square of its length. An archive may have headers of so many bytes squared, which
# Python 3.11 parses in 1 s, and for each member those of one of 1 KiB besides.
_HEADER_SQUARES = 2**28, 2**20
_EXTENDED_HEADERS = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_ENCRYPTED = 1 | 1 << 6 | 1 << 13  # flags of a zip member: encrypted, strongly, or with its name hidden


def is_archive(name: str) -> bool:
    """Whether a file of this name is read as an archive."""
    return name.lower().endswith(_ARCHIVES)


def list_files(folder: Path, *, follow_links: bool = False) -> Iterator[SourceFile]:
    """List every regular file below a folder in the order of the keys, and every link but those to pipes and devices.

    A link to a folder is listed, not entered: it could lead back.

    Args:
        follow_links: whether caption files may be links to anywhere; else those are marked that lead out of the folder.

    Raises:
        DataError: a folder cannot be read, or a name is not UTF-8.
    """
    paths = [
        Path(at, name)
        for at, folders, names in os.walk(folder, onerror=_unreadable)
        for name in (*names, *(name for name in folders if Path(at, name).is_symlink()))
    ]
    listed = [path for path in paths if _is_listed(path)]
    root = os.path.realpath(folder)
    files = [
        SourceFile(
            _plain_key(path.relative_to(folder).as_posix()), str(path), not follow_links and leads_out(str(path), root)
        )
        for path in listed
    ]
    yield from sorted(files, key=lambda file: file.key)


def _is_listed(path: Path) -> bool:
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except OSError:  # the link leads nowhere, or there is no right to look: whoever opens the file says which
        return True
    return kind in (stat.S_IFREG, stat.S_IFDIR)  # reading a pipe or a device may never end


def _unreadable(error: OSError) -> None:
    raise_if_limit(error)
    raise DataError(
        f"The folder {error.filename} cannot be read ({error.strerror}).", "Correct its name or its permissions."
    ) from error


def _plain_key(name: str) -> str:
    """The name itself, which must be text, since it stands in JSON.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"The file name {_shown(name)} is not UTF-8.", "Rename the file.") from error
    return name


@dataclass(frozen=True)
class _Member:
    """A member of an archive, as its header describes it."""

    name: str  # with forward slashes
    size: int  # bytes, unpacked
    is_file: bool
    is_folder: bool
    is_encrypted: bool
    open: Callable[[], IO[bytes] | None]


def extract_archive(archive: Path, folder: Path) -> Iterator[SourceFile]:
    """Unpack the members of a `.zip` or `.tar(.gz)` one by one, under names of our own; the key is the member's name.

    Names that differ, if only in case, are two files. Of two members of one name the later one counts, as where `tar`
    or `unzip` unpacks them: it replaces the content of the file that was given for the earlier one.

    Raises:
        DataError: the archive is damaged or encrypted, or may not be read.
        UnsafeError: it would unpack to far more than it is, or has a member that is a link or a device, or whose name
            leads elsewhere.
    """
    if not archive.is_file():  # reading a pipe may never end
        raise DataError(f"{archive} is no file.", "Name a .zip or .tar.gz file, or a folder.")
    make_folder(folder)
    paths: dict[str, Path] = {}  # by the key
    total, limit = 0, max(_RATIO_FREE_BYTES, min(_MAX_BYTES, archive.stat().st_size * _MAX_RATIO))
    try:
        for at, member in enumerate(_members(archive)):
            if at >= _MAX_MEMBERS:
                raise _unsafe(archive, f"has more than {_MAX_MEMBERS} members")
            if member.is_folder:
                _check_inside(archive, member.name)
                continue
            key = _checked_key(archive, member)
            total += member.size
            if total > limit:
                raise _unsafe(archive, f"would unpack to more than {limit} bytes with its member {_shown(member.name)}")
            is_new = key not in paths
            path = paths.setdefault(key, folder / f"{at:07d}{_extension(key)}")
            _unpack(archive, member, path)
            if is_new:
                yield SourceFile(key, str(path))
    except (EngineError, MemoryError):
        raise
    except Exception as error:  # zipfile and tarfile report damage by almost any kind of exception
        raise_if_limit(error)
        if isinstance(error, OSError) and error.filename == str(archive):
            raise DataError(
                f"The archive {archive} cannot be read ({error.strerror}).", "Correct its name or its permissions."
            ) from error
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # a fault of this machine's disk; offsets in a damaged archive are EINVAL
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"The archive {archive.name} is damaged or uses a compression that is not supported: {reason}.",
            "Pack it again as .zip or .tar.gz.",
        ) from error


def _unpack(archive: Path, member: _Member, path: Path) -> None:
    """Write a member to `path`, and refuse it if it has another size than its header says."""
    packed = member.open()
    assert packed is not None, "regular members can be opened"
    with packed, path.open("wb") as file:
        shutil.copyfileobj(packed, file, 2**20)
        if file.tell() != member.size:
            raise _refused(archive, f"has a member {_shown(member.name)} of another size than it says")
    adopt(path)


def _members(archive: Path) -> Iterator[_Member]:
    """The members of an archive in its order. A tar's must each be unpacked before the next is asked for."""
    if archive.name.lower().endswith(".zip"):
        with open_zip(archive) as packed:
            infos = packed.infolist()
            for info, name in zip(infos, member_names(infos), strict=True):
                kind = stat.S_IFMT(info.external_attr >> 16)
                is_folder = name.endswith("/")
                is_file = kind in (0, stat.S_IFREG) and not is_folder
                if is_file and info.compress_type not in _COMPRESSIONS:
                    raise NotImplementedError(f"{_shown(name)} is neither stored nor deflated")
                encrypted = bool(info.flag_bits & _ENCRYPTED)
                yield _Member(name, info.file_size, is_file, is_folder, encrypted, partial(packed.open, info))
        return
    with archive.open("rb") as file:
        mode: Literal["r|gz", "r|"] = "r|gz" if file.read(2) == b"\x1f\x8b" else "r|"
    with _TarFile.open(archive, mode) as packed_tar:
        for item in packed_tar:
            name = item.name.replace("\\", "/")
            yield _Member(name, item.size, item.isreg(), item.isdir(), False, partial(packed_tar.extractfile, item))


class _TarInfo(tarfile.TarInfo):
    """A tar member that refuses what makes tarfile loop without end (negative sizes) or for hours (long headers).

    It refuses a damaged header too: tarfile takes it for the end of the archive, and what follows would be lost.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> "_TarInfo":
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from error

    def _proc_member(self, archive: "_TarFile") -> tarfile.TarInfo:
        if self.size < 0:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        if self.type in _EXTENDED_HEADERS:
            archive.squares_left -= self.size**2
            if self.size > _MAX_HEADER_BYTES or archive.squares_left < 0:
                raise tarfile.ReadError(f"a header of {self.size} bytes, more than a name needs")
        archive.squares_left += _HEADER_SQUARES[1]
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]  # made to be extended
        if member.size < 0:
            raise tarfile.ReadError(f"a member of {member.size} bytes")
        return member


class _TarFile(tarfile.TarFile):
    """A tar file that parses headers with care, and knows how much of that it may still do."""

    tarinfo = _TarInfo
    squares_left = _HEADER_SQUARES[0]


def _checked_key(archive: Path, member: _Member) -> str:
    """The member's name without `./`.

    Raises:
        DataError, UnsafeError: the member is none to unpack, or its name leads elsewhere.
    """
    if member.is_encrypted:
        raise _refused(archive, f"has an encrypted member {_shown(member.name)}")
    if not member.is_file:
        raise _unsafe(archive, f"has a member {_shown(member.name)} that is a link or a device")
    _check_inside(archive, member.name)
    key = _plain_key(PurePosixPath(member.name).as_posix())
    if key == ".":
        raise _refused(archive, f"has a member {_shown(member.name)} without a name")
    return key


def _check_inside(archive: Path, name: str) -> None:
    if name.startswith("/") or ".." in name.split("/") or re.match("[A-Za-z]:/", name) or "\0" in name:
        raise _unsafe(archive, f"has a member {_shown(name)} that leads out of the archive")


def _shown(name: str) -> str:
    """The name in quotes, with escapes for what does not print, and shortened where it is long."""
    return shortened(repr(name), 120)


def _extension(key: str) -> str:
    """The extension of a key, in so few plain characters that any file system takes it."""
    return re.sub("[^.a-z0-9]", "", PurePosixPath(key).suffix.lower())[:10]


def _unsafe(archive: Path, what: str) -> UnsafeError:
    return UnsafeError(
        f"The archive {archive.name} {what}.",
        "Find out who made it; if you trust it, unpack it, look at it, and pack the images alone, under plain names.",
    )


def _refused(archive: Path, what: str) -> DataError:
    return DataError(f"The archive {archive.name} {what}.", "Pack the images alone, under plain names.")
