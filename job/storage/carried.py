"""The checksums that a file carries within itself: the CRCs of a zip's members, and that of gzip's data."""

import errno
import gzip
import lzma
import zipfile
import zlib
from pathlib import Path

_CHUNK_BYTES = 2**20
_MOST = 2**28, 200  # bytes that are unpacked to check them, or so many times the file's own: no bomb is unpacked whole


def is_whole(path: Path) -> bool | None:
    """Whether a file keeps the checksums that it carries; None where it carries none that can be checked.

    Raises:
        OSError: the file cannot be read.
    """
    name = path.name.lower()
    if name.endswith(".zip"):
        return _is_whole_zip(path)
    if name.endswith((".gz", ".tgz")):
        return _is_whole_gzip(path)
    return None


def _is_whole_zip(path: Path) -> bool | None:
    try:
        with zipfile.ZipFile(path) as packed:
            members = packed.infolist()
            if sum(member.file_size for member in members) > _most(path):
                return None
            return packed.testzip() is None and bool(members)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError):
        return False
    except OSError as error:
        if error.errno in (None, errno.EINVAL):  # bz2 found damage, or a member is said to lie before the file
            return False
        raise
    except (NotImplementedError, RuntimeError, ValueError, UnicodeError):  # encrypted, or packed in a way of its own
        return None


def _is_whole_gzip(path: Path) -> bool | None:
    left = _most(path)
    try:
        with gzip.open(path) as packed:
            while chunk := packed.read(_CHUNK_BYTES):
                left -= len(chunk)
                if left < 0:
                    return None
    except (gzip.BadGzipFile, zlib.error, EOFError):
        return False
    return True


def _most(path: Path) -> int:
    return max(_MOST[0], _MOST[1] * path.stat().st_size)
