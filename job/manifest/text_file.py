"""The text of a file that a person wrote: a manifest, prompts, another trainer's configuration."""

from typing import NoReturn

from job.manifest.problems import Problem, ProblemsError

MAX_BYTES = 2**20


def refuse(error: type[ProblemsError], origin: str, line: int | None, found: str, allowed: str) -> NoReturn:
    """Raise the one problem of a file that cannot be read at all."""
    raise error([Problem(origin, line, "", found, allowed)])


def decoded(content: bytes, origin: str, error: type[ProblemsError]) -> str:
    """The text of a file, without a byte order mark.

    Args:
        error: raised where the content is too long or not text.
    """
    if len(content) > MAX_BYTES:
        refuse(error, origin, None, f"more than {MAX_BYTES} bytes", "files up to 1 MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        refuse(error, origin, content[: failure.start].count(b"\n") + 1, "bytes that are not UTF-8", "UTF-8 text")
    if "\0" in text:
        refuse(error, origin, text[: text.index("\0")].count("\n") + 1, "a zero byte", "UTF-8 text")
    return text
