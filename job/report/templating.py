"""The templates of the report's texts and pages, and what text from anywhere goes through on its way into Markdown."""

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from job.report.elements import entry
from lora_engine.text import printable

TEMPLATES = Path(__file__).parent / "templates"

# Characters that mean something wherever they stand; an underscore within a word does not, and names are full of them.
_MARKUP = re.compile(r"[\\`*\[\]<>|~$]|&(?=[#\w])|(?<![^\W_])_|_(?![^\W_])|!(?=\[)|(?<=\w):(?=//)|(?<=www)\.")
# What begins a heading, a list or a rule where it is the first of a line.
_FIRST = re.compile(r"^(#|[-+=](?=[\s=-]|$)|\d+(?=[.)](?:\s|$)))")


@cache
def environment() -> Environment:
    """The templates below `templates/`, of which those in `.html.j2` escape what they are given by themselves.

    Those in `.md.j2` are to put it through the filter `md`. A name that a template is not given is an error.
    """
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"md": markdown, "printable": printable}
    made.globals["entry"] = entry
    return made


def markdown(text: object) -> str:
    """The text as one line of Markdown that shows it as it is, also in a cell of a table: no markup, link or HTML.

    Characters that do not print, such as line breaks and direction marks, are shown as escapes.
    """
    shown = _MARKUP.sub(lambda found: f"\\{found[0]}", printable(str(text)))
    return _FIRST.sub(_first, shown)


def _first(found: re.Match[str]) -> str:
    return f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}"
