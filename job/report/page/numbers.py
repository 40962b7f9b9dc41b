"""Numbers of the comparison as HTML elements that say which value of `comparison.json` they show."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from job.report import elements
from job.report.table import gain_text, loss_text, percent, rounded

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
_ABSENT = "-"


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
            return elements.text(path, _ABSENT)
        return elements.number(path, value, _FORMS[form](value))

    def interval(self, *parts: Part, form: str) -> Markup:
        """The mean of an interval and its ends; the mean alone where the data give no ends, a dash where it is null."""
        if self.value(*parts) is None:
            return elements.text(path_of(parts), _ABSENT)
        mean = self.number(*parts, "mean", form=form)
        if self.value(*parts, "low") is None or self.value(*parts, "high") is None:
            return mean
        ends = [self.number(*parts, end, form=form) for end in ("low", "high")]
        return Markup('{} <span class="ends">[{}, {}]</span>').format(mean, *ends)

    def plain(self, *parts: Part) -> Markup:
        """The value as it is stored."""
        return elements.text(path_of(parts), str(self.value(*parts)))

    def text(self, *parts: Part) -> Markup:
        """The string, which may hold numbers of its own."""
        value = self.value(*parts)
        return elements.text(path_of(parts), _ABSENT if value is None else value)
