"""TIFF files, with tifffile and Pillow, and byte by byte where neither writes them."""

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import tifffile
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
    with_alpha,
    xmp,
)


def written(pixels: np.ndarray[Any, Any], photometric: str = "rgb", **options: Any) -> bytes:
    data = io.BytesIO()
    tifffile.imwrite(data, pixels, photometric=photometric, metadata=None, software=False, **options)
    return data.getvalue()


def planes(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))


def by_hand(tags: dict[int, tuple[int, tuple[int, ...]]], data: bytes, order: str = "<") -> bytes:
    """A TIFF with these tags: type 3 or 4, and values."""
    all_tags = {
        256: (3, (SIDE,)),
        257: (3, (SIDE,)),
        259: (3, (1,)),
        273: (4, (8,)),
        278: (3, (SIDE,)),
        279: (4, (len(data),)),
    }
    all_tags |= tags
    start = 8 + len(data) + len(data) % 2
    behind, entries, at = b"", b"", start + 2 + 12 * len(all_tags) + 4
    for tag, (kind, values) in sorted(all_tags.items()):
        packed = struct.pack(f"{order}{len(values)}{'HL'[kind - 3]}", *values)
        entries += struct.pack(f"{order}2HL", tag, kind, len(values))
        if len(packed) > 4:
            entries += struct.pack(f"{order}L", at + len(behind))
            behind += packed
        else:
            entries += packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}L", start)
    return head + data.ljust(start - 8, b"\0") + struct.pack(f"{order}H", len(all_tags)) + entries + bytes(4) + behind


def packed(bits: int, values: np.ndarray[Any, Any], inverted: bool = False) -> bytes:
    """Grey of few bits, or of 12."""
    stream = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(SIDE, SIDE, 2), axis=-1)[..., 16 - bits :]
    data = np.packbits(stream.reshape(SIDE, -1), axis=-1).tobytes()
    return by_hand({258: (3, (bits,)), 262: (3, (0 if inverted else 1,)), 277: (3, (1,))}, data)


def premultiplied(top: int) -> np.ndarray[Any, Any]:
    pixels = np.asarray(with_alpha()).astype(float) / 255
    pixels[..., :3] *= pixels[..., 3:]
    return np.round(pixels * top).astype(np.uint8 if top == 255 else np.uint16)


def subsampled() -> bytes:
    """Brightness whole, colours of every 2x2 pixels once, as scanners write them."""
    ycc = np.asarray(drawing().convert("YCbCr")).astype(int)
    data = b""
    for y in range(0, SIDE, 2):
        for x in range(0, SIDE, 2):
            block = ycc[y : y + 2, x : x + 2]
            data += bytes(block[..., 0].ravel().tolist() + [round(block[..., c].mean()) for c in (1, 2)])
    return by_hand({258: (3, (8, 8, 8)), 262: (3, (6,)), 277: (3, (3,)), 530: (3, (2, 2))}, data)


def whole_ycc() -> bytes:
    data = np.asarray(drawing().convert("YCbCr")).tobytes()
    return by_hand({258: (3, (8, 8, 8)), 262: (3, (6,)), 277: (3, (3,)), 530: (3, (1, 1))}, data)


