"""Fetch real line art for a trial: OpenMoji's black drawings (CC BY-SA 4.0) with their names as captions, as one zip.

Usage: fetch_line_art.py OUT.zip [-n 600] [--size 512]. Needs npm and `pip install resvg-py`. Nothing of it is shipped.
"""

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from PIL import Image

try:
    import resvg_py
except ModuleNotFoundError:
    sys.exit("resvg-py draws the SVGs: pip install resvg-py")

_SKIN_TONES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("-n", type=int, default=600)
    parser.add_argument("--size", type=int, default=512)
    options = parser.parse_args()
    if shutil.which("npm") is None:
        sys.exit("npm fetches the drawings: install Node.js")
    with tempfile.TemporaryDirectory() as scratch:
        packed = subprocess.run(
            ["npm", "pack", "--silent", "openmoji"], cwd=scratch, check=True, capture_output=True, text=True
        ).stdout.strip()
        with tarfile.open(Path(scratch) / packed.splitlines()[-1]) as package:
            write_zip(package, options.out, options.n, options.size)


def write_zip(package: tarfile.TarFile, out: Path, count: int, size: int) -> None:
    listed = json.load(member(package, "package/data/openmoji.json"))
    plain = [row for row in listed if not any(tone in row["hexcode"] for tone in _SKIN_TONES)]
    drawings = [row for row in plain if row["group"] not in ("flags", "symbols")]
    step = max(1, len(drawings) // count)
    with zipfile.ZipFile(out, "w") as archive:
        for row in drawings[::step][:count]:
            svg = member(package, f"package/black/svg/{row['hexcode']}.svg").read().decode()
            drawn = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size))))
            white = Image.new("RGBA", drawn.size, "white")
            white.alpha_composite(drawn.convert("RGBA"))
            data = io.BytesIO()
            white.convert("RGB").save(data, "JPEG", quality=92)
            archive.writestr(f"{row['hexcode']}.jpg", data.getvalue())
            archive.writestr(f"{row['hexcode']}.txt", row["annotation"])


def member(package: tarfile.TarFile, name: str) -> io.BufferedReader:
    file = package.extractfile(name)
    assert file is not None, f"{name} is a file of the package"
    return file


if __name__ == "__main__":
    main()
