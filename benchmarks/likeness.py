"""Into how many groups of near-duplicates different pictures fall, and how many copies are found to be some.

Usage: PYTHONPATH=scripts python -m benchmarks.likeness [FOLDER...] [--resolution 384] [--copies 12]

Sets of pictures are symmetric figures, the shipped drawings, the twelve faint motifs of the tests on a page, other
drawings on a page, black and faint, the coloured stickers, tiles of photographs, and the images of each folder. Copies
are made of the first of each. Before the hash stands what it replaced, the page alone under a fixed dead zone.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.sparse.csgraph import connected_components

from benchmarks.machine import describe
from benchmarks.memorisation import of_folder, photos
from drawings import SEEDS, Style, draw, geometry
from lora_engine import miniature
from lora_engine.images.decode import to_square
from lora_engine.images.near_duplicates import group_alike
from lora_engine.images.perceptual_hash import perceptual_hash
from subjects import SUBJECTS
from tests.lora_engine.images.motifs import COPIES, MOTIFS, motif, symmetric

DISTANCE = 6  # bits, the default of preprocess.near_duplicate_distance

Images = list[Image.Image]


def earlier_hash(square: Image.Image) -> bytes:
    """The hash of versions before: 256 bits of the page, set above the median and a fixed dead zone."""
    small = square.reduce(max(1, square.width // 128)).convert("L")
    grey = np.asarray(small.resize((64, 64), Image.Resampling.LANCZOS, reducing_gap=2.0), dtype=np.float64)
    cosines = np.sqrt(2 / 64) * np.cos(np.pi / 64 * np.outer(np.arange(16), np.arange(64) + 0.5))
    cosines[0] /= np.sqrt(2)
    waves = cosines @ grey @ cosines.T
    return np.packbits(waves > np.median(waves) + 5.0).tobytes()


def earlier_groups(hashes: Sequence[bytes], distance: int) -> npt.NDArray[np.intp]:
    """The groups of versions before, numbered as `group_alike` does: of pictures whose hashes differ in few bits."""
    words = np.frombuffer(b"".join(hashes), dtype=np.uint64).reshape(len(hashes), 4)
    bits = np.bitwise_count(words[:, np.newaxis] ^ words).sum(axis=-1)
    groups: npt.NDArray[np.intp] = connected_components(bits <= distance, directed=False)[1].astype(np.intp)
    return groups


HASHES = {"before": (earlier_hash, earlier_groups), "now": (perceptual_hash, group_alike)}


def on_pages(dice: random.Random, grey: int) -> Images:
    """Drawings of a tenth to a half of a page's side, anywhere on it."""
    pages = []
    for name in SUBJECTS:
        for seed in SEEDS["validation"][:2]:
            page, side = Image.new("L", (800, 800), 255), dice.randint(80, 400)
            ink = (
                draw(geometry(name, seed), "line", side)
                .convert("L")
                .point(lambda v: 255 - (255 - v) * (255 - grey) // 255)
            )
            page.paste(ink, (dice.randint(0, 800 - side), dice.randint(0, 800 - side)))
            pages.append(page.convert("RGB"))
    return pages


def drawn(style: Style) -> Images:
    """Two drawings of each subject."""
    return [draw(geometry(name, seed), style, 384) for seed in SEEDS["validation"][:2] for name in SUBJECTS]


def sets(folders: Sequence[Path], dice: random.Random) -> dict[str, Images]:
    """The sets of pictures by name."""
    shipped = [Image.open(path).convert("RGB") for path in sorted(miniature.folder("drawings").glob("*.png"))]
    return {
        "symmetric figures": [symmetric(kind) for kind in ("circle", "square", "cross")],
        "shipped drawings": shipped,
        "faint motifs": [motif(name, dice) for name in MOTIFS],
        "small black motifs": [motif(name, dice, grey=5, size=0.1) for name in MOTIFS],
        "drawings on a page": on_pages(dice, 0),
        "faint drawings on a page": on_pages(dice, 190),
        "stickers": drawn("sticker"),
        "photographs": photos(),
        **{folder.name: of_folder(folder) for folder in folders},
    }


def main() -> None:
    """Print a table for each set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--resolution", type=int, default=384)
    parser.add_argument("--copies", type=int, default=12, help="pictures of each set of which copies are made")
    options = parser.parse_args()
    print(describe())
    dice = random.Random(0)
    found: dict[str, dict[str, str]] = {}
    for name, images in sets(options.folders, dice).items():
        row = found[name] = {"pictures": str(len(images))}
        squares = [to_square(image, options.resolution) for image in images]
        originals = images[: options.copies]
        copies = {
            kind: [to_square(made(one, dice), options.resolution) for one in originals] for kind, made in COPIES.items()
        }
        for when, (hashed, grouped) in HASHES.items():
            hashes = [hashed(square) for square in squares]
            row[f"groups, {when}"] = str(len(set(grouped(hashes, DISTANCE).tolist())))
            for kind, ones in copies.items():
                pairs = [grouped([a, hashed(one)], DISTANCE) for a, one in zip(hashes, ones, strict=False)]
                share = np.mean([first == second for first, second in pairs])
                row[kind] = f"{row[kind]} / {share:.0%}" if kind in row else f"{share:.0%}"
        print(f"{name}: {row}", file=sys.stderr)
    columns = ["pictures", *(f"groups, {when}" for when in HASHES), *COPIES]
    print(f"| set | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}")
    for name, row in found.items():
        print(f"| {name} | {' | '.join(row[column] for column in columns)} |")


if __name__ == "__main__":
    main()
