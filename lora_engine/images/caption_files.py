"""Reads the files in which captions come: a text or JSON beside an image, and tables with a row an image."""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_engine.records import SourceFile
from lora_engine.system.limits import raise_if_limit

KEYS = ("text", "caption", "prompt", "tags", "tag_string")  # of captions, of which the first that holds one counts
_NAME = "file_name"
_LONGEST_CAPTION = 16_384  # bytes of a file, characters of a text; text encoders read some 300
_LONGEST_JSON = 2**24  # bytes of one beside an image, which may hold much else
_LONGEST_TABLE = 2**28  # bytes
_MOST_LINES = 5  # of a table, that are named where they give no caption
_SURPLUS = "\0"  # under which fields stand that have no column: no column can be called so
_NOTHING = frozenset(("null", "none", "nan", "n/a", "na"))  # what programs write for a field that holds nothing
_ROW_REMEDY = 'Write {"file_name": "a.png", "text": "..."} on every line of a metadata.jsonl.'
_CSV_REMEDY = "Give every row a file_name and, in quotes where it holds commas, a text."


class UnfitError(ValueError):
    """A file that cannot be read as captions. The message says why."""

    def __init__(self, reason: str, remedy: str, place: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.place = place  # within the file, for the end of its name


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    name: str  # of the image's file, as the table has it
    captions: tuple[str, ...]  # in their order; empty where it gives none


def captions_beside(file: SourceFile) -> tuple[str, ...]:
    """The captions in a file beside an image: the lines of a text, or what a JSON object holds; perhaps none.

    Raises:
        UnfitError: the file cannot be read, is not text, or is no JSON though its name says so.
    """
    if not file.key.lower().endswith(".json"):
        return _lines(_read_text(file, _LONGEST_CAPTION))
    text = _read_text(file, _LONGEST_JSON)
    try:
        value: Any = json.loads(text, parse_int=float)
    except (ValueError, RecursionError) as error:
        raise UnfitError("no JSON", "Mend it, or remove it.") from error
    return (_captions(value) if isinstance(value, dict) else None) or ()


def rows_of(file: SourceFile) -> list[Row] | None:
    """The rows of a `metadata.jsonl` or `metadata.csv`; None for a table of which no row could give a caption.

    Raises:
        UnfitError: the file cannot be read or is not text, or a row is not a caption of a named image.
    """
    text = _read_text(file, _LONGEST_TABLE)
    is_csv = file.key.lower().endswith(".csv")
    numbered = _of_csv(text) if is_csv else _of_json_lines(text)
    rows, wrong = [], []
    gives_captions = False
    for number, fields in numbered or ():
        captions = _captions(fields)
        gives_captions |= captions is not None
        if captions is None or not isinstance(fields.get(_NAME), str) or not _is_text(fields[_NAME]):
            wrong.append(number)
        else:
            rows.append(Row(fields[_NAME], captions))
    if not gives_captions and not any(map(_is_broken, (() if is_csv else text.split("\n")))):
        return None
    if wrong:
        raise UnfitError("no caption of a named file", _CSV_REMEDY if is_csv else _ROW_REMEDY, _of_lines(wrong))
    return rows


def _is_broken(line: str) -> bool:
    """Whether a line of a table in JSON is no object."""
    return bool(line.strip()) and _object(line) is None


def _of_lines(numbers: Sequence[int]) -> str:
    """The first of the lines, for the end of a file's name."""
    named = ", ".join(map(str, numbers[:_MOST_LINES]))
    more = f" and {len(numbers) - _MOST_LINES} more" * (len(numbers) > _MOST_LINES)
    return f", line{'s' * (len(numbers) > 1)} {named}{more}"


def _of_json_lines(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of JSON lines, with the numbers of their lines; an empty one for what is none."""
    # `splitlines` would also part a caption that holds other separators of lines, such as U+2028.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _object(line) or {}


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is; None where it is none."""
    try:
        value: Any = json.loads(text, parse_int=float)  # A number of thousands of digits is no fault of the captions.
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _of_csv(text: str) -> Iterator[tuple[int, Mapping[str, Any]]] | None:
    """The rows of a table by its columns, with the numbers of their last lines; None where it has not the columns."""
    first, _, rest = text.partition("\n")
    skipped = 1 if re.fullmatch(r'"?sep=.+', first.strip(), re.IGNORECASE) else 0  # what Excel reads the delimiter from
    for delimiter in ",;\t":  # spreadsheets write semicolons where a comma parts a number's decimals
        lines = io.StringIO(rest if skipped else text, newline="")
        reader = csv.DictReader(lines, delimiter=delimiter, strict=True, restkey=_SURPLUS)
        try:
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        except csv.Error:
            continue
        if _NAME in reader.fieldnames and not set(KEYS).isdisjoint(reader.fieldnames):
            return _csv_rows(reader, skipped)
    return None


def _csv_rows(reader: "csv.DictReader[str]", skipped: int) -> Iterator[tuple[int, Mapping[str, Any]]]:
    split: list[int] = []
    try:
        for fields in reader:
            if _SURPLUS in fields:
                split.append(reader.line_num + skipped)
            yield (
                reader.line_num + skipped,
                {
                    key: None if value is None or value.strip().lower() in _NOTHING else value
                    for key, value in fields.items()
                    if key != _SURPLUS
                },
            )
    except csv.Error as error:
        line = reader.reader.line_num + skipped
        raise UnfitError(f"no CSV, {error}", "Mend it, or remove it.", f", line {line}") from error
    if split:
        raise UnfitError("more fields than columns", "Put captions with commas in quotes.", _of_lines(split))


def _captions(fields: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The captions under the first key that holds some; None where none of the keys is there with a text or null."""
    found: tuple[str, ...] | None = None
    for key in KEYS:
        value = "" if fields.get(key) is None else fields[key]
        values = value if isinstance(value, list) else [value]
        if key not in fields or not all(isinstance(each, str) and _is_text(each) for each in values):
            continue
        joined = ", ".join(filter(None, map(str.strip, values))) if key == "tags" else "\n".join(values)
        found = _lines(joined)
        if found:
            break
    return found


def _lines(text: str) -> tuple[str, ...]:
    """The lines that hold anything, each once, without white space at their ends."""
    stripped = (line.strip() for line in re.split(r"\r\n|\r|\n", text))
    return tuple(dict.fromkeys(line for line in stripped if line))


def _is_text(caption: str) -> bool:
    """Whether a caption is short and can stand in a file, which NUL or half a character, escaped in JSON, cannot."""
    return len(caption) <= _LONGEST_CAPTION and not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in caption)


def _read_text(file: SourceFile, longest: int) -> str:
    """The text of a file in UTF-8, or in UTF-16 if it says so by a byte order mark."""
    try:
        if Path(file.path).stat().st_size > longest:
            raise UnfitError(f"more than {longest} bytes", "A caption is a sentence or two.")
        data = Path(file.path).read_bytes()
    except OSError as error:
        raise_if_limit(error)
        raise UnfitError(f"{error.strerror}", "Make it readable to this user, or remove it.") from error
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnfitError("not UTF-16" if is_utf16 else "not UTF-8", "Save them as UTF-8.") from error
    if "\0" in text:  # English in UTF-16, read as UTF-8, has one after every letter
        raise UnfitError("it holds NUL characters, as UTF-16 does", "Save them as UTF-8.")
    return text.lstrip("\ufeff")  # a program may add a byte order mark to one that is there already
