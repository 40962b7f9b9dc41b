"""What kohya's training scripts read from the names of folders: repeats, and pictures that are not to be learned."""

import re
from collections.abc import Iterable
from posixpath import basename, dirname

_REPEATS = re.compile(r"([0-9]{1,3})_(.+)", re.DOTALL)  # how often a folder's pictures are shown, and what they are
_REGULARISATION = re.compile(
    r"(regs?|regulari[sz]ation)([_ -].*)?|(reg|regulari[sz]ation|class)[_ -]?(images?|imgs?|data)", re.IGNORECASE
)


def plain_name(folder: str) -> str:
    """The name of a folder without its repeats: `cat` for `10_cat`."""
    match = _REPEATS.fullmatch(folder)
    return match[2] if match else folder


def is_regularisation(key: str) -> bool:
    """Whether a file lies in a folder of pictures that only keep a model from forgetting, such as `reg`."""
    return any(_REGULARISATION.fullmatch(part) for part in key.split("/")[:-1])


def repeats_of(keys: Iterable[str]) -> dict[str, int]:
    """By its name, how often kohya's scripts would show the pictures of each folder that is named like `10_cat`."""
    folders = {basename(dirname(key)) for key in keys if not is_regularisation(key)}
    return {folder: int(match[1]) for folder in sorted(folders) if (match := _REPEATS.fullmatch(folder))}
