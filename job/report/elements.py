"""Elements of HTML that several pages of a report have: values that say where they stand, and what a page holds."""

import base64
import hashlib
import json
from collections.abc import Mapping

from markupsafe import Markup

from job.report.table import Cell, Entry
from lora_engine.text import printable

_NUMBER = Markup('<data value="{value}" data-path="{path}">{text}</data>')
_TEXT = Markup('<span data-path="{path}">{text}</span>')


def number(path: str, value: float, text: str) -> Markup:
    """A number as it is shown, with the JSON path of the value that it stands for, and the value."""
    return _NUMBER.format(value=repr(value), path=path, text=text.replace("-", "\u2212"))


def text(path: str, value: str) -> Markup:
    """A text, with the JSON path of the value that it stands for."""
    return _TEXT.format(path=path, text=printable(value))


def entry(parts: Entry) -> Markup:
    """What stands in one place of a table."""
    return Markup("").join(part if isinstance(part, str) else _cell(part) for part in parts)


def _cell(cell: Cell) -> Markup:
    if isinstance(cell.value, int | float) and not isinstance(cell.value, bool):
        return number(cell.path, cell.value, cell.text)
    return text(cell.path, cell.text)


def webp_uri(data: bytes) -> str:
    """A URI that holds a picture."""
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}"


def policy_hash(source: str) -> str:
    """What the content security policy of a page calls a script or a style that it allows."""
    return f"sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}"


def json_in_script(value: Mapping[str, object]) -> str:
    """JSON as it can stand in a script element: no text of it ends the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
