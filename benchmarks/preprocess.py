"""Preprocessing against a bare loop of Pillow's draft, decode, crop and resize on all cores.

Usage: python -m benchmarks.preprocess [--images 2000] [--resolution 384] [--rounds 3]

Makes JPEGs of 1 to 2 megapixels first. The bare loops keep nothing; preprocessing also hashes the file, refuses what it
must, turns and converts, and writes the square, a thumbnail and the perceptual hash. Start of the processes included.
"""

import argparse
import math
import multiprocessing
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.machine import describe
from benchmarks.rounds import table, take_turns
from lora_engine.config.data import PreprocessConfig
from lora_engine.images.prepare import preprocess_images
from lora_engine.images.sources import list_files
from lora_engine.records import SourceFile

_SHAPES = (1, 4 / 3, 3 / 4, 3 / 2, 2 / 3)
_SCENE = (1800, 1800)  # pixels


def main() -> None:
    """Make the images, take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--resolution", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        print(describe())
        make_jpegs(folder / "in", options.images)
        files = list(list_files(folder / "in"))
        size = sum(Path(file.path).stat().st_size for file in files) / len(files)
        print(
            f"{len(files)} JPEGs of 1 to 2 megapixels, {size / 1000:.0f} kB on average, to {options.resolution} pixels"
        )
        config = PreprocessConfig(resolution=options.resolution)
        seconds = take_turns(
            {
                "bare loop": partial(bare_loop, files, config.resolution, 1.5),
                "bare loop, drafted down to the target": partial(bare_loop, files, config.resolution, 1.0),
                "preprocessing": partial(_preprocess, files, config, folder),
            },
            options.rounds,
        )
    print(table(seconds, len(files), "bare loop"))


def make_jpegs(folder: Path, count: int, seed: int = 0) -> None:
    """JPEGs with a photograph's spectrum and size in bytes, each another part of one of four scenes."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    scenes = [_scene(random) for _ in range(4)]
    parts = [(at, _part(random)) for at in range(count)]

    def save(item: tuple[int, tuple[int, int, int, int]]) -> None:
        at, box = item
        scenes[at % len(scenes)].crop(box).save(folder / f"{at:05d}.jpg", quality=90)

    with ThreadPoolExecutor() as pool:
        list(pool.map(save, parts))


def _scene(random: np.random.Generator) -> Image.Image:
    """Noise of all scales, coarser ones stronger, and grain."""
    width, height = _SCENE
    pixels = 7 * random.standard_normal((height, width, 3), dtype=np.float32)
    for octave in range(1, 9):
        coarse = random.standard_normal((3, 2**octave, 2**octave), dtype=np.float32)
        for channel, values in enumerate(coarse):
            wide = Image.fromarray(values).resize(_SCENE, Image.Resampling.BICUBIC)
            pixels[..., channel] += 45 * 0.62 ** (octave - 1) * np.asarray(wide)
    return Image.fromarray(np.clip(128 + pixels, 0, 255).astype(np.uint8))


def _part(random: np.random.Generator) -> tuple[int, int, int, int]:
    area, shape = random.uniform(1e6, 2e6), random.choice(_SHAPES)
    width, height = int(math.sqrt(area * shape)), int(math.sqrt(area / shape))
    left, top = int(random.integers(_SCENE[0] - width)), int(random.integers(_SCENE[1] - height))
    return left, top, left + width, top + height


def bare_loop(files: Sequence[SourceFile], resolution: int, reduced_side: float) -> None:
    """Decode to at least `reduced_side` times the resolution, crop and resize, on all cores; keep nothing."""
    # forked, with tasks of many files: the fastest of what Python offers
    with multiprocessing.get_context("fork").Pool() as pool:
        one = partial(_bare, resolution=resolution, reduced_side=reduced_side)
        for _ in pool.imap_unordered(one, [file.path for file in files], chunksize=16):
            pass


def _bare(path: str, resolution: int, reduced_side: float) -> None:
    with Image.open(path) as image:
        image.draft("RGB", (math.ceil(reduced_side * resolution),) * 2)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        square.resize((resolution, resolution), Image.Resampling.LANCZOS)


def _preprocess(files: Sequence[SourceFile], config: PreprocessConfig, folder: Path) -> None:
    out = Path(tempfile.mkdtemp(dir=folder))  # nothing made before, and nothing to remove meanwhile
    for prepared in preprocess_images(files, config, out):
        assert prepared.rejected is None, prepared.rejected


if __name__ == "__main__":
    main()
