"""Captions that came with the images: a `.txt` beside the image, or a `metadata.jsonl` in its folder."""

import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lora_engine.errors import DataError
from lora_engine.images.kinds import is_leftover
from lora_engine.records import SourceFile

METADATA = "metadata.jsonl"
_LONGEST_CAPTION = 16_384  # bytes of a file, characters of a text; text encoders read some 300
_LONGEST_METADATA = 2**28  # bytes


def split_sidecars(files: Sequence[SourceFile]) -> tuple[list[SourceFile], list[SourceFile]]:
    """Part the files that should be images from those that hold captions. Files that systems leave behind hold none."""
    stems = {_stem(file.key) for file in files if not file.key.lower().endswith(".txt") and not is_leftover(file.key)}
    pictures: list[SourceFile] = []
    sidecars: list[SourceFile] = []
    for file in files:
        is_text = file.key.lower().endswith(".txt") and _stem(file.key) in stems
        holds_captions = (is_text or PurePosixPath(file.key).name == METADATA) and not is_leftover(file.key)
        (sidecars if holds_captions else pictures).append(file)
    return pictures, sidecars


def read_sidecars(files: Sequence[SourceFile]) -> dict[str, str]:
    """Read the captions, by the images' keys. A `.txt` wins over `metadata.jsonl`; an empty text is no caption.

    A `metadata.jsonl` may write an accented name as one character or two, whichever the file's name has.

    Raises:
        DataError: a caption file cannot be read or is not UTF-8, or a line of a `metadata.jsonl` is not a caption.
    """
    pictures, sidecars = split_sidecars(files)
    captions: dict[str, str] = {}
    texts: dict[str, str] = {}
    for file in sidecars:
        if PurePosixPath(file.key).name == METADATA:
            captions |= _read_metadata(file)
        else:
            texts[_stem(file.key)] = _read_text(file, _LONGEST_CAPTION).strip()
    composed = {_composed(key): text for key, text in captions.items()}
    for picture in pictures:
        text = texts.get(_stem(picture.key)) or captions.get(picture.key) or composed.get(_composed(picture.key))
        if text:
            captions[picture.key] = text
    return captions


def _stem(key: str) -> str:
    """The key without its extension."""
    path = PurePosixPath(key)
    return str(path.with_suffix("")) if path.name else key  # an object in a bucket may be called ".", which has no name


def _composed(key: str) -> str:
    return unicodedata.normalize("NFC", key)


def _read_text(file: SourceFile, longest: int) -> str:
    try:
        if Path(file.path).stat().st_size > longest:
            raise DataError(
                f"The caption file {file.key} has more than {longest} bytes.", "A caption is a sentence or two."
            )
        text = Path(file.path).read_text("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"The caption file {file.key} cannot be read ({error.strerror}).",
            "Make it readable to this user, or remove it.",
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"The caption file {file.key} is not UTF-8.", "Save it as UTF-8.") from error
    if "\0" in text:  # English in UTF-16, read as UTF-8, has one after every letter
        raise DataError(f"The caption file {file.key} holds NUL characters, as UTF-16 does.", "Save it as UTF-8.")
    return text.lstrip("\ufeff")  # a program may add a byte order mark to one that is there already


def _read_metadata(file: SourceFile) -> dict[str, str]:
    """The captions of a `metadata.jsonl`, by the images' keys."""
    folder = PurePosixPath(file.key).parent
    captions = {}
    # `splitlines` would also part a caption that holds other separators of lines, such as U+2028.
    for number, line in enumerate(_read_text(file, _LONGEST_METADATA).split("\n"), 1):
        if line.strip():
            name, text = _row(line, f"{file.key}, line {number}")
            if text:
                captions[str(folder / name)] = text
    return captions


def _row(line: str, place: str) -> tuple[str, str]:
    """The name of the file and the caption that a line gives; `place` says where the line stands."""
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    text = row.get("text", row.get("caption")) if isinstance(row, dict) else None
    if not isinstance(text, str) or not isinstance(row.get("file_name"), str) or not _is_text(text):
        raise DataError(
            f"{place} does not give a caption.", 'Write {"file_name": "a.png", "text": "..."} on every line.'
        )
    return row["file_name"], text.strip()


def _is_text(caption: str) -> bool:
    """Whether a caption is short and can stand in a file, which NUL or half a character, escaped in JSON, cannot."""
    return len(caption) <= _LONGEST_CAPTION and not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in caption)
