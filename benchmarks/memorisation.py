"""How often planted copies are found, and other pictures called copies, for some numbers of held-out images.

Usage: PYTHONPATH=scripts python -m benchmarks.memorisation [FOLDER...] [--splits 4] [--copies 60]

Sets of images are the line drawings of 20 subjects, tiles of the photographs that scikit-image brings along, and the
images of each folder. In every split six tenths of a set's images (104 of the drawings) are trained on; of the others
some are held out and the rest stand for new pictures. Of these, as of the held-out ones, some may well be copies, such
as an image and its mirror image in a folder: where a likeness is beyond `MOST`, it is counted for itself. Copies are
planted as they are and after what a model's autoencoder may do: blur, noise and a JPEG's losses.
"""

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from benchmarks.machine import describe
from drawings import SEEDS, draw, geometry
from lora_engine.evaluation.memorisation import (
    MOST,
    Library,
    Likeness,
    cutoff,
    nearest,
)
from lora_engine.images.crops import thumbnail_grey
from subjects import SUBJECTS

SIZE = 128  # pixels a side, so that a crop shows more than the thumbnail of its image
HELD_OUT = (6, 16, 32)
DRAWS = 100  # of held-out images from those that are not trained on, in every split
PHOTOS = (
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png", "color.png"),
    *("grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg"),
    "rocket.jpg",
)

Images = list[Image.Image]
Dice = np.random.Generator


def drawings(split: int, _dice: Dice) -> tuple[Images, Images]:
    """104 drawings, and 416 others: of other geometry seeds in every split."""
    few, many = SEEDS["lora"][6 * split :][:6], SEEDS["validation"][20 * split :][:20]
    made = [draw(geometry(name, seed), "line", SIZE) for seed in (*few, *many) for name in SUBJECTS]
    return made[:104], made[104:]


def shuffled(images: Images) -> Callable[[int, Dice], tuple[Images, Images]]:
    """Parts of a set at random."""

    def parts(_split: int, dice: Dice) -> tuple[Images, Images]:
        order, some = dice.permutation(len(images)), round(0.6 * len(images))
        return [images[at] for at in order[:some]], [images[at] for at in order[some:]]

    return parts


def photos() -> Images:
    """Tiles of photographs, none of which overlaps another."""
    import skimage

    tiles = []
    for name in PHOTOS:
        image = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
        image = image.reduce(max(1, min(image.size) // 512))
        corners = ((x, y) for y in range(0, image.height, SIZE) for x in range(0, image.width, SIZE))
        tiles += [image.crop((x, y, x + SIZE, y + SIZE)) for x, y in corners if inside(image, x, y)]
    return tiles


def inside(image: Image.Image, x: int, y: int) -> bool:
    """Whether a whole tile lies there."""
    return x + SIZE <= image.width and y + SIZE <= image.height


def of_folder(folder: Path) -> Images:
    """A folder's images."""
    return [Image.open(path).convert("RGB") for path in sorted(folder.iterdir()) if path.suffix in (".jpg", ".png")]


def cropped(image: Image.Image, dice: Dice) -> Image.Image:
    """A square of 60 to 95 % of the side."""
    side = dice.uniform(0.6, 0.95) * min(image.size)
    left, top = dice.uniform(0, image.width - side), dice.uniform(0, image.height - side)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))


def mirrored(image: Image.Image) -> Image.Image:
    """The picture as a mirror shows it."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def changed(image: Image.Image, dice: Dice) -> Image.Image:
    """The picture blurred by 0.7 pixels, with noise of 6 grey levels, as a JPEG of quality 60."""
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float64)
    noisy = np.clip(blurred + dice.normal(0, 6, blurred.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=60)
    return Image.open(file)


KINDS: dict[str, Callable[[Image.Image, Dice], Image.Image]] = {
    "as it is": lambda image, _dice: image,
    "mirrored": lambda image, _dice: mirrored(image),
    "cropped": cropped,
    "cropped and mirrored": lambda image, dice: mirrored(cropped(image, dice)),
}


def likenesses(found: Sequence[Likeness]) -> npt.NDArray[np.float64]:
    """Those of pixels."""
    return np.array([one.pixels.likeness for one in found])


def trial(name: str, parts: Callable[[int, Dice], tuple[Images, Images]], splits: int, copies: int) -> None:
    """Print a set's figures."""
    columns = [f"{kind}{then}" for kind in KINDS for then in ("", ", changed")]
    values: dict[str, list[float]] = {f"{n} held out": [] for n in HELD_OUT}
    found: dict[str, list[tuple[int, int, dict[str, float]]]] = {key: [] for key in values}
    largest, twins, new = 0.0, 0, 0
    for split in range(splits):
        dice = np.random.default_rng(split)
        trained, others = parts(split, dice)
        library = Library(tuple(map(str, range(len(trained)))), np.stack([thumbnail_grey(one) for one in trained]))

        def measured(images: Images, library: Library = library) -> list[Likeness]:
            return nearest(np.stack([thumbnail_grey(one) for one in images]), None, library)

        of_others = measured(others)
        others_are = likenesses(of_others)
        new, twins = new + len(others), twins + int((others_are > MOST).sum())
        largest = max(largest, float(others_are[others_are <= MOST].max()))
        planted = {}
        for kind, made in KINDS.items():
            ones = [made(trained[at].resize((SIZE, SIZE)), dice) for at in dice.choice(len(trained), copies)]
            planted[kind] = likenesses(measured(ones))
            planted[f"{kind}, changed"] = likenesses(measured([changed(one, dice) for one in ones]))
        for key, number in zip(values, HELD_OUT, strict=True):
            if number >= len(others):
                continue
            for _ in range(DRAWS):
                order = dice.permutation(len(others))
                least = cutoff([of_others[at] for at in order[:number]], list(map(str, range(number)))).likeness
                if least is None:
                    continue
                values[key].append(least)
                rest = others_are[order[number:]]
                false = int(((rest > least) & (rest <= MOST)).sum())
                found[key].append((false, len(rest), {kind: float((v > least).mean()) for kind, v in planted.items()}))
    print(f"\n{name}: {new} pictures that are not planted, of which {twins} are copies; others up to {largest:.3f}\n")
    print("| | cutoff (median) | none | others flagged in 10000 |", " | ".join(columns), "|")
    print("| --- | --- | --- | --- |", " | ".join("---" for _ in columns), "|")
    for key, rows in found.items():
        false = 1e4 * sum(row[0] for row in rows) / max(1, sum(row[1] for row in rows))
        shares = (f"{100 * float(np.mean([row[2][kind] for row in rows])):.1f}" for kind in columns)
        if rows:
            without = f"{splits * DRAWS - len(rows)} of {splits * DRAWS}"
            print(f"| {key} | {np.median(values[key]):.3f} | {without} | {false:.1f} |", " | ".join(shares), "|")


def main() -> None:
    """Try every set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--splits", type=int, default=4)
    parser.add_argument("--copies", type=int, default=60)
    options = parser.parse_args()
    print(describe())
    trial("line drawings", drawings, options.splits, options.copies)
    trial("tiles of photographs", shuffled(photos()), options.splits, options.copies)
    for folder in options.folders:
        trial(folder.name, shuffled(of_folder(folder)), options.splits, options.copies)


if __name__ == "__main__":
    main()
