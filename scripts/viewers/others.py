"""JPEG, WebP, GIF, BMP and AVIF files."""

import struct
from collections.abc import Callable

import numpy as np
from PIL import Image

from viewers.drawing import SIDE, drawing, exif, frame, grey, saved, swapped_profile, with_alpha, xmp


def jpeg(image: Image.Image | None = None, **options: object) -> bytes:
    return saved(image or drawing(), "JPEG", quality=95, subsampling=0, **options)


def webp(image: Image.Image | None = None, **options: object) -> bytes:
    return saved(image or drawing(), "WEBP", lossless=True, **options)


def avif(image: Image.Image | None = None, **options: object) -> bytes:
    return saved(image or drawing(), "AVIF", quality=100, subsampling="4:4:4", **options)


def adobe_rgb() -> bytes:
    """A JPEG whose samples are red, green and blue, as Adobe's marker says."""
    return jpeg(keep_rgb=True)


def cmyk() -> bytes:
    """A JPEG for printers, with Adobe's marker, so stored inverted."""
    return saved(drawing().convert("CMYK"), "JPEG", quality=95)


def indexed() -> Image.Image:
    return drawing().convert("P", palette=Image.Palette.ADAPTIVE, colors=32)


def small_frame(transparent: bool = False) -> bytes:
    """A GIF whose one frame stands at (4, 6) on a canvas that is larger."""
    gif = bytearray(saved(indexed().crop((0, 0, 12, 12)), "GIF", **({"transparency": 3} if transparent else {})))
    gif[6:10] = struct.pack("<2H", SIDE, SIDE)
    at = gif.index(b"," + struct.pack("<4H", 0, 0, 12, 12))
    gif[at + 1 : at + 5] = struct.pack("<2H", 4, 6)
    return bytes(gif)


def bmp(
    masks: tuple[int, ...] = (), bits: int = 32, pixels: bytes | None = None, compression: int = 3, **more: object
) -> bytes:
    """A BMP with the header of version 5."""
    rgba = np.asarray(with_alpha())[::-1]
    data = rgba[..., [2, 1, 0, 3]].tobytes() if pixels is None else pixels
    profile, space = more.get("profile", b""), more.get("space", b"BGRs")
    header = struct.pack("<I2i2H6I", 124, SIDE, SIDE, 1, bits, compression, len(data), 2835, 2835, 0, 0)
    header += struct.pack("<4I", *(masks or (0xFF0000, 0xFF00, 0xFF, 0xFF000000))) + space
    header += more.get("endpoints", bytes(36 + 12))
    header += struct.pack("<4I", 4, 124 + len(data) if profile else 0, len(profile), 0)
    assert len(header) == 124
    return b"BM" + struct.pack("<3I", 14 + 124 + len(data) + len(profile), 0, 138) + header + data + profile


