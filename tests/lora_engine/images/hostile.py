"""Files that no one should feed an image program: what each is, and what must become of it."""

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

Colour = tuple[int, int, int]
QUARTERS: tuple[Colour, ...] = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 200, 40))  # in reading order
WHITE: Colour = (255, 255, 255)
SECRET = b"GPS51.5007N0.1246W"


@dataclass(frozen=True)
class Case:
    """A file's bytes, and either the colours of its four quarters or the reason why it cannot be used."""

    data: bytes
    quarters: Sequence[Colour] | None = None
    reason: str | None = None  # a pattern
    tolerance: int = 4


def used(data: bytes, quarters: Sequence[Colour] = QUARTERS, tolerance: int = 4) -> Case:
    return Case(data, quarters=quarters, tolerance=tolerance)


def rejected(data: bytes, reason: str = "cannot be decoded|not a JPEG|a damaged") -> Case:
    return Case(data, reason=reason)


def picture(side: int = 64) -> Image.Image:
    image, half = Image.new("RGB", (side, side)), side // 2
    for at, colour in enumerate(QUARTERS):
        image.paste(colour, (half * (at % 2), half * (at // 2), half * (at % 2) + half, half * (at // 2) + half))
    return image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def jpeg(**options: Any) -> bytes:
    return saved(picture(), "JPEG", **({"quality": 95, "subsampling": 0} | options))


def chunk(kind: bytes, data: bytes, crc: int | None = None) -> bytes:
    return (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data) if crc is None else crc)
    )


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes, interlace: int = 0) -> bytes:
    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, interlace)
    chunks = (chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def plain_png(*more: bytes) -> bytes:
    pixels = np.asarray(picture())
    return png(64, 64, 8, 2, b"".join(b"\0" + row.tobytes() for row in pixels), *more)


def deep_png(colour: int) -> bytes:
    pixels = np.asarray(picture().convert("L" if colour == 0 else "RGB")).astype(">u2") * 257
    return png(64, 64, 16, colour, b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels))


def interlaced_png() -> bytes:
    pixels, rows = np.asarray(picture()), b""
    for x, y, dx, dy in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        rows += b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(pixels[y::dy, x::dx]))
    return png(64, 64, 8, 2, rows, interlace=1)


def png_text(kind: bytes, size: int) -> bytes:
    begin = {
        b"tEXt": b"comment\0",
        b"zTXt": b"comment\0\0",
        b"iTXt": b"comment\0\1\0\0\0",
        b"iCCP": b"profile\0\0",
    }
    return plain_png(chunk(kind, begin[kind] + (b"x" * size if kind == b"tEXt" else packed(size))))


@cache
def packed(size: int) -> bytes:
    """So many letters, compressed."""
    return zlib.compress(b"x" * size)


def oriented(kind: str, orientation: int) -> bytes:
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that a viewer undoes
    image = picture()
    if orientation in back:
        image = image.transpose(Image.Transpose(back[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(image, kind, exif=exif, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {}))


def cmyk(adobe: bool) -> bytes:
    data = saved(picture().convert("CMYK"), "JPEG", quality=95)
    assert data.count(b"Adobe") == 1
    start = data.index(b"\xff\xee")
    end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    return data if adobe else data[:start] + data[end:]


def transparent_palette() -> bytes:
    image = Image.new("P", (64, 64), 0)
    image.putpalette([9, 9, 9, 255, 0, 0, 0, 0, 255])
    image.paste(1, (0, 0, 32, 32))
    image.paste(2, (32, 32, 64, 64))
    return saved(image, "PNG", transparency=0)


def animated(kind: str) -> bytes:
    others = [Image.new("RGB", (64, 64), colour) for colour in ("black", "white")]
    options = {"lossless": True} if kind == "WEBP" else {}
    return saved(picture(), kind, save_all=True, append_images=others, duration=50, **options)


def one_bit() -> bytes:
    return saved(picture().convert("1", dither=Image.Dither.NONE), "PNG")


def stereo() -> bytes:
    return saved(picture(), "MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))], quality=95)


def tiff(entries: dict[int, tuple[int, int, int]], data: bytes = bytes(64 * 64 * 3), follow: int = 0) -> bytes:
    """Uncompressed RGB, 64x64; `entries` (tag to type, count, value) replace its own."""
    own = {256: (3, 1, 64), 257: (3, 1, 64), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 2), 277: (3, 1, 3)}
    own |= {273: (4, 1, 8), 278: (3, 1, 64), 279: (4, 1, len(data))}
    table = b"".join(struct.pack("<2H2L", tag, *entry) for tag, entry in sorted((own | entries).items()))
    start = 8 + len(data)
    count = struct.pack("<H", len(own | entries))
    return b"II*\0" + struct.pack("<L", start) + data + count + table + struct.pack("<L", follow or 0)


def quartered_tiff(**options: Any) -> bytes:
    return tiff(options.pop("entries", {}), picture().tobytes(), **options)


def bmp(width: int, height: int, bits: int = 24) -> bytes:
    data = saved(picture(), "BMP")
    return data[:18] + struct.pack("<2i", width, height) + data[26:28] + struct.pack("<H", bits) + data[30:]


def gif(width: int, height: int) -> bytes:
    data = saved(picture(), "GIF")
    return data[:6] + struct.pack("<2H", width, height) + data[10:]


def jpeg_of_size(width: int, height: int) -> bytes:
    data = jpeg()
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">2H", height, width) + data[at + 4 :]


def lying_avif(side: int) -> bytes:
    """It says 64x64, and is coded in `side` pixels a side."""
    data = saved(picture(side), "AVIF", quality=90, speed=10)
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">2I", 64, 64) + data[at + 8 :]


