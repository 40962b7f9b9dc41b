"""PNG files."""

import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from viewers.drawing import (
    SIDE,
    deep,
    drawing,
    exif,
    frame,
    grey,
    grey_with_alpha,
    saved,
    swapped_profile,
    text,
    with_alpha,
    xmp,
)

P3 = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)  # white, red, green, blue
SRGB = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(*chunks: bytes, png: bytes | None = None) -> bytes:
    """The drawing's PNG with chunks behind its header."""
    png = png or saved(drawing(), "PNG")
    return png[:33] + b"".join(chunks) + png[33:]


def gama(gamma: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(gamma * 100_000)))


def chrm(primaries: tuple[int, ...]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *primaries))


def cicp(primaries: int, transfer: int, full_range: int = 1) -> bytes:
    return chunk(b"cICP", bytes([primaries, transfer, 0, full_range]))


def iccp() -> bytes:
    return chunk(b"iCCP", b"swapped\0\0" + zlib.compress(swapped_profile()))


def sixteen(pixels: np.ndarray, colour: int, *chunks: bytes) -> bytes:
    """A PNG of 16 bits a sample."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">2I5B", SIDE, SIDE, 16, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def palette(transparency: int | bytes | None = None) -> bytes:
    image = drawing().convert("P", palette=Image.Palette.ADAPTIVE, colors=32)
    return saved(image, "PNG", **({} if transparency is None else {"transparency": transparency}))


def animated(**options: object) -> bytes:
    return saved(drawing(), "PNG", save_all=True, append_images=[frame()], duration=60_000, **options)


def late_exif() -> bytes:
    """EXIF behind the pixels, where no viewer looks for it."""
    png = saved(drawing(), "PNG")
    return png[:-12] + chunk(b"eXIf", exif(6).tobytes()[6:]) + png[-12:]


def raw_profile() -> bytes:
    """EXIF as ImageMagick once wrote it."""
    data = b"Exif\0\0" + exif(6).tobytes()[6:]
    lines = f"\nexif\n{len(data):8}\n{data.hex()}\n".encode()
    return with_chunks(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(lines)))


PNGS: dict[str, Callable[[], bytes]] = {
    "colour.png": lambda: saved(drawing(), "PNG"),
    "alpha.png": lambda: saved(with_alpha(), "PNG"),
    "grey.png": lambda: saved(grey(), "PNG"),
    "grey-alpha.png": lambda: saved(grey_with_alpha(), "PNG"),
    "grey-key.png": lambda: saved(grey(), "PNG", transparency=255),
    "colour-key.png": lambda: saved(drawing(), "PNG", transparency=(255, 0, 0)),
    "palette.png": palette,
    "palette-key.png": lambda: palette(3),
    "palette-alpha.png": lambda: palette(bytes(range(0, 256, 8))),
    "bits.png": lambda: saved(grey().convert("1"), "PNG"),
    "grey-16.png": lambda: sixteen(deep(grey()), 0),
    "colour-16.png": lambda: sixteen(deep(), 2),
    "alpha-16.png": lambda: sixteen(deep(with_alpha()), 6),
    "grey-alpha-16.png": lambda: sixteen(deep(grey_with_alpha()), 4),
    "colour-16-key.png": lambda: sixteen(deep(), 2, chunk(b"tRNS", struct.pack(">3H", 65535, 0, 0))),
    "profile.png": lambda: with_chunks(iccp()),
    "profile-alpha.png": lambda: with_chunks(iccp(), png=saved(with_alpha(), "PNG")),
    "profile-palette.png": lambda: with_chunks(iccp(), png=palette()),
    "gamma-1.png": lambda: with_chunks(gama(1)),
    "gamma-1-alpha.png": lambda: with_chunks(gama(1), png=saved(with_alpha(), "PNG")),
    "gamma-1-grey.png": lambda: with_chunks(gama(1), png=saved(grey(), "PNG")),
    "gamma-1-palette.png": lambda: with_chunks(gama(1), png=palette()),
    "gamma-1-grey-16.png": lambda: sixteen(deep(grey()), 0, gama(1)),
    "gamma-1.8.png": lambda: with_chunks(gama(1 / 1.8)),
    "gamma-2.2.png": lambda: with_chunks(gama(0.45455)),
    "gamma-2.2-srgb-primaries.png": lambda: with_chunks(gama(0.45455), chrm(SRGB)),
    "gamma-2.2-p3.png": lambda: with_chunks(gama(0.45455), chrm(P3)),
    "gamma-1-p3.png": lambda: with_chunks(gama(1), chrm(P3)),
    "primaries-alone.png": lambda: with_chunks(chrm(P3)),
    "gamma-1-srgb.png": lambda: with_chunks(gama(1), chrm(P3), chunk(b"sRGB", b"\0")),
    "gamma-1-profile.png": lambda: with_chunks(gama(1), iccp()),
    "srgb-profile.png": lambda: with_chunks(chunk(b"sRGB", b"\0"), iccp()),
    "cicp-srgb.png": lambda: with_chunks(cicp(1, 13), iccp()),
    "cicp-p3.png": lambda: with_chunks(cicp(12, 13)),
    "cicp-p3-srgb.png": lambda: with_chunks(cicp(12, 13), chunk(b"sRGB", b"\0")),
    "cicp-709.png": lambda: with_chunks(cicp(1, 1)),
    "cicp-linear.png": lambda: with_chunks(cicp(1, 8)),
    "cicp-2.2.png": lambda: with_chunks(cicp(1, 4)),
    "cicp-2.8.png": lambda: with_chunks(cicp(1, 5)),
    "cicp-2020.png": lambda: with_chunks(cicp(9, 14)),
    "cicp-unspecified.png": lambda: with_chunks(cicp(2, 2)),
    "cicp-narrow.png": lambda: with_chunks(cicp(12, 13, 0)),
    "cicp-grey.png": lambda: with_chunks(cicp(1, 8), png=saved(grey(), "PNG")),
    "cicp-pq.png": lambda: with_chunks(cicp(9, 16)),
    "cicp-hlg.png": lambda: with_chunks(cicp(9, 18)),
    "turned.png": lambda: saved(drawing(), "PNG", exif=exif(6)),
    "turned-by-xmp.png": lambda: saved(drawing(), "PNG", pnginfo=text("XML:com.adobe.xmp", xmp(6).decode())),
    "turned-by-raw-profile.png": raw_profile,
    "turned-by-late-exif.png": late_exif,
    "animated.png": animated,
    "animated-besides.png": lambda: animated(default_image=True),
}
