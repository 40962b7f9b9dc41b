"""Rooms and floors of each package, from its imports. A room is a file or folder right below the package; a room stands
one floor above the highest of those that it imports.

Usage: scripts/import_graph.py [PACKAGE ...]   (default: job lora_engine; job.run looks into a folder)
"""

import sys
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]


def floors(graph: grimp.ImportGraph, package: str) -> dict[str, int]:
    """The floor of every room; 1 is the ground. A circle of rooms would have no floor: RecursionError."""
    rooms = sorted(graph.find_children(package))
    below = {
        room: [other for other in rooms if other != room and graph.find_shortest_chains(room, other, as_packages=True)]
        for room in rooms
    }
    found: dict[str, int] = {}

    def floor(room: str) -> int:
        if room not in found:
            found[room] = 1 + max((floor(other) for other in below[room]), default=0)
        return found[room]

    return {room: floor(room) for room in rooms}


def main() -> None:
    sys.path.insert(0, str(ROOT))
    graph = grimp.build_graph("job", "lora_engine", cache_dir=None)
    for package in sys.argv[1:] or ["job", "lora_engine"]:
        found = floors(graph, package)
        print(f"{package}: {len(found)} rooms on {max(found.values())} floors")
        for number in sorted(set(found.values()), reverse=True):
            names = (room.removeprefix(f"{package}.") for room, floor in found.items() if floor == number)
            print(f"  {number:2}  {', '.join(sorted(names))}")


if __name__ == "__main__":
    main()
