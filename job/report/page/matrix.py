"""Every adapter under every set of captions, as a table whose shades say how far below the base model it is."""

from dataclasses import dataclass

from job.report.schema import Comparison

_SHADES = 4  # from the faintest to the darkest; 0 is none


@dataclass(frozen=True)
class Cell:
    """An adapter under one set of captions."""

    set: str | None  # None where it was not scored
    shade: int


@dataclass(frozen=True)
class MatrixRow:
    """An adapter under every set of captions."""

    member: int  # its place among the comparison's members
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Matrix:
    """Rows of as many cells as there are sets."""

    sets: tuple[str, ...]
    rows: tuple[MatrixRow, ...]


def matrix_of(comparison: Comparison) -> Matrix:
    """The matrix of the last checkpoints."""
    sets = tuple(dict.fromkeys(name for member in comparison.members for name in member.caption_sets))
    changes = [found.change.mean for member in comparison.members for found in member.caption_sets.values()]
    lowest = min(changes, default=0.0)

    def cell(member: int, name: str) -> Cell:
        found = comparison.members[member].caption_sets.get(name)
        if found is None or lowest >= 0:
            return Cell(name if found else None, 0)
        return Cell(name, round(max(0.0, found.change.mean / lowest) * _SHADES))

    rows = tuple(MatrixRow(at, tuple(cell(at, name) for name in sets)) for at in range(len(comparison.members)))
    return Matrix(sets, rows)
