"""Numbers of the comparison as HTML elements that say which value of `comparison.json` they show."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from job.report.table import Cell, Entry, gain_text, loss_text, percent, rounded
from lora_engine.text import printable

Part = str | int  # a key or an index of a JSON path

# How numbers are shown. Losses have three digits that count; differences have a sign and two.
_FORMS: dict[str, Callable[[float], str]] = {
    "loss": loss_text,
    "difference": gain_text,
    "measure": lambda value: rounded(value, 3),
    "plain": "{:g}".format,
    "share": percent,
    "count": "{:,.0f}".format,
    "step": "{:.0f}".format,
    "seconds": "{:,.1f}".format,
}
_ELEMENT = Markup('<data value="{value}" data-path="{path}">{text}</data>')
_TEXT = Markup('<span data-path="{path}">{text}</span>')
_ABSENT = Markup('<span class="absent" data-path="{path}">-</span>')


def path_of(parts: Sequence[Part]) -> str:
    """The JSON path, from the root of `comparison.json`: `members[0].caption_sets["a b"].loss`."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        elif part.isidentifier() and part.isascii():
            path += f".{part}" if path else part
        else:
            escaped = part.replace("\\", "\\\\").replace('"', '\\"')
            path += f'["{escaped}"]'
    return path


class Numbers:
    """Shows values of the comparison. Every method takes the parts of a JSON path.

    Args:
        data: the comparison as it is stored.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    def value(self, *parts: Part) -> Any:
        """The value itself; None where it, or what it is part of, is null."""
        found: Any = self._data
        for part in parts:
            if found is None:
                return None
            found = found[part]
        return found

    def number(self, *parts: Part, form: str) -> Markup:
        """The number in that form; a dash where it is null."""
        value, path = self.value(*parts), path_of(parts)
        if value is None:
            return _ABSENT.format(path=path)
        return _ELEMENT.format(value=repr(value), path=path, text=_FORMS[form](value).replace("-", "\u2212"))

    def interval(self, *parts: Part, form: str) -> Markup:
        """The mean of an interval and its ends; the mean alone where the data give no ends, a dash where it is null."""
        if self.value(*parts) is None:
            return _ABSENT.format(path=path_of(parts))
        mean = self.number(*parts, "mean", form=form)
        if self.value(*parts, "low") is None or self.value(*parts, "high") is None:
            return mean
        ends = [self.number(*parts, end, form=form) for end in ("low", "high")]
        return Markup('{} <span class="ends">[{}, {}]</span>').format(mean, *ends)

    def entry(self, parts: Entry) -> Markup:
        """What stands in one place of a table."""
        return Markup("").join(part if isinstance(part, str) else self._cell(part) for part in parts)

    def _cell(self, cell: Cell) -> Markup:
        is_number = isinstance(cell.value, int | float) and not isinstance(cell.value, bool)
        if not is_number:
            return _TEXT.format(path=cell.path, text=printable(cell.text))
        return _ELEMENT.format(value=repr(cell.value), path=cell.path, text=cell.text.replace("-", "\u2212"))

    def plain(self, *parts: Part) -> Markup:
        """The value as it is stored."""
        return _TEXT.format(path=path_of(parts), text=printable(str(self.value(*parts))))

    def text(self, *parts: Part) -> Markup:
        """The string, which may hold numbers of its own."""
        value = self.value(*parts)
        return (
            _ABSENT.format(path=path_of(parts))
            if value is None
            else _TEXT.format(path=path_of(parts), text=printable(value))
        )
