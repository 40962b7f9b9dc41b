"""What a file says of its colours, also what Pillow passes over: a PNG's cICP, gAMA and cHRM, an AVIF's nclx, a BMP.

Each becomes an ICC profile, so that one program converts them all. Which of several counts is what Chromium does:
docs/formats.md.
"""

import re
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from lora_engine.images.unread import RejectedImageError

Primaries = tuple[float, ...]  # x and y of white, red, green and blue
Curve = tuple[float, ...]  # parameters of an ICC profile's curve: an exponent, and a, b, c and d of its straight part

_WHITE = (0.3127, 0.3290)
_SRGB = (*_WHITE, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# By the numbers of ITU-T H.273, in both formats.
_PRIMARIES: dict[int, Primaries] = {
    1: _SRGB,
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*_WHITE, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*_WHITE, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*_WHITE, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*_WHITE, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    10: (1 / 3, 1 / 3, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*_WHITE, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*_WHITE, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
_CURVES: dict[int, Curve] = {4: (2.2,), 5: (2.8,), 8: (1.0,), 13: _SRGB_CURVE}
_VIDEO_CURVES = (1, 6, 14, 15)  # of cameras; a screen shows a PNG's by an exponent of 2.4, and an AVIF's as sRGB's
_HDR = {16: "PQ", 18: "HLG"}
_UNSPECIFIED = 2
_SCREEN, _CLOSE = 2.2, 0.05  # a gAMA whose product with the screen's exponent is as close to 1 changes nothing
_STEEPEST = 1000.0  # exponent; an ICC profile holds none above 32767
_NCLX = re.compile(rb"\0\0\0\x13colrnclx(..)(..)", re.DOTALL)  # the length of the box, its names, two numbers
_BMP_HEADERS = 138  # bytes of a BMP's two headers, where the second is of version 5
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.9642, 1.0, 0.8249])

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def profile_of(image: Image.Image, path: Path) -> bytes | None:
    """The ICC profile by which an opened image's samples become sRGB; None where they are sRGB already.

    Raises:
        RejectedImageError: the image is meant for screens that are brighter than white (PQ, HLG).
    """
    own: bytes | None = image.info.get("icc_profile")
    if image.format == "AVIF":
        return own or _avif_profile(path)
    if image.format == "BMP":
        return _bmp_profile(path)
    if image.format != "PNG":
        return own
    code = _cicp(path)
    if (
        code is not None
        and code[2:] == (0, 1)
        and code[0] in _PRIMARIES
        and code[1] in (*_CURVES, *_VIDEO_CURVES, *_HDR)
    ):
        return _coded(code[0], code[1], (2.4,))
    if own or "srgb" in image.info:
        return own
    return _png_profile(image.info.get("gamma"), image.info.get("chromaticity"))


def _cicp(path: Path) -> tuple[int, ...] | None:
    """The four numbers of a PNG's cICP, which Pillow passes over: primaries, transfer, matrix, whether full range."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">L4s", head)
            if kind == b"cICP" and length == 4:
                return tuple(file.read(4))
            if kind == b"IDAT":
                break
            file.seek(length + 4, 1)
    return None


def _bmp_profile(path: Path) -> bytes | None:
    """The profile that lies behind a BMP's pixels, or one made of its calibrated colours."""
    with path.open("rb") as file:
        header = file.read(_BMP_HEADERS)
        kind = header[70:74]
        if kind == b"DEBM" and len(header) == _BMP_HEADERS:
            offset, size = struct.unpack("<2L", header[126:134])
            file.seek(14 + offset)
            return file.read(size)
    if kind != bytes(4) or header[14] < 108:
        return None
    ends = [end / 2**30 for end in struct.unpack("<9l", header[74:110])]
    gamma = struct.unpack("<L", header[110:114])[0] / 2**16
    if not 1 / _STEEPEST <= gamma <= _STEEPEST:
        return None
    return _matrix_profile((*_WHITE, *ends[0:2], *ends[3:5], *ends[6:8]), (gamma,))


def _avif_profile(path: Path) -> bytes | None:
    """What the first nclx of an AVIF says, which Pillow passes over; it belongs to the picture itself."""
    found = _NCLX.search(path.read_bytes())
    if not found:
        return None
    primaries, transfer = (int.from_bytes(number, "big") for number in found.groups())
    return _coded(1 if primaries == _UNSPECIFIED else primaries, transfer, _SRGB_CURVE)


def _coded(primaries: int, transfer: int, video: Curve) -> bytes | None:
    if transfer in _HDR:
        raise RejectedImageError(f"an HDR image ({_HDR[transfer]}); save it for an ordinary screen, in sRGB")
    curve = video if transfer in _VIDEO_CURVES else _CURVES.get(transfer, _SRGB_CURVE)
    if (primaries, curve) == (1, _SRGB_CURVE):
        return None
    return _matrix_profile(_PRIMARIES.get(primaries, _SRGB), curve)


def _png_profile(gamma: float | None, primaries: Primaries | None) -> bytes | None:
    if not gamma or (primaries is None and abs(gamma * _SCREEN - 1) < _CLOSE):
        return None
    return _matrix_profile(primaries or _SRGB, (min(1 / gamma, _STEEPEST),))


def _matrix_profile(primaries: Primaries, curve: Curve) -> bytes | None:
    """An ICC profile of version 4; None for primaries that span no colours."""
    try:
        columns = _to_d50(primaries)
    except np.linalg.LinAlgError:
        return None
    if not (np.isfinite(columns).all() and np.abs(columns).max() < 2**15):
        return None
    kind = 0 if len(curve) == 1 else 3  # an exponent alone, or with a straight part
    bend = struct.pack(">4s4xH2x", b"para", kind) + _fixed(curve)
    tags = {b"wtpt": b"XYZ \0\0\0\0" + _fixed(_D50)}
    for name, column in zip((b"r", b"g", b"b"), columns.T, strict=True):
        tags |= {name + b"XYZ": b"XYZ \0\0\0\0" + _fixed(column), name + b"TRC": bend}
    table, data, start = struct.pack(">L", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4s2L", name, start + len(data), len(content))
        data += content
    size = struct.pack(">L", start + len(data))
    head = size + bytes(4) + b"\4\x40\0\0mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28) + _fixed(_D50)
    return head.ljust(128, b"\0") + table + data


def _fixed(values: Floats | Curve) -> bytes:
    return struct.pack(f">{len(values)}l", *(round(float(value) * 2**16) for value in values))


def _to_d50(primaries: Primaries) -> Floats:
    """XYZ of full red, green and blue, a column each, as they look where white is D50."""
    x, y = np.array(primaries[0::2]), np.array(primaries[1::2])
    if not y[0]:
        raise np.linalg.LinAlgError("white has no brightness")
    xyz = np.stack([x, y, 1 - x - y])
    white = xyz[:, 0] / y[0]
    rgb = xyz[:, 1:] * np.linalg.solve(xyz[:, 1:], white)
    scale = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    columns: Floats = np.linalg.inv(_BRADFORD) @ np.diag(scale) @ _BRADFORD @ rgb
    return columns
