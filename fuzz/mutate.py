"""Damages good files at random, and counts what a reader makes of them."""

import argparse
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

INTERESTING = (
    b"\0",
    b"\xff",
    b"\xff" * 4,
    b"\xff" * 8,
    b"\x7f\xff\xff\xff",
    b"\x80",
    b"../",
    b"-1",
    b"9" * 12,
    b"PK\5\6",
)


def mutated(dice: random.Random, seeds: Sequence[bytes]) -> bytes:
    """A seed with a few bytes changed, cut out, doubled or exchanged with another's; now and then nothing but noise."""
    if dice.random() < 0.02:
        return dice.randbytes(dice.randrange(600))
    data = bytearray(dice.choice(seeds))
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        at, other = dice.randrange(len(data) + 1), dice.choice(seeds)
        size = dice.choice((1, 2, 4, 8, 64, 512))
        match dice.randrange(6):
            case 0:
                data[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                data[at : at + size] = b""
            case 2:
                data[at:at] = data[max(0, at - size) : at]
            case 3:
                data[at : at + size] = other[at : at + size]
            case 4:
                value = dice.choice(INTERESTING)
                data[at : at + len(value)] = value
            case _:
                del data[at if dice.random() < 0.2 else len(data) :]
    return bytes(data)


def fuzz(read: Callable[[bytes], str], seeds: Sequence[bytes], crashes: Path) -> int:
    """Run `read`, which names what became of a file, for a while; what it raises is a crash, kept as a file.

    Returns:
        The exit code: 1 when there was a crash.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--count", type=int, default=10**12, help="Files at most: with the seed, the same files again.")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice, counts, slowest = random.Random(options.seed), Counter[str](), 0.0
    end = time.monotonic() + options.seconds
    while counts.total() < options.count and time.monotonic() < end:
        data, began = mutated(dice, seeds), time.monotonic()
        try:
            counts[read(data)] += 1
        except Exception as error:
            counts[f"crash: {type(error).__name__}"] += 1
            crashes.mkdir(parents=True, exist_ok=True)
            (crashes / f"{options.seed}-{counts.total()}").write_bytes(data)
            traceback.print_exc()
        slowest = max(slowest, time.monotonic() - began)
    print(f"seed {options.seed}: {counts.total()} files, slowest {slowest:.2f} s, {dict(counts)}")
    return int(any(name.startswith("crash") for name in counts))
