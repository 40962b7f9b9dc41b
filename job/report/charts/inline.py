"""Figures as SVG that stands inside of an HTML page whose policy allows neither styles nor scripts in it."""

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element

from job.report.charts.look import BLACK, DATA, chart_style, drawn
from lora_engine.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMESPACE = re.compile(r"^{.*}")
_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"#([\w-]+)")
_UNWANTED = ("metadata", "style")  # elements of matplotlib's that a page has no use for, or forbids
_PROPERTIES = frozenset(
    "fill fill-opacity fill-rule font-size font-style font-weight opacity stroke stroke-dasharray stroke-dashoffset "
    "stroke-linecap stroke-linejoin stroke-miterlimit stroke-opacity stroke-width text-anchor".split()
)  # of styles that matplotlib writes, each of which is an attribute, too


@chart_style()
def svg(figure: "Figure", title: str, description: str, path: str) -> str:
    """A figure as an `<svg>` element, equal for equal figures, that is as wide as the page lets it be.

    Letters and lines have the colour and the font of the text around it, and its background is the page's. What shows a
    value of `comparison.json` has the value's place as its `data-path`.

    Args:
        title: what the figure is called, in words for those who do not see it.
        description: what it shows, for them.
        path: the place in `comparison.json` of all that it shows.
    """
    root = ET.fromstring(drawn(figure, "svg", metadata={"Date": None}))  # noqa: S314 - Matplotlib wrote it just now.
    for element in root.iter():
        _make_plain(element)
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in _UNWANTED]:
            parent.remove(child)
    name = figure.get_gid() or "figure"
    _rename(root, name)
    labels = [Element("title", {"id": f"{name}-title"}), Element("desc", {"id": f"{name}-description"})]
    for label, text in zip(labels, (title, description), strict=True):
        label.text = printable(text)
    root[:0] = labels
    root.attrib = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": " ".join(label.attrib["id"] for label in labels),
        "data-path": path,
        "fill": "currentColor",  # of whatever says nothing else, which would be black
        "font-family": "inherit",
        "stroke-linejoin": "round",
    }
    return ET.tostring(root, encoding="unicode")


def _make_plain(element: Element) -> None:
    """Have an element without namespaces, styles, black, and digits that nobody sees."""
    element.tag = _NAMESPACE.sub("", element.tag)
    if element.tag != "text":
        element.text = None
    element.tail = None
    found = {_NAMESPACE.sub("", key): value for key, value in element.attrib.items()}
    found |= _declarations(found.pop("style", ""))
    for key, value in found.items():
        if key in ("fill", "stroke") and value == BLACK:
            found[key] = "currentColor"
        elif key not in ("id", "href", "clip-path"):
            found[key] = " ".join(_NUMBER.sub(_rounded, value).split())
    if found.get("transform", "").startswith("rotate(-0 "):
        del found["transform"]
    element.attrib = found


def _declarations(style: str) -> dict[str, str]:
    """The properties of a style, without the font, which is the page's."""
    pairs = (declaration.partition(":") for declaration in style.split(";") if declaration.strip())
    found = {name.strip(): value.strip() for name, _, value in pairs}
    found.pop("font-family", None)
    assert found.keys() <= _PROPERTIES, f"{found.keys() - _PROPERTIES} are no attributes"
    return found


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _rename(root: Element, name: str) -> None:
    """Give parts that others refer to ids that begin with this name, what shows a value its path, and others no id."""
    names: dict[str, str] = {}
    for element in root.iter():
        for key in ("href", "clip-path"):
            if key in element.attrib:
                element.attrib[key] = _REFERENCE.sub(
                    lambda found: "#" + names.setdefault(found[1], f"{name}-{len(names) + 1}"), element.attrib[key]
                )
    for element in root.iter():
        key = element.attrib.pop("id", "")
        if key in names:
            element.attrib["id"] = names[key]
        elif key.startswith(DATA):
            element.attrib["data-path"] = key.removeprefix(DATA)
