"""Captions that came with the images: a `.txt` beside the image, or a `metadata.jsonl` in its folder."""

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lora_engine.errors import DataError
from lora_engine.records import SourceFile

METADATA = "metadata.jsonl"


def split_sidecars(files: Sequence[SourceFile]) -> tuple[list[SourceFile], list[SourceFile]]:
    """Files that should be images, and files that hold captions."""
    stems = {str(PurePosixPath(f.key).with_suffix("")) for f in files if not f.key.lower().endswith(".txt")}
    pictures: list[SourceFile] = []
    sidecars: list[SourceFile] = []
    for file in files:
        path = PurePosixPath(file.key)
        is_text = path.suffix.lower() == ".txt" and str(path.with_suffix("")) in stems
        (sidecars if is_text or path.name == METADATA else pictures).append(file)
    return pictures, sidecars


def read_sidecars(files: Sequence[SourceFile]) -> dict[str, str]:
    """Captions by the image's key. A `.txt` wins over `metadata.jsonl`.

    Raises:
        DataError: a caption file is not UTF-8, or a line of a `metadata.jsonl` is not a caption.
    """
    pictures, sidecars = split_sidecars(files)
    captions: dict[str, str] = {}
    texts: dict[str, str] = {}
    for file in sidecars:
        if PurePosixPath(file.key).name == METADATA:
            captions |= _read_metadata(file)
        else:
            texts[str(PurePosixPath(file.key).with_suffix(""))] = _read_text(file).strip()
    for picture in pictures:
        text = texts.get(str(PurePosixPath(picture.key).with_suffix("")))
        if text:
            captions[picture.key] = text
    return captions


def _read_text(file: SourceFile) -> str:
    try:
        return Path(file.path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"The caption file {file.key} is not UTF-8.", "Save it as UTF-8.") from error


def _read_metadata(file: SourceFile) -> dict[str, str]:
    folder = PurePosixPath(file.key).parent
    captions = {}
    for number, line in enumerate(_read_text(file).splitlines(), 1):
        if line.strip():
            name, text = _row(line, f"{file.key}, line {number}")
            captions[str(folder / name)] = text
    return captions


def _row(line: str, place: str) -> tuple[str, str]:
    try:
        row: Any = json.loads(line)
    except ValueError:
        row = None
    text = row.get("text", row.get("caption")) if isinstance(row, dict) else None
    if not isinstance(text, str) or not isinstance(row.get("file_name"), str):
        raise DataError(
            f"{place} does not give a caption.", 'Write {"file_name": "a.png", "text": "..."} on every line.'
        )
    return row["file_name"], text.strip()
