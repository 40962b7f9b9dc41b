"""Finds of every picture the image that it is most like, or like a crop of, mirrored or not. Torch-free.

What is like what is decided on thumbnails, by the signs of their low frequencies (see `_soft_bits`). A picture is first
searched for at a low resolution in all images; then the likeliest windows are moved to where they fit best.

Shape legend: M pictures, T images, S pixels a side of a thumbnail, U pixels a side of what is searched for, P windows
of an image, C candidates of one picture, K sizes and O places along an axis that a candidate's window is tried at, W
windows that it is tried at in all, V waves along an axis, B soft bits. The first of two is the picture, the second its
mirror image.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Thumbnails = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]
_Places = npt.NDArray[np.intp]

SIDE = 64  # pixels a side of a thumbnail

_WAVES = 16  # the lowest frequencies along each axis, as in the perceptual hash
_GREY_LEVEL = SIDE / 2  # the coefficient of a wave along both axes whose amplitude is one grey level
_FEWEST_BITS = 16  # with fewer than so many clear bits out of 255, a picture is nearly blank
_ROUNDED_GREYS = 2  # grey levels by which saving again may change any pixel
_SOME_DETAIL = 0.9  # see `_detail`, beyond which a picture that is the same as an image is a copy of it
_FULL_AREA = 0.03  # of a picture, on less of which all that it shows may be aligned with anything
_SEARCHED = 12  # U, to which a picture is reduced to search for it
_FINEST = 21  # pixels a side of an image whose smallest crop is searched: 12 / 21 of its side
_CANDIDATES = 64  # images, mirrored or not, that a picture is aligned with
_STEPS = (1 / 32, 1 / 64, 1 / 128, 1 / 256, 1 / 512, 1 / 1024)  # of the image's side, by which windows are moved
_KEPT = (32, 16, 8, 4, 4, 4)  # of the candidates, after each step
_WHOLE = 1 - 1 / SIDE  # of the side, from which on a window is the whole image
_PICTURES_AT_ONCE = 128
_IMAGES_AT_ONCE = 64
_ROUNDING = 4  # decimals of a likeness that do not depend on the order in which products are summed


@dataclass(frozen=True)
class Match:
    """The image that a picture is most like."""

    image: int  # its place among the images
    likeness: float  # in [-1, 1]; 1 is the same
    mirrored: bool  # whether the picture is like the image's mirror image
    crop: tuple[float, float, float] | None  # left, top and side as fractions of the image; None for all of it


def thumbnail_grey(image: Image.Image) -> Thumbnails:
    """What likeness is computed from, [64, 64]: the picture's middle square in grey."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).convert("L")
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0))


def matches(pictures_MSS: Thumbnails, images_TSS: Thumbnails) -> Iterator[Match]:
    """What each picture is most like; of images that are the same, the first.

    500 pictures and 2000 images take 15 seconds of one core and an eighth of a gigabyte.
    """
    for start in range(0, len(pictures_MSS), _PICTURES_AT_ONCE):
        some_MSS = pictures_MSS[start : start + _PICTURES_AT_ONCE]
        for picture_SS, windows in zip(some_MSS, _search(some_MSS, images_TSS), strict=True):
            yield _aligned(picture_SS, windows, images_TSS)


@dataclass(frozen=True, eq=False)
class _Windows:
    """Windows of images, one of each, that a picture may show."""

    image: _Places  # its place among the images, [C]
    mirrored: npt.NDArray[np.bool_]  # whether the picture shows the window's mirror image, [C]
    left: _Floats  # as fractions of the image's side, [C]
    top: _Floats
    side: _Floats

    def take(self, at: _Places) -> "_Windows":
        return _Windows(self.image[at], self.mirrored[at], self.left[at], self.top[at], self.side[at])


def _aligned(picture_SS: Thumbnails, windows: _Windows, images_TSS: Thumbnails) -> Match:
    """Move each candidate's window to where it is most like the picture, dropping the least like after every step."""
    bits_2B = _soft_bits(_waves(picture_SS)) * _MIRROR_2B
    for step, kept in zip(_STEPS, _KEPT, strict=True):
        windows, likeness_C = _moved(windows, bits_2B, step, images_TSS)
        best = np.argsort(-likeness_C.round(_ROUNDING), kind="stable")[:kept]
        windows, likeness = windows.take(best), likeness_C[best[0]]
    crop = float(windows.left[0]), float(windows.top[0]), float(windows.side[0])
    image, mirrored, detail = int(windows.image[0]), bool(windows.mirrored[0]), _detail(picture_SS)
    if detail > _SOME_DETAIL and _is_the_same(picture_SS, images_TSS[image], mirrored=mirrored):
        return Match(image, 1.0, mirrored, None)
    return Match(image, min(1.0, float(likeness)) * detail, mirrored, None if crop[2] >= _WHOLE else crop)


