"""Mutation testing of one room of the engine, by mutmut: what `scripts/mutate` runs.

mutmut reads its settings from the folder that it works in. So every room gets one of its own below `mutants/`, with
links to the project and settings that name the room's source file and its own tests. mutmut imports the tests once and
starts each mutant as a fork of that process: importing torch takes longer than a room's tests do.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests" / "mutants.toml"
ENOUGH = 0.9  # of the mutants that something can tell from the original

_LINKED = ("job", "lora_engine", "scripts", "tests")
_SURVIVED = ("survived", "no tests")
_SETTINGS = """
[tool.mutmut]
source_paths = ["lora_engine"]
only_mutate = ["{source}"]
also_copy = ["job", "scripts"]
# the last two collect garbage at every test session's end, which takes longer than most rooms' tests
pytest_add_cli_args = [
  "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:unraisableexception", "-p", "no:threadexception",
]
pytest_add_cli_args_test_selection = {tests}
use_git_change_detection = false
timeout_multiplier = 4.0
"""


@dataclass(frozen=True)
class Equal:
    """A mutant of which somebody has reasoned that nothing can tell it from the original."""

    was: str  # a piece of the changed lines
    becomes: str
    why: str

    def is_that(self, survivor: "Survivor") -> bool:
        """Whether this change, made in one place, is the survivor's."""
        gone, came = survivor.change
        places = (found.start() for found in re.finditer(re.escape(self.was), gone))
        return any(gone[:at] + self.becomes + gone[at + len(self.was) :] == came for at in places)


@dataclass(frozen=True)
class Room:
    """A module that is mutated, and the tests that must notice."""

    name: str
    source: str  # relative to the project, as are the tests
    tests: tuple[str, ...]
    equal: tuple[Equal, ...]


@dataclass(frozen=True)
class Survivor:
    """A mutant that no test noticed."""

    name: str
    diff: str

    @property
    def change(self) -> tuple[str, str]:
        """The lines that are gone and those that came instead, stripped."""
        lines = [line for line in self.diff.splitlines() if not line.startswith(("---", "+++"))]
        gone, came = (
            " ".join(line[1:].strip() for line in lines if line.startswith(sign) and line[1:].strip()) for sign in "-+"
        )
        return gone, came


def rooms() -> dict[str, Room]:
    """All that the table names."""
    return {name: _room(name, entry) for name, entry in tomllib.loads(TABLE.read_text(encoding="utf-8")).items()}


def _room(name: str, entry: dict[str, Any]) -> Room:
    source = f"{entry['module'].replace('.', '/')}.py"
    equal = [
        Equal(one["was"], becomes, one["why"])
        for one in entry.get("equal", ())
        for becomes in one.get("becomes") or _no_longer_strict(one["was"])
    ]
    return Room(name, source, tuple(_test_file(file) for file in entry["tests"]), tuple(equal))


def _no_longer_strict(zipped: str) -> list[str]:
    return [zipped.replace("strict=True", lax) for lax in ("strict=None", "strict=False", "")]


def _test_file(name: str) -> str:
    (found,) = (ROOT / "tests" / "lora_engine").rglob(name)
    return str(found.relative_to(ROOT))


def prepare(room: Room) -> Path:
    """A fresh folder for mutmut to work in."""
    folder = ROOT / "mutants" / room.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in _LINKED:
        (folder / name).symlink_to(ROOT / name)
    settings = _SETTINGS.format(source=room.source, tests=list(room.tests))
    (folder / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8") + settings)
    return folder


def _mutmut(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [Path(sys.executable).parent / "mutmut", *arguments],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        sys.exit(f"{ran.stdout}\n{ran.stderr}\nmutmut {' '.join(arguments)} failed in {folder}")
    return ran.stdout


def mutate(room: Room, workers: int) -> tuple[int, list[Survivor]]:
    """How many mutants there are, and those that survived."""
    folder = prepare(room)
    _mutmut(folder, "run", "--max-children", str(workers))
    lines = [line.strip().rpartition(": ") for line in _mutmut(folder, "results", "--all", "true").splitlines()]
    status = {name: found for name, _, found in lines}
    unclear = [name for name, found in status.items() if found in ("not checked", "suspicious")]
    if not status or unclear:
        sys.exit(f"mutmut came to no verdict in {folder}: {', '.join(unclear) or 'there are no mutants'}")
    survived = [name for name, found in status.items() if found in _SURVIVED]
    return len(status), [Survivor(name, _mutmut(folder, "show", name)) for name in survived]


def report(room: Room, total: int, survivors: Iterable[Survivor], seconds: float) -> bool:
    """Print what survived, and whether that is little enough."""
    met = {survivor: next((equal for equal in room.equal if equal.is_that(survivor)), None) for survivor in survivors}
    for survivor, equal in sorted(met.items(), key=lambda item: item[1] is None):
        print(f"\n{survivor.diff.strip()}\n=> {f'equal: {equal.why}' if equal else 'not listed'}")
    for equal in room.equal:
        if equal not in met.values():
            print(f"\n{TABLE.name} lists a survivor that there is not: {equal.was!r} -> {equal.becomes!r}")
    strangers = list(met.values()).count(None)
    killed, equals = total - len(met), len(met) - strangers
    share = killed / max(1, total - equals)
    print(f"\n{room.name}: {killed} of {total} killed, {equals} equal, {strangers} not listed: {share:.1%}")
    print(f"{room.name}: {seconds:.0f} s")
    return share >= ENOUGH


def main() -> None:
    """Mutate the rooms that the command line names."""
    known = rooms()
    parser = argparse.ArgumentParser(prog="scripts/mutate")
    parser.add_argument("rooms", nargs="+", choices=[*known], metavar="ROOM", help=", ".join(known))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    enough = True
    for name in arguments.rooms:
        started = time.monotonic()
        total, survivors = mutate(known[name], arguments.workers)
        enough &= report(known[name], total, survivors, time.monotonic() - started)
    sys.exit(0 if enough else 1)


if __name__ == "__main__":
    main()
