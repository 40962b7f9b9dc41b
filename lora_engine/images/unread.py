"""Why a file is not read as an image, for a person: files of other kinds, and kinds that a decoder gets wrong."""

import re
import struct
from pathlib import Path
from typing import BinaryIO

from PIL import Image, features
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    COMPRESSION_INFO,
    EXTRASAMPLES,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    PREFIXES,
    SAMPLEFORMAT,
    ImageFileDirectory_v2,
    TiffImageFile,
)

_ARCHIVE_STARTS = (b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!")
_JPEG_XL_STARTS = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")
_HEIC = re.compile(rb"....ftyp(?:....)*?(?:hei[cmsx]|hev[cmsx])", re.DOTALL)  # a brand that says how it is coded
_AVIF = re.compile(rb"....ftyp(?:....)*?avi[fs]", re.DOTALL)
_START = 128  # bytes that hold all brands of a file
_STARTS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "GIF": rb"GIF8[79]a",
    "WebP": rb"RIFF.{4}WEBP",
    "AVIF": rb".{4}ftyp(?:.{4})*?avi[fs]",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
}
_TIFF_COLOURS = {0: "grey", 1: "grey", 2: "colour", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab"}
_TIFF_NUMBERS = {2: "signed ", 3: "floating-point "}
_BIG = 43  # the version of a TIFF whose offsets have 8 bytes
_WITH_ALPHA = 56  # bytes of a BMP's shortest second header that has a mask for alpha
_SEPARATE = 2  # a TIFF's number for one plane a channel


class RejectedImageError(Exception):
    """The file cannot be used; the message is the reason, for a person."""


def what_it_is(path: Path) -> str:
    """Why a file that no decoder takes is none of the images that are read."""
    with path.open("rb") as file:
        start = file.read(_START)
        if start.startswith(_ARCHIVE_STARTS):
            return "an archive; archives within the dataset are not opened"
        if start.startswith(_JPEG_XL_STARTS):
            return "a JPEG XL image, which is not read; make a PNG of it, with `djxl` for one"
        if _HEIC.match(start):
            return "a HEIC image, which is not read; make a JPEG or PNG of it, with `heif-convert` for one"
        if _AVIF.match(start) and not features.check("avif"):
            return "an AVIF image, which this build of Pillow cannot decode; install Pillow's own wheel, or make a PNG"
        if start.startswith(tuple(PREFIXES)) and (kind := _tiff_kind(file)):
            return f"a TIFF {kind}, which cannot be read; make a plain TIFF of 8 bits or a PNG of it"
    begun = next((name for name, begins in _STARTS.items() if re.match(begins, start, re.DOTALL)), None)
    return f"a damaged {begun}" if begun else "not a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF image"


def _tiff_kind(file: BinaryIO) -> str | None:
    """How a TIFF is compressed, or what its pixels are, by its first table; None where that cannot be read."""
    file.seek(0)
    try:
        head = file.read(8)
        tags = ImageFileDirectory_v2(head + file.read(8) if _BIG in head[:4] else head)
        file.seek(tags.next)
        tags.load(file)
        if (compression := tags.get(COMPRESSION, 1)) not in COMPRESSION_INFO:
            return f"compressed by method {compression}"
        colours = _TIFF_COLOURS[tags[PHOTOMETRIC_INTERPRETATION]]
        bits = "+".join(map(str, sorted(set(tags.get(BITSPERSAMPLE, (1,))))))
        numbers = _TIFF_NUMBERS.get(max(tags.get(SAMPLEFORMAT, (1,))), "")
        alpha = " and alpha" if any(tags.get(EXTRASAMPLES, ())) else ""
    except (OSError, SyntaxError, struct.error, LookupError, TypeError, ValueError):
        return None
    return f"of {numbers}{colours}{alpha} in {bits} bits"


def check_decoder(image: Image.Image, path: Path) -> None:
    """Refuse what Pillow opens, but is known to decode wrongly.

    Raises:
        RejectedImageError: it is such a file.
    """
    if isinstance(image, TiffImageFile) and image.tag_v2.get(PLANAR_CONFIGURATION) == _SEPARATE and image.mode == "LA":
        raise RejectedImageError("a TIFF of grey and alpha in separate planes, which is not read; make a PNG of it")
    if image.format == "BMP" and _has_alpha_in_16_bits(path):
        raise RejectedImageError("a BMP of 16 bits with alpha, which is not read; make a PNG of it")


def _has_alpha_in_16_bits(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(70)
    bits, compression, mask = head[28:30], head[30:34], head[66:70]
    return head[14] >= _WITH_ALPHA and (bits, compression) == (b"\x10\0", b"\3\0\0\0") and any(mask)
