"""Reads strict YAML: one document of plain mappings, sequences and YAML 1.2 scalars, with the line of each key.

Also writes YAML that this reader and those of other programs read back as it was.
"""

import re
from dataclasses import dataclass
from typing import Any

import yaml

from job.manifest.problems import ManifestError, Problem
from job.manifest.text_file import MAX_BYTES, refuse

_MAX_DEPTH = 32
_MAX_VALUES = 10_000  # keys count as values; the parser takes a second for so many
_MAX_INDIRECTIONS = 20  # anchors, aliases and tags that are reported

# Control characters and surrogates. Terminals obey the former, and neither belongs in a file name or a prompt.
CONTROL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")  # how JSON escapes one character beyond U+FFFF
_PLAIN = re.compile(r"[A-Za-z0-9/.][A-Za-z0-9_/.-]*(://[A-Za-z0-9_/.-]+)?")  # text that can stand without quotes

Path = tuple[str | int, ...]


class _TooMuch(yaml.MarkedYAMLError):
    """The text has more levels or values than any manifest needs, and reading it could take very long.

    The scanner's time grows with the square of the number of levels.
    """

    def __init__(self, what: str, limit: int, mark: Any) -> None:
        super().__init__(problem=f"more than {limit} {what}", problem_mark=mark)
        self.allowed = f"at most {limit}"


class _Loader(yaml.SafeLoader):
    """A SafeLoader with YAML 1.2's scalars: 1e-4 is a number, `no` and `2024-01-01` are text.

    It notes anchors, aliases and tags instead of following them, and stops where no manifest would be as deep or long.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.indirections: list[tuple[int, str, str]] = []  # line, what was found, what is allowed
        self._values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line, anchor, tag = event.start_mark.line + 1, getattr(event, "anchor", None), getattr(event, "tag", None)
        self._values += 1
        if self._values > _MAX_VALUES:
            raise _TooMuch("keys and values", _MAX_VALUES, event.start_mark)
        if anchor is not None and len(self.indirections) < _MAX_INDIRECTIONS:
            self.indirections.append((line, "an anchor or alias", "every value written out"))
        elif tag is not None and len(self.indirections) < _MAX_INDIRECTIONS:
            self.indirections.append((line, f"the tag {tag}", "untagged values"))
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]
            return yaml.ScalarNode("tag:yaml.org,2002:null", "", event.start_mark, event.end_mark)  # type: ignore[arg-type]
        if anchor is not None:
            event.anchor = None
        return super().compose_node(parent, index)

    def fetch_flow_collection_start(self, token_class: Any) -> None:
        self._refuse_deeper(self.flow_level)
        super().fetch_flow_collection_start(token_class)

    def add_indent(self, column: int) -> bool:
        self._refuse_deeper(len(self.indents))
        return bool(super().add_indent(column))

    def _refuse_deeper(self, levels: int) -> None:
        if levels > _MAX_DEPTH:
            raise _TooMuch("levels", _MAX_DEPTH, self.get_mark())


class _Dumper(yaml.SafeDumper):
    """A SafeDumper that quotes text which any version of YAML would take for another type, and writes no anchors."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)

for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})\\Z"), list(_first))
_Loader.yaml_implicit_resolvers[""] = _Loader.yaml_implicit_resolvers.pop("\0", [])


@dataclass(frozen=True)
class Document:
    """A parsed document: plain data, and the lines of its keys."""

    data: dict[str, Any]
    lines: dict[Path, int]
    origin: str
    problems: tuple[Problem, ...] = ()  # keys that could be read but may not stand there

    def line(self, path: Path) -> int | None:
        """The line of the key, or of the nearest key above it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


def dotted(path: Path) -> str:
    """A key as a user writes it: variants[1].captions.text."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


