"""An option that takes several values after its name, as shells expand `*.json`."""

from collections.abc import Iterator, Sequence
from typing import Any

from typer.core import TyperCommand


def with_several_values(option: str) -> type[TyperCommand]:
    """The class of a command of which an option that may be repeated takes all values that follow it, too.

    They end at the next option, or at `--`, so arguments stand before it.
    """

    class _Command(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return super().parse_args(ctx, list(repeated(option, args)))

    return _Command


def repeated(option: str, args: Sequence[str]) -> Iterator[str]:
    """The arguments with the option's name before each of its values."""
    takes = given = False
    for at, arg in enumerate(args):
        if arg == "--":
            yield from args[at:]
            return
        if arg.startswith("-") and arg != "-":
            takes, given = arg == option or arg.startswith(f"{option}="), arg != option
            yield arg
            continue
        if takes and given:
            yield option
        given = True
        yield arg
