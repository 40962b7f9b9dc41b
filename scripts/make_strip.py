"""Make the README's strip of a run: its prompts by the base model, then by every variant's last checkpoint, bare and,
where that is another text, as it was trained.

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
    first = folder_of(options.run, members[0], members[0]["samples"][0]["step"])
    blocks = [("base model", pictures(first, "bare"))]
    for member in members:
        last = folder_of(options.run, member, member["samples"][-1]["step"])
        blocks.append((member["variant"], pictures(last, "bare")))
        if trained := pictures(last, "as_trained"):
            blocks.append((f"{member['variant']}, as trained", trained))
    strip(blocks).save(options.out, optimize=True)


def folder_of(run: Path, member: dict[str, object], step: int) -> Path:
    return run / "variants" / str(member["variant"]) / f"seed-{member['seed']}" / "samples" / f"step-{step:06d}"


def pictures(folder: Path, prompting: str) -> list[Path]:
    """The first four samples that were prompted in that way."""
    index = json.loads((folder / "samples.json").read_text())
    wanted = (prompting, "both") if prompting == "bare" else (prompting,)
    return [folder / row["file"] for row in index["images"] if row["prompting"] in wanted and row["file"]][:4]


def strip(blocks: list[tuple[str, list[Path]]]) -> Image.Image:
    """Blocks of two by two pictures side by side, each under its name."""
    side = 2 * _TILE
    image = Image.new("RGB", (len(blocks) * (side + _GAP) - _GAP, side + _HEAD), "white")
    canvas, font = ImageDraw.Draw(image), ImageFont.load_default(size=15)
    for at, (name, paths) in enumerate(blocks):
        left = at * (side + _GAP)
        canvas.text((left + side / 2, _HEAD / 2), name, fill="black", font=font, anchor="mm")
        for place, path in enumerate(paths):
            with Image.open(path) as picture:
                tile = picture.resize((_TILE, _TILE), Image.Resampling.LANCZOS)
            image.paste(tile, (left + place % 2 * _TILE, _HEAD + place // 2 * _TILE))
        canvas.rectangle((left, _HEAD, left + side - 1, _HEAD + side - 1), outline="grey")
    return image


if __name__ == "__main__":
    main()