def _moved(windows: _Windows, bits_2B: _Floats, step: float, images_TSS: Thumbnails) -> tuple[_Windows, _Floats]:
    """The most like of each window's neighbours, a step away in place and a step and a half in size, and how like."""
    around = np.array([-step, 0, step], np.float32)
    side_CK = np.clip(windows.side[:, None] + np.float32(1.5) * around, _SEARCHED / _FINEST, 1)
    shift_CKO = (windows.side[:, None] - side_CK)[..., None] / 2 + around
    room_CK1 = (1 - side_CK)[..., None]
    left_CKO = np.clip(windows.left[:, None, None] + shift_CKO, 0, room_CK1)
    top_CKO = np.clip(windows.top[:, None, None] + shift_CKO, 0, room_CK1)
    rows_CKOVS, columns_CKOVS = (_cosines(start_CKO, side_CK[..., None]) for start_CKO in (top_CKO, left_CKO))
    images_CSS: _Floats = images_TSS[windows.image].astype(np.float32)
    by_rows: _Floats = rows_CKOVS.reshape(len(images_CSS), -1, SIDE) @ images_CSS
    waves_CKOOVV: _Floats = (
        by_rows.reshape(rows_CKOVS.shape)[:, :, :, None] @ columns_CKOVS.swapaxes(-1, -2)[:, :, None]
    )
    bits_CWB = _soft_bits(waves_CKOOVV).reshape(len(images_CSS), around.size**3, -1)
    likeness_CW = (bits_CWB @ bits_2B[windows.mirrored.astype(np.intp), :, None])[..., 0]
    best_C = likeness_CW.argmax(axis=1)
    every, (size, row, column) = np.arange(len(best_C)), np.unravel_index(best_C, (around.size,) * 3)
    left_C, top_C, side_C = left_CKO[every, size, column], top_CKO[every, size, row], side_CK[every, size]
    return _Windows(windows.image, windows.mirrored, left_C, top_C, side_C), likeness_CW[every, best_C]


def _cosines(start: _Floats, side: _Floats) -> _Floats:
    """The orthonormal cosine transform (DCT-II) of windows along one axis of a thumbnail, [..., V, S].

    Each cosine is integrated over each pixel's part of the window, so that windows may lie between pixels. A window is
    transformed as if it were as large as a thumbnail.

    Args:
        start: where each window begins, as a fraction of the thumbnail's side.
        side: how long it is.
    """
    edges = np.arange(SIDE + 1, dtype=np.float32) / np.float32(SIDE)
    within = np.clip((edges - start[..., None]) / side[..., None], 0, 1)
    turns = np.pi * np.arange(1, _WAVES, dtype=np.float32)
    found = np.empty((*within.shape[:-1], _WAVES, SIDE), np.float32)
    found[..., 0, :] = math.sqrt(SIDE) * np.diff(within)
    found[..., 1:, :] = math.sqrt(2 * SIDE) * np.diff(np.sin(turns[:, None] * within[..., None, :])) / turns[:, None]
    return found