GREY, RGB, RGBA = np.asarray(grey()), np.asarray(drawing()), np.asarray(with_alpha())
DEEP, DEEP_GREY, DEEP_RGBA = deep(), deep(grey()), deep(with_alpha())
LA = np.asarray(grey_with_alpha())
TIFFS: dict[str, Callable[[], bytes]] = {
    "colour.tif": lambda: written(RGB),
    "big-endian.tif": lambda: written(RGB, byteorder=">"),
    "big.tif": lambda: written(RGB, bigtiff=True),
    "lzw.tif": lambda: saved(drawing(), "TIFF", compression="tiff_lzw"),
    "deflate.tif": lambda: written(RGB, compression="zlib"),
    "packbits.tif": lambda: saved(drawing(), "TIFF", compression="packbits"),
    "jpeg.tif": lambda: saved(drawing(), "TIFF", compression="jpeg", quality=95),
    "zstd.tif": lambda: saved(drawing(), "TIFF", compression="zstd"),
    "fax.tif": lambda: saved(grey().convert("1"), "TIFF", compression="group4"),
    "bits.tif": lambda: saved(grey().convert("1"), "TIFF"),
    "tiled.tif": lambda: written(RGB, tile=(16, 16)),
    "strips.tif": lambda: written(RGB, rowsperstrip=5),
    "planar.tif": lambda: written(planes(RGB), planarconfig="separate"),
    "planar-tiled.tif": lambda: written(planes(RGB), planarconfig="separate", tile=(16, 16)),
    "planar-deflate.tif": lambda: written(planes(RGB), planarconfig="separate", compression="zlib"),
    "planar-alpha.tif": lambda: written(planes(RGBA), planarconfig="separate", extrasamples=["unassalpha"]),
    "planar-cmyk.tif": lambda: written(
        planes(np.asarray(drawing().convert("CMYK"))), "separated", planarconfig="separate"
    ),
    "16.tif": lambda: written(DEEP),
    "16-big-endian.tif": lambda: written(DEEP, byteorder=">"),
    "16-deflate.tif": lambda: written(DEEP, compression="zlib"),
    "16-planar.tif": lambda: written(planes(DEEP), planarconfig="separate"),
    "16-planar-tiled.tif": lambda: written(planes(DEEP), planarconfig="separate", tile=(16, 16)),
    "16-planar-deflate.tif": lambda: written(planes(DEEP), planarconfig="separate", compression="zlib"),
    "16-planar-alpha.tif": lambda: written(planes(DEEP_RGBA), planarconfig="separate", extrasamples=["unassalpha"]),
    "16-alpha.tif": lambda: written(DEEP_RGBA, extrasamples=["unassalpha"]),
    "16-premultiplied.tif": lambda: written(premultiplied(65535), extrasamples=["assocalpha"]),
    "16-cmyk.tif": lambda: written(deep(drawing().convert("CMYK")), "separated"),
    "16-grey.tif": lambda: written(DEEP_GREY, "minisblack"),
    "16-grey-big-endian.tif": lambda: written(DEEP_GREY, "minisblack", byteorder=">"),
    "16-white-is-zero.tif": lambda: written(65535 - DEEP_GREY, "miniswhite"),
    "16-white-is-zero-big-endian.tif": lambda: written(65535 - DEEP_GREY, "miniswhite", byteorder=">"),
    "white-is-zero.tif": lambda: written(255 - GREY, "miniswhite"),
    "alpha.tif": lambda: written(RGBA, extrasamples=["unassalpha"]),
    "premultiplied.tif": lambda: written(premultiplied(255), extrasamples=["assocalpha"]),
    "grey.tif": lambda: written(GREY, "minisblack"),
    "grey-alpha.tif": lambda: written(LA, "minisblack", extrasamples=["unassalpha"], planarconfig="contig"),
    "grey-alpha-planar.tif": lambda: written(
        planes(LA), "minisblack", extrasamples=["unassalpha"], planarconfig="separate"
    ),
    "16-grey-alpha.tif": lambda: written(
        deep(grey_with_alpha()), "minisblack", extrasamples=["unassalpha"], planarconfig="contig"
    ),
    "4-bits.tif": lambda: packed(4, GREY >> 4),
    "2-bits.tif": lambda: packed(2, GREY >> 6),
    "12-bits.tif": lambda: packed(12, DEEP_GREY >> 4),
    "12-bits-white-is-zero.tif": lambda: packed(12, 4095 - (DEEP_GREY >> 4), inverted=True),
    "32.tif": lambda: written(DEEP_GREY.astype(np.uint32) * 65537, "minisblack"),
    "float.tif": lambda: written((GREY / 255).astype(np.float32), "minisblack"),
    "float-colour.tif": lambda: written((RGB / 255).astype(np.float32)),
    "palette.tif": lambda: saved(drawing().convert("P", palette=Image.Palette.ADAPTIVE, colors=32), "TIFF"),
    "cmyk.tif": lambda: saved(drawing().convert("CMYK"), "TIFF"),
    "ycc.tif": whole_ycc,
    "ycc-subsampled.tif": subsampled,
    "profile.tif": lambda: saved(drawing(), "TIFF", icc_profile=swapped_profile()),
    "16-profile.tif": lambda: written(DEEP, iccprofile=swapped_profile()),
    "turned.tif": lambda: saved(drawing(), "TIFF", exif=exif(6)),
    "mirrored.tif": lambda: saved(drawing(), "TIFF", exif=exif(7)),
    "16-planar-turned.tif": lambda: written(planes(DEEP), planarconfig="separate", extratags=[(274, 3, 1, 6, True)]),
    "turned-by-xmp.tif": lambda: written(RGB, extratags=[(700, 1, len(xmp(6)), xmp(6), True)]),
    "pages.tif": lambda: saved(drawing(), "TIFF", save_all=True, append_images=[frame()]),
}
