"""Reads the text of a file that a user names, or that a configuration names beside it."""

from pathlib import Path
from typing import NoReturn

from job.convert.settings import ConversionError
from job.manifest import text_file
from job.manifest.text_file import MAX_BYTES


def refuse(origin: str, line: int | None, found: str, allowed: str) -> NoReturn:
    """Raise the one problem of a file that cannot be read at all."""
    text_file.refuse(ConversionError, origin, line, found, allowed)


def decoded(content: bytes, origin: str) -> str:
    """The text of a file, its line ends as on Linux, without a byte order mark.

    Raises:
        ConversionError: it is too long or not text.
    """
    return text_file.decoded(content, origin, ConversionError).replace("\r\n", "\n")


def read_beside(name: str, origin: str) -> tuple[bytes, str] | None:
    """A file that a configuration names, and its path; None where there is no such file.

    A relative name is of the current folder, as it is for the trainer, or else of the configuration's own folder.
    """
    for path in (Path(name), Path(origin).parent / name):
        try:
            if path.is_file():  # reading a pipe may never end
                with path.open("rb") as file:
                    return file.read(MAX_BYTES + 1), str(path)
        except (OSError, ValueError):  # a name with a zero byte, or one that is too long, is that of no file
            continue
    return None