def info_bmp(alpha: int | None) -> bytes:
    """A BMP of 32 bits with the header of version 3, which has no mask."""
    rgba = np.asarray(with_alpha())[::-1][..., [2, 1, 0, 3]].copy()
    if alpha is not None:
        rgba[..., 3] = alpha
    header = struct.pack("<I2i2H6I", 40, SIDE, SIDE, 1, 32, 0, rgba.nbytes, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<3I", 54 + rgba.nbytes, 0, 54) + header + rgba.tobytes()


def no_alpha() -> bytes:
    rgba = np.asarray(with_alpha())[::-1][..., [2, 1, 0, 3]].copy()
    rgba[..., 3] = 0
    return bmp(pixels=rgba.tobytes())


def fifteen(mask: int) -> bytes:
    rgba = np.asarray(with_alpha())[::-1].astype(np.uint16)
    words = rgba[..., 0] >> 3 << 10 | rgba[..., 1] >> 3 << 5 | rgba[..., 2] >> 3 | (rgba[..., 3] >> 7 << 15)
    return bmp((0x7C00, 0x3E0, 0x1F, mask), 16, words.astype("<u2").tobytes())


def calibrated_bmp() -> bytes:
    ends = struct.pack(
        "<9i", *(round(v * 2**30) for v in (0.4124, 0.2126, 0.0193, 0.3576, 0.7152, 0.1192, 0.1805, 0.0722, 0.9505))
    )
    return bmp(endpoints=ends + struct.pack("<3I", *[2**16] * 3), space=bytes(4))


def recoloured_avif(primaries: int, transfer: int, matrix: int | None = None) -> bytes:
    """An AVIF that says other colours of its samples."""
    data = bytearray(avif())
    at = data.index(b"colrnclx") + 8
    found = struct.unpack(">3H", data[at : at + 6])
    data[at : at + 6] = struct.pack(">3H", primaries, transfer, found[2] if matrix is None else matrix)
    return bytes(data)


JPEGS: dict[str, Callable[[], bytes]] = {
    "colour.jpg": jpeg,
    "grey.jpg": lambda: jpeg(grey()),
    "progressive.jpg": lambda: jpeg(progressive=True),
    "subsampled.jpg": lambda: saved(drawing(), "JPEG", quality=95),
    "rgb.jpg": adobe_rgb,
    "cmyk.jpg": cmyk,
    "profile.jpg": lambda: jpeg(icc_profile=swapped_profile()),
    "profile-that-does-not-fit.jpg": lambda: saved(
        drawing().convert("CMYK"), "JPEG", quality=95, icc_profile=swapped_profile()
    ),
    "turned.jpg": lambda: jpeg(exif=exif(6)),
    "mirrored.jpg": lambda: jpeg(exif=exif(7)),
    "turned-by-xmp.jpg": lambda: jpeg(xmp=xmp(6)),
    "turned-by-both.jpg": lambda: jpeg(exif=exif(1), xmp=xmp(6)),
}
WEBPS: dict[str, Callable[[], bytes]] = {
    "colour.webp": webp,
    "lossy.webp": lambda: saved(drawing(), "WEBP", quality=95),
    "alpha.webp": lambda: webp(with_alpha()),
    "lossy-alpha.webp": lambda: saved(with_alpha(), "WEBP", quality=95),
    "profile.webp": lambda: webp(icc_profile=swapped_profile()),
    "turned.webp": lambda: webp(exif=exif(6)),
    "turned-by-xmp.webp": lambda: webp(xmp=xmp(6)),
    "animated.webp": lambda: webp(save_all=True, append_images=[frame()], duration=60_000),
}
GIFS: dict[str, Callable[[], bytes]] = {
    "colour.gif": lambda: saved(indexed(), "GIF"),
    "interlaced.gif": lambda: saved(indexed(), "GIF", interlace=1),
    "transparent.gif": lambda: saved(indexed(), "GIF", transparency=3),
    "animated.gif": lambda: saved(drawing(), "GIF", save_all=True, append_images=[frame()], duration=60_000),
    "small-frame.gif": small_frame,
    "small-frame-transparent.gif": lambda: small_frame(transparent=True),
}
BMPS: dict[str, Callable[[], bytes]] = {
    "colour.bmp": lambda: saved(drawing(), "BMP"),
    "palette.bmp": lambda: saved(indexed(), "BMP"),
    "grey.bmp": lambda: saved(grey(), "BMP"),
    "unused-alpha.bmp": lambda: info_bmp(None),
    "unused-zeros.bmp": lambda: info_bmp(0),
    "alpha.bmp": bmp,
    "alpha-of-zeros.bmp": no_alpha,
    "no-alpha-mask.bmp": lambda: bmp((0xFF0000, 0xFF00, 0xFF, 0)),
    "15-bits.bmp": lambda: fifteen(0),
    "15-bits-alpha.bmp": lambda: fifteen(0x8000),
    "10-bits.bmp": lambda: bmp((0x3FF00000, 0xFFC00, 0x3FF, 0)),
    "profile.bmp": lambda: bmp((0xFF0000, 0xFF00, 0xFF, 0), profile=swapped_profile(), space=b"DEBM"),
    "calibrated.bmp": calibrated_bmp,
}
AVIFS: dict[str, Callable[[], bytes]] = {
    "colour.avif": avif,
    "lossy.avif": lambda: saved(drawing(), "AVIF", quality=90),
    "grey.avif": lambda: avif(grey()),
    "alpha.avif": lambda: avif(with_alpha()),
    "profile.avif": lambda: avif(icc_profile=swapped_profile()),
    "turned.avif": lambda: avif(exif=exif(6)),
    "turned-by-xmp.avif": lambda: avif(xmp=xmp(6)),
    "animated.avif": lambda: avif(save_all=True, append_images=[frame()], duration=60_000),
    "p3.avif": lambda: recoloured_avif(12, 13),
    "709.avif": lambda: recoloured_avif(1, 1),
    "unspecified.avif": lambda: recoloured_avif(2, 2),
    "linear.avif": lambda: recoloured_avif(1, 8),
    "2020.avif": lambda: recoloured_avif(9, 14),
    "pq.avif": lambda: recoloured_avif(9, 16),
    "hlg.avif": lambda: recoloured_avif(9, 18),
}
