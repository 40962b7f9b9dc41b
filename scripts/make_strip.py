"""Make the README's strip of a run: its prompts by the base model, then by every variant's last checkpoint.

Usage: make_strip.py RUN OUT.png
"""

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_TILE, _GAP, _HEAD = 96, 6, 24  # pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    comparison = json.loads((options.run / "report" / "comparison.json").read_text())
    members = comparison["members"]
    blocks = [("base model", folder_of(options.run, members[0], members[0]["samples"][0]["step"]))]
    blocks += [(m["variant"], folder_of(options.run, m, m["samples"][-1]["step"])) for m in members]
    strip(blocks).save(options.out, optimize=True)


def folder_of(run: Path, member: dict[str, object], step: int) -> Path:
    return run / "variants" / str(member["variant"]) / f"seed-{member['seed']}" / "samples" / f"step-{step:06d}"


def strip(blocks: list[tuple[str, Path]]) -> Image.Image:
    """Blocks of two by two pictures side by side, each under its name."""
    side = 2 * _TILE
    image = Image.new("RGB", (len(blocks) * (side + _GAP) - _GAP, side + _HEAD), "white")
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(size=15)
    for at, (name, folder) in enumerate(blocks):
        left = at * (side + _GAP)
        canvas.text((left + side / 2, _HEAD / 2), name, fill="black", font=font, anchor="mm")
        for place, path in enumerate(sorted(folder.glob("*.png"))[:4]):
            with Image.open(path) as picture:
                tile = picture.resize((_TILE, _TILE), Image.Resampling.LANCZOS)
            image.paste(tile, (left + place % 2 * _TILE, _HEAD + place // 2 * _TILE))
        canvas.rectangle((left, _HEAD, left + side - 1, _HEAD + side - 1), outline="grey")
    return image


if __name__ == "__main__":
    main()
