"""Writes what the peers and we are timed on: a Stable Diffusion 1.5-shaped pipeline and captioned line drawings.

Usage: PYTHONPATH=scripts python -m benchmarks.inputs FOLDER [--width 320] [--resolution 384]
           [--images 16] [--repeats 1]

FOLDER/model is the pipeline, with random weights; FOLDER/model/tokenizer also has the files that older libraries read.
FOLDER/images are the drawings with their captions. FOLDER/diffusers/<strategy> and FOLDER/kohya/<strategy> are links to
them, with that strategy's captions as each of the peers wants them. FOLDER/inputs.json, written last, has the sizes.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.strategies import STRATEGIES
from drawings import write_drawings
from miniature.architecture import SD_15, Sizes, make_stable_diffusion

_GROUPS = 32  # of a normalisation: every width is a multiple


def scaled(width: int) -> Sizes:
    """SD 1.5 with a UNet of that width, and all else narrower in proportion."""

    def narrower(full: int, multiple: int = _GROUPS) -> int:
        return -(-full * width // (SD_15.unet[0] * multiple)) * multiple

    first, second, third, fourth = (narrower(full) for full in SD_15.unet)
    return replace(
        SD_15,
        unet=(first, second, third, fourth),
        vae=tuple(narrower(full) for full in SD_15.vae),
        text=narrower(SD_15.text, 64),
    )


def write_model(folder: Path, width: int) -> None:
    """The pipeline; of real size in half precision, as it is published."""
    dtype = torch.float16 if width == SD_15.unet[0] else torch.float32
    make_stable_diffusion(folder, sizes=scaled(width), dtype=dtype)
    _write_older_tokenizer(folder / "tokenizer")
    _name_text_encoder_as_published(folder / "text_encoder" / "model.safetensors")


def _write_older_tokenizer(folder: Path) -> None:
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")


def _name_text_encoder_as_published(path: Path) -> None:
    """Transformers 5 dropped a prefix that versions before it ask for, and still reads it."""
    prefix, weights = "text_model.", load_file(path)
    named = {key if key.startswith(prefix) else f"{prefix}{key}": value for key, value in weights.items()}
    save_file(named, path, {"format": "pt"})


def write_images(folder: Path, count: int, size: int, repeats: int) -> None:
    """The drawings with captions, and links to them for the peers."""
    write_drawings(folder / "images", count, size, style="line", purpose="lora")
    for strategy, caption in STRATEGIES.items():
        _write_diffusers(folder / "images", folder / "diffusers" / strategy, caption)
        _write_kohya(folder / "images", folder / "kohya" / strategy / f"{repeats}_drawing", caption)


def _write_diffusers(images: Path, folder: Path, caption: Callable[[str], str]) -> None:
    rows = [{"file_name": path.name, "text": caption(own_caption(path))} for path in _link(images, folder)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_kohya(images: Path, folder: Path, caption: Callable[[str], str]) -> None:
    for path in _link(images, folder):
        (folder / path.name).with_suffix(".txt").write_text(caption(own_caption(path)))


def own_caption(image: Path) -> str:
    """What stands beside the image."""
    return image.with_suffix(".txt").read_text().strip()


def _link(images: Path, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = sorted(images.glob("*.png"))
    for path in paths:
        (folder / path.name).hardlink_to(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--width", type=int, default=SD_15.unet[0])
    parser.add_argument("--resolution", type=int, default=384)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=1, help="How often kohya's script shows an image in an epoch.")
    options = parser.parse_args()
    write_model(options.folder / "model", options.width)
    write_images(options.folder, options.images, options.resolution, options.repeats)
    sizes = {name: value for name, value in vars(options).items() if name != "folder"}
    (options.folder / "inputs.json").write_text(json.dumps(sizes))


if __name__ == "__main__":
    main()
