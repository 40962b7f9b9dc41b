"""Makes the variants that a `sweep` asks for: of the variant that has it, one for each combination of its values.

It works on the data of a manifest that is not yet validated, so that whatever comes after it knows of variants alone.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from job.manifest.explain import place_of, value_text
from job.manifest.foreign import fate_of
from job.manifest.names import LONGEST_NAME, in_a_name, swept_name, variant_name
from job.manifest.overrides import OVERRIDABLE, schemas_of_keys
from job.manifest.problems import Problem, nearest
from job.manifest.schema import MOST_VARIANTS
from job.manifest.yaml_reader import Document, Path

KEY = "sweep"
_SWEPT = [(key,) for key, _ in OVERRIDABLE]
_KEYS = f"a dotted key of {' or '.join(key for key, _ in OVERRIDABLE)}, such as lora.rank"
_LISTS = "a list of values under a dotted key, such as lora.rank: [8, 16]"

Sweep = Mapping[str, list[Any]]  # dotted key to its values


@dataclass(frozen=True)
class Made:
    """Where a variant comes from."""

    name: str
    written: int  # its place among the variants as they are written
    chosen: Mapping[str, int]  # dotted key to the place of its value in the sweep; none where there is no sweep


@dataclass(frozen=True)
class Expansion:
    """A manifest's data in which no variant has a sweep, and what was wrong with those that were written."""

    data: dict[str, Any]
    made: tuple[Made, ...] = ()  # of each variant; empty where nothing is swept
    problems: tuple[Problem, ...] = ()

    def written(self, path: Path) -> tuple[Path, str]:
        """Where the value at a path of `data` stands in the manifest; and in which variant, if not all that it makes.

        That is "" where the place says it.
        """
        if path[:1] != ("variants",) or len(path) < 2 or not self.made:
            return path, ""
        made, below = self.made[int(path[1])], path[2:]
        variant: Path = ("variants", made.written)
        for key, at in made.chosen.items():
            parts = tuple(key.split("."))
            if below[: len(parts)] == parts:
                return (*variant, KEY, key, at, *below[len(parts) :]), ""
            if (*below, "name") == parts:  # A name that no member of a union has is found at the union's place.
                return (*variant, KEY, key, at), ""
        return (*variant, *below), f"It is so in {made.name}." if made.chosen and below[:1] in _SWEPT else ""


def expand_sweeps(document: Document, options: Mapping[Path, str]) -> Expansion:
    """Put the variants that each sweep makes in the place of the one that has it, in the order of its keys and values.

    A sweep that cannot be used leaves its variant as it is without one.

    Args:
        options: the `--set` options by the path of the key that each has set.
    """
    variants = document.data.get("variants")
    if not isinstance(variants, list) or not any(isinstance(each, dict) and KEY in each for each in variants):
        return Expansion(document.data)
    reader = _Reader(document, options)
    sweeps = [reader.sweep(variant, ("variants", at, KEY)) for at, variant in enumerate(variants)]
    sizes = [math.prod(map(len, sweep.values())) for sweep in sweeps]
    if sum(sizes) > MOST_VARIANTS:
        largest = sizes.index(max(sizes))
        found = f"{sizes[largest]} variants, {sum(sizes)} with the others"
        reader.problem(("variants", largest, KEY), found, f"at most {MOST_VARIANTS} in all")
        sweeps = [{} for _ in variants]
    first: dict[str, Made] = {}
    kept = []
    for at, (variant, sweep) in enumerate(zip(variants, sweeps, strict=True)):
        for made, data in _combinations(variant, at, sweep):
            other = first.setdefault(made.name, made)
            if other is made or not (made.chosen or other.chosen):
                kept.append((made, data))
            else:
                reader.clash(other, made)
    data = document.data | {"variants": [data for _, data in kept]}
    return Expansion(data, tuple(made for made, _ in kept), tuple(reader.problems))


def _combinations(variant: Any, at: int, sweep: Sweep) -> Iterator[tuple[Made, Any]]:
    """The variants that a sweep makes, the last key's values running fastest; the variant itself where it has none."""
    if not isinstance(variant, dict):
        yield Made("", at, {}), variant
        return
    name, rest = _name(variant), {key: value for key, value in variant.items() if key != KEY}
    for places in itertools.product(*(range(len(values)) for values in sweep.values())):
        chosen = dict(zip(sweep, places, strict=True))
        if not chosen:
            yield Made(name, at, {}), rest
            continue
        values = {key: sweep[key][place] for key, place in chosen.items()}
        made = Made(swept_name(name, values), at, chosen)
        data = rest | {"name": made.name}
        for key, value in values.items():
            data = _with(data, key.split("."), value)
        yield made, data


