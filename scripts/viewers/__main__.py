"""Write the pictures that the decoder's tests read, and beside them what a viewer shows of each.

Usage: PYTHONPATH=scripts python -m viewers [OUT]

Needs Chromium, and Debian's `libvips-tools imagemagick libtiff-tools`. The tests need none of them: they compare with
what lies in tests/lora_engine/images/viewers. Files that are rejected have no picture in `shown/`.
"""

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from viewers.others import AVIFS, BMPS, GIFS, JPEGS, WEBPS
from viewers.png import PNGS
from viewers.tiff import TIFFS

_OUT = Path(__file__).parents[2] / "tests/lora_engine/images/viewers"
_REJECTED = (
    "cicp-pq.png",
    "cicp-hlg.png",
    "colour-16-key.png",
    "pq.avif",
    "hlg.avif",
    "10-bits.bmp",
    "15-bits-alpha.bmp",
)
_REJECTED += ("16-grey-alpha.tif", "grey-alpha-planar.tif", "float-colour.tif", "12-bits-white-is-zero.tif", "32.tif")
_REJECTED += ("16-white-is-zero-big-endian.tif",)
# Chromium shows no TIFFs and turns no WebP; libvips has inks in colours of its own, and cannot read the rest.
_BY_VIPS = {"turned.webp", *TIFFS}
_BY_IMAGEMAGICK = {
    "cmyk.tif",
    "16-cmyk.tif",
    "planar-cmyk.tif",
    "planar-tiled.tif",
    "16-planar-tiled.tif",
    "12-bits.tif",
    "ycc.tif",
}
_BY_IMAGEMAGICK |= {"float.tif"}
_BY_LIBTIFF = {"ycc-subsampled.tif"}
_SHOW = """async name => {
    document.body.style = 'margin: 0; background: white'
    const image = new Image()
    image.style = 'display: block'
    image.src = name
    document.body.replaceChildren(image)
    await image.decode()
    return [image.naturalWidth, image.naturalHeight]
}"""


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else _OUT
    shutil.rmtree(out, ignore_errors=True)
    (out / "shown").mkdir(parents=True)
    files = PNGS | JPEGS | WEBPS | GIFS | BMPS | AVIFS | TIFFS
    for name, make in files.items():
        (out / name).write_bytes(make())
    wanted = [name for name in files if name not in _REJECTED]
    with sync_playwright() as playwright:
        found = shutil.which("chromium")
        options = ["--no-sandbox", "--disable-gpu", "--force-color-profile=srgb"]
        browser = playwright.chromium.launch(executable_path=found, args=options)
        page = browser.new_page()
        page.goto(f"{out.resolve().as_uri()}/")
        for name in wanted:
            shown = _by_chromium(page, name) if name not in _BY_VIPS else _by_command(out / name)
            Image.open(io.BytesIO(shown)).convert("RGB").save(out / "shown" / f"{name}.png", optimize=True)
        browser.close()


def _by_chromium(page: Page, name: str) -> bytes:
    width, height = page.evaluate(_SHOW, name)
    page.wait_for_timeout(100)
    return page.screenshot(clip={"x": 0, "y": 0, "width": width, "height": height})


def _by_command(path: Path) -> bytes:
    with tempfile.TemporaryDirectory() as made:
        a, b, c, d = (f"{made}/{name}" for name in ("a.v", "b.v", "c.v", "d.png"))
        if path.name in _BY_LIBTIFF:
            _run("tiff2rgba", path, f"{made}/a.tif")
            _run("convert", f"{made}/a.tif", d)
        elif path.name in _BY_IMAGEMAGICK:
            _run("convert", path, "-colorspace", "sRGB", "-depth", "8", f"PNG24:{d}")
        else:
            _run("vips", "autorot", path, a)
            profiled = "icc-profile-data" in _run("vipsheader", "-a", path)
            _run("vips", "icc_transform" if profiled else "colourspace", a, b, "srgb")
            opaque = int(_run("vipsheader", "-f", "bands", b)) in (1, 3)
            _run("vips", *(["copy", b, c] if opaque else ["flatten", b, c, "--background", "255 255 255"]))
            _run("vips", "cast", c, d, "uchar")
        return Path(d).read_bytes()


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
