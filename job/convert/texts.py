"""Reads the text of a file that a user names, or that a configuration names beside it."""

from pathlib import Path
from typing import NoReturn

from job.convert.settings import ConversionError
from job.manifest.problems import Problem

MAX_BYTES = 2**20


def refuse(origin: str, line: int | None, found: str, allowed: str) -> NoReturn:
    """Raise the one problem of a file that cannot be read at all."""
    raise ConversionError([Problem(origin, line, "", found, allowed)])


def decoded(content: bytes, origin: str) -> str:
    """The text of a file, its line ends as on Linux, without a byte order mark.

    Raises:
        ConversionError: it is too long or not text.
    """
    if len(content) > MAX_BYTES:
        refuse(origin, None, f"more than {MAX_BYTES} bytes", "files up to 1 MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        refuse(origin, content[: error.start].count(b"\n") + 1, "bytes that are not UTF-8", "UTF-8 text")
    if "\0" in text:
        refuse(origin, text[: text.index("\0")].count("\n") + 1, "a zero byte", "UTF-8 text")
    return text.replace("\r\n", "\n")


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