_WHOLE_COSINES = _cosines(np.zeros((), np.float32), np.ones((), np.float32))
# What a mirror image has of a picture's bits: those of odd waves along its rows change their sign.
_MIRROR_2B = np.stack([np.ones(_WAVES**2 - 1), np.tile([1, -1], _WAVES**2 // 2)[1:]]).astype(np.float32)


def _waves(small_SS: Thumbnails) -> _Floats:
    """The lowest frequencies of a thumbnail, [V, V]: waves down its columns, then along its rows."""
    found: _Floats = _WHOLE_COSINES @ small_SS.astype(np.float32) @ _WHOLE_COSINES.T
    return found


def _soft_bits(waves: _Floats) -> _Floats:
    """The signs of the waves, between -1 and 1 where they hardly show: [..., V, V] to [..., B], of unit length.

    They are a perceptual hash's bits, but that a wave of less than a grey level is no full one, so that noise changes
    little. The product of two is a correlation. A nearly blank picture's are shorter: it is like nothing.
    """
    bits = np.tanh(waves.reshape(*waves.shape[:-2], -1)[..., 1:] / _GREY_LEVEL)
    length = np.sqrt(np.square(bits).sum(axis=-1, keepdims=True))
    found: _Floats = bits / np.maximum(length, math.sqrt(_FEWEST_BITS))
    return found


def _is_the_same(picture_SS: Thumbnails, image_SS: Thumbnails, *, mirrored: bool) -> bool:
    """Whether a picture is the whole image, but for rounding."""
    image = image_SS[:, ::-1] if mirrored else image_SS
    return bool(np.abs(picture_SS.astype(np.int16) - image.astype(np.int16)).max() <= _ROUNDED_GREYS)


def _detail(picture_SS: Thumbnails) -> float:
    """How much a picture's likeness counts, in [0, 1]: less where it shows but a dot or a line on a plain ground.

    A window of whatever image has a dot can be moved to where the dot lies as in the picture. The area on which a
    picture differs from its ground is that of a plain figure with the same mean and mean square of differences.
    """
    away = np.abs(picture_SS - np.median(picture_SS))
    squares = float(np.square(away).mean())
    return min(1.0, float(away.mean()) ** 2 / squares / _FULL_AREA) if squares else 0.0


def _search(pictures_MSS: Thumbnails, images_TSS: Thumbnails) -> Iterator[_Windows]:
    """The windows that each picture is most like at a low resolution, one of each of the likeliest images.

    Normalised cross-correlation (Lewis, "Fast normalized cross-correlation", 1995) of the picture with every window of
    a pyramid of each image, and with the window's mirror image.
    """
    pictures_MUU = _reduced(pictures_MSS, _SEARCHED)
    both = np.stack([_patterns(pictures_MUU), _patterns(pictures_MUU[:, :, ::-1])], axis=1)
    number, queries = len(pictures_MSS), both.reshape(-1, _SEARCHED**2)
    best_MT2 = np.empty((number, len(images_TSS), 2), np.float32)
    place_MT2 = np.empty((number, len(images_TSS), 2), np.int16)
    for start in range(0, len(images_TSS), _IMAGES_AT_ONCE):
        part = slice(start, start + _IMAGES_AT_ONCE)
        patterns = _pyramid(images_TSS[part])
        found = (patterns.reshape(-1, _SEARCHED**2) @ queries.T).reshape(*patterns.shape[:2], number, 2)
        best_MT2[:, part] = found.max(axis=1).swapaxes(0, 1)
        place_MT2[:, part] = found.argmax(axis=1).swapaxes(0, 1)
    for best_T2, place_T2 in zip(best_MT2, place_MT2, strict=True):
        likeliest = np.argsort(-best_T2.ravel().round(_ROUNDING), kind="stable")[:_CANDIDATES]
        left, top, side = _PLACES_P3[place_T2.ravel()[likeliest]].T
        yield _Windows(likeliest // 2, likeliest % 2 == 1, left, top, side)


def _pyramid(images_TSS: Thumbnails) -> _Floats:
    """The pattern of every window of every size, [T, P, U * U], in the order of `_PLACES_P3`."""
    parts = []
    for size in range(_SEARCHED, _FINEST + 1):
        windows = np.lib.stride_tricks.sliding_window_view(
            _reduced(images_TSS, size), (_SEARCHED, _SEARCHED), axis=(1, 2)
        )
        parts.append(_patterns(windows).reshape(len(images_TSS), -1, _SEARCHED**2))
    return np.concatenate(parts, axis=1)


# Left, top and side of each window, as fractions of the image's side.
_PLACES_P3 = np.array(
    [
        (left / size, top / size, _SEARCHED / size)
        for size in range(_SEARCHED, _FINEST + 1)
        for top in range(size - _SEARCHED + 1)
        for left in range(size - _SEARCHED + 1)
    ],
    np.float32,
)


def _reduced(small: Thumbnails, size: int) -> _Floats:
    """Thumbnails at so many pixels a side, each the mean of what it covers: [..., S, S] to [..., size, size]."""
    edges, pixels = np.linspace(0, SIDE, size + 1), np.arange(SIDE)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = (np.clip(covered, 0, None) * size / SIDE).astype(np.float32)
    found: _Floats = weights @ small.astype(np.float32) @ weights.T
    return found


def _patterns(windows: _Floats) -> _Floats:
    """Windows less their means, scaled to unit length, which blank ones do not reach: [..., U, U] to [..., U * U]."""
    flat = windows.reshape(*windows.shape[:-2], -1)
    flat = flat - flat.mean(axis=-1, keepdims=True)
    length = np.sqrt(np.square(flat).sum(axis=-1, keepdims=True))
    found: _Floats = flat / np.maximum(length, _SEARCHED)  # a standard deviation of one grey level
    return found