class _Reader:
    """Turns the nodes of a document into plain data, noting lines and problems."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.problems: list[Problem] = []
        self.lines: dict[Path, int] = {}

    def problem(self, node: yaml.Node | None, path: Path, found: str, allowed: str) -> None:
        line = None if node is None else node.start_mark.line + 1
        self.problems.append(Problem(self.origin, line, dotted(path), found, allowed))

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if len(path) > _MAX_DEPTH:
            self.problem(node, path[:3], "deeper nesting", f"at most {_MAX_DEPTH} levels")
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, at)) for at, item in enumerate(node.value)]
        return self.scalar(node, path)

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem(key_node, path, "a key that is not text", "keys of plain text")
                continue
            key = _joined(str(key_node.value))
            here = (*path, key)
            if control := CONTROL.search(key):
                self.problem(key_node, here, f"the control character {control[0]!r}", "plain text")
                continue
            if key in result:
                self.problem(
                    key_node, here, f"the key a second time (first on line {self.lines[here]})", "each key once"
                )
                continue
            self.lines[here] = key_node.start_mark.line + 1
            result[key] = self.value(value_node, here)
        return result

    def scalar(self, node: yaml.Node, path: Path) -> Any:
        text, kind = _joined(str(node.value)), node.tag.rpartition(":")[2]
        if control := CONTROL.search(text):
            self.problem(node, path, f"the control character {control[0]!r}", "text, tabs and line breaks")
            return None
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return int(text, 0 if text[:2] in ("0x", "0o") else 10) if len(text) < 400 else text
        if kind == "float":
            number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            if number - number != 0:
                self.problem(node, path, text, "finite numbers")
                return None
            return number
        return text


def _joined(text: str) -> str:
    """The text with the two halves of a character, which JSON may escape one by one, as that character."""
    return _PAIR.sub(lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)


def read_yaml(text: bytes, origin: str, list_key: str | None = None) -> Document:
    """Parse a manifest. Duplicate keys and numbers that are not finite are noted, so that the rest can be checked too.

    Args:
        list_key: the key under which a document that is a list is read, as though it were written there.

    Raises:
        ManifestError: too large, not UTF-8, not YAML, or with anchors, aliases or tags.
    """
    if len(text) > MAX_BYTES:
        refuse(ManifestError, origin, None, f"more than {MAX_BYTES} bytes", "files up to 1 MiB")
    nodes, problems = _compose(text, origin)
    if problems:
        raise ManifestError(problems)
    reader = _Reader(origin)
    root = nodes[0] if len(nodes) == 1 else None
    if list_key is not None and isinstance(root, yaml.SequenceNode):
        data = {list_key: reader.value(root, (list_key,))}
    elif isinstance(root, yaml.MappingNode):
        data = reader.value(root, ())
    else:
        second = nodes[1] if len(nodes) > 1 else None
        found = "no single mapping" if list_key is None else "no single list or mapping"
        allowed = "one document of keys and values" if list_key is None else f"one document, a list of {list_key}"
        reader.problem(second, (), found, allowed)
        raise ManifestError(reader.problems)
    return Document(data, reader.lines, origin, tuple(reader.problems))


def _compose(text: bytes, origin: str) -> tuple[list[yaml.Node | None], list[Problem]]:
    """The nodes of each document, and a problem for each anchor, alias and tag.

    Raises:
        ManifestError: the bytes are not UTF-8 or not YAML.
    """
    try:
        decoded = text.decode("utf-8-sig")
        loader = _Loader(decoded)
        nodes = []
        while loader.check_node():
            nodes.append(loader.get_node())
        return nodes, [Problem(origin, line, "", found, allowed) for line, found, allowed in loader.indirections]
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        raise ManifestError([Problem(origin, line, "", "bytes that are not UTF-8", "UTF-8 text")]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = mark.line + 1 if mark else None
        found = (error.problem or error.context or "text that is not YAML").removeprefix("found ")
        allowed = getattr(error, "allowed", "spaces, not tabs" if r"'\t'" in found else "YAML")
        raise ManifestError([Problem(origin, at, "", found, allowed)]) from error
    except (yaml.YAMLError, RecursionError) as error:
        found = "nesting without end" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
        position = getattr(error, "position", None)  # where a character stands that YAML does not allow
        at = None if position is None else decoded[:position].count("\n") + 1
        raise ManifestError([Problem(origin, at, "", found, "YAML")]) from error


def read_scalar(text: str, origin: str) -> Any:
    """The value of a `--set`: a YAML scalar or a flow collection."""
    document = read_yaml(f"value: {text}".encode(errors="surrogatepass"), origin)
    if document.problems:
        raise ManifestError(document.problems)
    return document.data["value"]


def write_scalar(text: str) -> str:
    """A text as YAML that fits on one line, also within a flow collection: plain where it is a simple name or place.

    Where it has a character that does not print, such as one that turns the direction of writing, all beyond ASCII is
    escaped. `read_scalar` reads it back as it was, but for control characters, which it refuses.
    """
    if _PLAIN.fullmatch(text) and read_scalar(text, "") == text:
        return text
    return str(yaml.dump(text, default_style='"', allow_unicode=text.isprintable(), width=MAX_BYTES)).rstrip("\n")


def write_yaml(*documents: Any) -> str:
    """Plain data as YAML, keys in their order, text of several lines as such."""
    return str(yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120))