def _name(variant: Any) -> str:
    """The name of a variant; "", which is none, where it has none that is text."""
    name = variant.get("name") if isinstance(variant, dict) else None
    return name if isinstance(name, str) else ""


def _with(data: dict[str, Any], parts: list[str], value: Any) -> dict[str, Any]:
    """The data with the value at a path, of which no part leads to what is no mapping."""
    return data | {parts[0]: value if len(parts) == 1 else _with(data.get(parts[0]) or {}, parts[1:], value)}


class _Reader:
    """Reads sweeps, noting their problems."""

    def __init__(self, document: Document, options: Mapping[Path, str]) -> None:
        self.problems: list[Problem] = []
        self._document, self._options = document, options
        self._keys = tuple(schemas_of_keys())

    def problem(self, path: Path, found: str, allowed: str, suggestion: str | None = None) -> None:
        place = place_of(path, self._document, self._options)
        self.problems.append(Problem(*place, found, allowed, suggestion))

    def sweep(self, variant: Any, path: Path) -> Sweep:
        """The sweep of a variant, by a path; none where it has none, or one that cannot be used."""
        sweep = variant.get(KEY, {}) if isinstance(variant, dict) else {}
        before = len(self.problems)
        if not isinstance(sweep, dict):
            self.problem(path, value_text(sweep), f"a mapping: {_LISTS}")
            return {}
        for key, values in sweep.items():
            self._check_key(key, sweep, variant, (*path, key))
            self._check_values(values, (*path, key))
        if len(self.problems) > before:
            return {}
        try:
            variant_name(_name(variant))
        except ValueError:  # which is found, and said, of the variant itself
            return {}
        for made, _ in () if math.prod(map(len, sweep.values())) > MOST_VARIANTS else _combinations(variant, 0, sweep):
            if len(made.name) > LONGEST_NAME:
                found = f"a variant that would be named {made.name!r}, of {len(made.name)} characters"
                self.problem(path, found, f"at most {LONGEST_NAME}; a shorter name than {variant['name']!r}")
                return {}
        return sweep

    def _check_key(self, key: str, sweep: Mapping[str, Any], variant: Mapping[str, Any], path: Path) -> None:
        if key not in self._keys:
            self.problem(path, "an unknown key", _KEYS, self._meant(key))
        elif above := next((other for other in sweep if key.startswith(f"{other}.")), None):
            self.problem(path, f"a key within {above}, which is swept, too", "one of the two")
        elif (own := _own(variant, key)) is not None:
            self.problem((*path[:2], *own), "a key that the variant's sweep sets, too", "one of the two")

    def _check_values(self, values: Any, path: Path) -> None:
        if not isinstance(values, list):
            self.problem(path, value_text(values), _LISTS)
        elif not values:
            self.problem(path, "0 items", "at least 1")
        else:
            first: dict[str, int] = {}  # what a value is called in a name, to the place of the first that is
            for at, word in enumerate(map(in_a_name, values)):
                if first.setdefault(word, at) != at:
                    again = (
                        f"{value_text(values[at])}, which is called {word!r} as {value_text(values[first[word]])} is"
                    )
                    self.problem((*path, at), again, "each value once, and no two of one name")

    def _meant(self, key: str) -> str | None:
        """The key that was probably meant by one that there is not: by its last part, as others call it, or spelled."""
        last = key.rpartition(".")[2]
        fate = fate_of(last)
        same = [known for known in self._keys if known.endswith(f".{last}")]
        if len(same) == 1:
            return same[0]
        return fate.key if fate is not None and fate.key in self._keys else nearest(key, self._keys)

    def clash(self, first: Made, second: Made) -> None:
        """Say that two variants have one name, of which at least the one was made by a sweep."""
        swept, other = (second, first) if second.chosen else (first, second)
        found = (
            f"a variant that it names {swept.name!r}, as variants[{other.written}] {'names' if other.chosen else 'is'}"
        )
        found += " one" if other.chosen else " named"
        self.problem(("variants", swept.written, KEY), found, "names that differ; another name for one of the two")


def _own(variant: Mapping[str, Any], key: str) -> Path | None:
    """The path of the key by which a variant sets the swept one itself, or something else that is in its way.

    None where the key is free.
    """
    node: Any = variant
    parts = key.split(".")
    for at, part in enumerate(parts):
        if part not in node:
            return None
        node = node[part]
        if not isinstance(node, dict):
            return tuple(parts[: at + 1])
    return tuple(parts)