def avif_of_size(width: int, height: int) -> bytes:
    data = saved(picture(), "AVIF")
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">2I", width, height) + data[at + 8 :]


def zip_of(name: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(name, plain_png())
    return data.getvalue()


def located(kind: str) -> bytes:
    """A picture with SECRET in every place that its format has for words about it."""
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    exif.get_ifd(0x8825)[0x12] = SECRET.decode()
    exif.get_ifd(0x8769)[0x9286] = SECRET
    options: dict[str, Any] = {"exif": exif}
    if kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("where", SECRET.decode())
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", f"<x>{SECRET.decode()}</x>")
    else:
        options["xmp"] = b"<x>" + SECRET + b"</x>"
    if kind == "JPEG":
        options["comment"] = SECRET
    data = saved(picture(), kind, **options)
    if kind == "JPEG":
        iptc = b"Photoshop 3.0\08BIM\x04\x04\0\0" + struct.pack(">I", len(SECRET)) + SECRET
        data = data[:2] + b"\xff\xed" + struct.pack(">H", len(iptc) + 2) + iptc + data[2:]
    assert data.count(SECRET) >= (1 if kind == "TIFF" else 3), (kind, data.count(SECRET))
    return data + SECRET  # and after the picture's end


def truncated() -> dict[str, Case]:
    noise = Image.effect_noise((96, 96), 60).convert("RGB")
    cases = {}
    for kind in ("JPEG", "PNG", "WEBP", "AVIF"):
        whole = saved(noise, kind)
        for percent in range(10, 100, 10):
            cases[f"cut-{percent}.{kind.lower()}"] = rejected(whole[: len(whole) * percent // 100])
    return cases


def hostile_files() -> dict[str, Case]:
    """Cases by file name."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    cases = truncated()
    cases |= {
        f"orientation-{kind}-{n}": used(oriented(kind, n), tolerance=12) for kind in ("JPEG", "PNG") for n in range(10)
    }
    cases |= {f"located.{kind.lower()}": used(located(kind), tolerance=40) for kind in ("JPEG", "PNG", "WEBP", "TIFF")}
    cases |= {f"animated.{kind.lower()}": used(animated(kind)) for kind in ("GIF", "WEBP", "PNG", "TIFF", "AVIF")}
    cases |= {
        "empty.png": rejected(b"", "the file is empty"),
        "one-byte.jpg": rejected(b"\xff"),
        "a-png.jpg": used(plain_png()),
        "a-jpeg.png": used(jpeg()),
        "no-extension": used(plain_png(chunk(b"tEXt", b"a\0b"))),
        "words.png": rejected(b"a heart\n", "not a JPEG"),
        "page.jpg": rejected(b"<!DOCTYPE html><html><script>alert(1)</script></html>", "not a JPEG"),
        "vector.jpg": rejected(b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', "not a JPEG"),
        "paper.jpg": rejected(saved(picture(), "PDF"), "not a JPEG"),
        "postscript.jpg": rejected(saved(picture(), "EPS"), "not a JPEG"),
        "program.png": rejected(b"#!/bin/sh\ntouch /tmp/x\n", "not a JPEG"),
        "pointer.png": rejected(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "not a JPEG"),
        "zip.png": rejected(zip_of("a.png"), "archives within the dataset are not opened"),
        "in.zip": rejected(zip_of("b.png"), "archives within the dataset are not opened"),
        "in.tar.gz": rejected(b"\x1f\x8b\x08" + bytes(20), "archives within the dataset are not opened"),
        "png-and-zip.png": used(plain_png() + zip_of("c.png")),
        "1x1.png": rejected(saved(Image.new("RGB", (1, 1)), "PNG"), "1x1 is smaller than 8 pixels a side"),
        "1x60000.png": rejected(saved(Image.new("RGB", (1, 60_000)), "PNG"), "1x60000 is smaller"),
        "60000x60000.png": rejected(png(60_000, 60_000, 8, 2, b"\0"), "more than 100000000 pixels"),
        "none.png": rejected(png(0, 0, 8, 2, b"\0")),
        "endless.png": rejected(png(2**31 - 1, 2**31 - 1, 8, 2, b"\0"), "more than 100000000 pixels"),
        "empty-rows.png": rejected(png(64, 64, 8, 2, b"")),
        "65535.jpg": rejected(jpeg_of_size(65_535, 65_535), "more than 100000000 pixels"),
        "0.jpg": rejected(jpeg_of_size(0, 0)),
        "cmyk.jpg": used(cmyk(adobe=True), tolerance=8),
        "cmyk-without-adobe.jpg": used(cmyk(adobe=False), tolerance=8),
        "progressive.jpg": used(jpeg(progressive=True)),
        "two.mpo": used(stereo(), tolerance=60),
        "grey-16.png": used(deep_png(0), [(round(0.299 * r + 0.587 * g + 0.114 * b),) * 3 for r, g, b in QUARTERS]),
        "colour-16.png": used(deep_png(2)),
        "interlaced.png": used(interlaced_png()),
        "palette.png": used(transparent_palette(), [QUARTERS[0], WHITE, WHITE, QUARTERS[2]]),
        "bits.png": used(one_bit(), [(0,) * 3, WHITE, (0,) * 3, WHITE]),
        "profile.png": used(saved(picture(), "PNG", icc_profile=srgb)),
        "broken-profile.png": used(saved(picture(), "PNG", icc_profile=b"junk" * 50)),
        "broken-profile.jpg": used(jpeg(icc_profile=b"\0" * 200)),
        "huge-profile.jpg": used(jpeg(icc_profile=b"junk" * 2**20)),
        "half-profile.png": used(saved(picture(), "PNG", icc_profile=srgb[: len(srgb) // 2])),
        "profile-bomb.png": rejected(png_text(b"iCCP", 2**26)),
        "long-text.png": used(png_text(b"tEXt", 2**20)),
        "text-bomb.png": rejected(png_text(b"zTXt", 2**26)),
        "i-text-bomb.png": rejected(png_text(b"iTXt", 2**26)),
        "bad-header-sum.png": rejected(plain_png().replace(b"IHDR", b"IHDX", 1)),
        "bad-data-sum.png": rejected(plain_png()[:-20] + b"\0\0\0\0" + plain_png()[-16:], "do not fit their checksum"),
        "odd-chunk.png": rejected(plain_png(chunk(b"\x1b[31", b""))),
        "no-end.png": used(plain_png()[:-12]),
        "trailing.jpg": used(jpeg() + b"PK\3\4 and more"),
        "many-pages.tif": used(saved(picture(), "TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))] * 400)),
        "plain.tif": used(quartered_tiff()),
        "endless-pages.tif": used(quartered_tiff(follow=8 + 64 * 64 * 3)),
        "huge-strips.tif": used(quartered_tiff(entries={279: (4, 1, 2**32 - 1)})),
        "far-strips.tif": rejected(quartered_tiff(entries={273: (4, 1, 2**32 - 9)})),
        "many-strips.tif": rejected(quartered_tiff(entries={273: (4, 2**28, 8)})),
        "wide.tif": rejected(quartered_tiff(entries={256: (4, 1, 2**31)}), "more than 100000000 pixels"),
        "no-strips.tif": rejected(quartered_tiff(entries={279: (4, 0, 0), 273: (4, 0, 0)})),
        "lab.tif": used(quartered_tiff(entries={262: (3, 1, 8)}), [WHITE, (0,) * 3, (0,) * 3, (79, 220, 114)]),
        "odd-compression.tif": rejected(quartered_tiff(entries={259: (3, 1, 34712)}), "compressed by method 34712"),
        "top-down.bmp": used(bmp(64, -64), [QUARTERS[at] for at in (2, 3, 0, 1)]),
        "negative.bmp": rejected(bmp(-64, 64), "more than 100000000 pixels"),
        "negative-both.bmp": rejected(bmp(-64, -64), "more than 100000000 pixels"),
        "none.bmp": rejected(bmp(0, 0)),
        "endless.bmp": rejected(bmp(2**31 - 1, 2**31 - 1), "more than 100000000 pixels"),
        "odd-bits.bmp": rejected(bmp(64, 64, 77)),
        "none.gif": used(gif(0, 0)),  # its one frame is larger
        "endless.gif": rejected(gif(65_535, 65_535), "more than 100000000 pixels"),
        "small-screen.gif": used(gif(9, 9)),
        "plain.avif": used(saved(picture(), "AVIF", quality=95, subsampling="4:4:4")),
        "lying.avif": used(lying_avif(2000), tolerance=12),
        "endless.avif": rejected(avif_of_size(30_000, 4_000), "more than 100000000 pixels"),
        "endless-beyond-libavif.avif": rejected(avif_of_size(2**31 - 1, 2**31 - 1)),
        "none.avif": rejected(avif_of_size(0, 0)),
        "jpeg-2000.jpg": rejected(saved(picture(), "JPEG2000"), "not a JPEG"),
        "icon.png": rejected(saved(picture(), "ICO"), "not a JPEG"),
    }  # fmt: skip
    return cases


ODD_NAMES = (
    "ünïcödé-日本-🎨.png",
    "two\nlines.png",
    "tab\tand\rreturn.png",
    "\x1b[31mred\x1b[0m\x07.png",
    "right\u202egnp.png",
    "[red]markup[bold].png",
    "<script>alert(1).png",
    "$math_{$.png",
    "-rf.png",
    " spaces .png ",
    "back\\slash.png",
    "'quotes\".png",
    "%s%n{0}.png",
    f"{'long' * 62}.png",
    "con.png",
    "trailing.",
)
