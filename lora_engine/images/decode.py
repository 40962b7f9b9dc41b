"""Decodes one image file to upright 8-bit RGB, or says why it cannot."""

import io
import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageCms, ImageOps, TiffImagePlugin, UnidentifiedImageError, features
from PIL.GifImagePlugin import GifImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from lora_engine.config.data import PreprocessConfig
from lora_engine.images.colours import profile_of
from lora_engine.images.unread import RejectedImageError, check_decoder, what_it_is
from lora_engine.system.limits import limit_hit
from lora_engine.text import printable

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", *(["AVIF"] if features.check("avif") else []))
_SMALLEST_SIDE = 8  # pixels; nothing can be learned from a smaller image
# The side to which the decoder may reduce a JPEG, relative to the target. Reducing within the decoder softens strokes:
# down to 1.5 times the target it changes a line drawing's square about as much as another resampling filter would, by
# some 40 dB; down to the target itself, by 31.
_REDUCED_SIDE = 1.5
_JPEGS = ("JPEG", "MPO")  # a phone's MPO is a JPEG with more pictures behind it, such as a depth or brightness map
_JPEG_COLOURS = {"RGB": "RGB", "L": "GRAY"}  # Pillow's mode to the decoder's name for the same colours
_TURNS = {  # by EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = [_TURNS[orientation] for orientation in (5, 6, 7, 8)]  # these swap width and height
_PROFILE_FITS = {"RGB": ("RGB", "P", "L", "1"), "GRAY": ("L", "1"), "CMYK": ("CMYK",)}  # modes that a profile may have
_PROFILE_MODE = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # the mode that a profile of a colour space converts from
_PNG_SCALE = {"L;2": 85, "L;4": 17}  # factor that makes 8 bits of a sample, by Pillow's name for how samples lie
_WHITE_IS_ZERO = 0  # a TIFF's value for grey values that count from white
# 16 bits to 8, rounded.
_SIXTEEN_TO_EIGHT = ((np.arange(2**16) + 128) // 257).astype(np.uint8)


def decode_image(path: Path, config: PreprocessConfig) -> Image.Image:
    """Decode a file's first frame: upright, in sRGB, over the background where it is transparent, in mode RGB.

    A JPEG that is much larger than needed is decoded at a fraction of its size, 1.5 times the target or more.

    Raises:
        RejectedImageError: empty, truncated, not an image of a known kind, too large, or too small.
    """
    return decode_with_size(path, config)[0]


def decode_with_size(path: Path, config: PreprocessConfig) -> tuple[Image.Image, tuple[int, int]]:
    """Decode a file as `decode_image` does, and give the width and height of the whole upright image in pixels.

    Raises:
        RejectedImageError: the file cannot be used.
    """
    with _opened(path, config) as image:
        if image.format == "PNG":
            _check_sums(path)
        turn, profile = _turn(image), profile_of(image, path)
        size = _upright_size(image, turn)
        _scale_transparency(image)
        decoded = _reduced(image, path, math.ceil(_REDUCED_SIDE * config.resolution), turn) or _whole(image)
        rgb = _to_rgb(decoded, profile, config)
        rgb.info.clear()  # the file's metadata would otherwise go into whatever is saved of it, its orientation, too
        return rgb if turn is None else rgb.transpose(turn), size


def _check_sums(path: Path) -> None:
    """Refuse a PNG whose pixels were altered since it was written; Pillow decodes what is left of them.

    Whether something is missing, or another chunk is damaged, is left to the decoder, as viewers leave it.
    """
    with Image.open(path, formats=("PNG",)) as image:
        try:
            image.verify()
        except SyntaxError as error:
            if "IDAT" in str(error):
                raise RejectedImageError("a damaged PNG, whose pixels do not fit their checksum") from error
        except (OSError, struct.error, ValueError):
            return


def _scale_transparency(image: Image.Image) -> None:
    """Bring the grey that a PNG declares transparent to 8 bits, as Pillow brings its pixels.

    This comes before the image is loaded: after that Pillow no longer tells how many bits there were.
    """
    if not isinstance(image, PngImageFile) or "transparency" not in image.info or not image.tile:
        return
    samples = str(image.tile[0].args)
    if samples == "RGB;16B":  # Pillow drops the lower bytes of the pixels, and with them which pixels are meant
        raise RejectedImageError("a PNG of 16 bits that declares a colour transparent; save it with an alpha channel")
    image.info["transparency"] *= _PNG_SCALE.get(samples, 1)


def _reduced(image: Image.Image, path: Path, side: int, turn: Image.Transpose | None) -> Image.Image | None:
    """Decode a JPEG at as few eighths of its size as leave `side` pixels; None where Pillow is to decode all of it."""
    if image.format not in _JPEGS or image.mode not in _JPEG_COLOURS or min(image.size) <= side:
        return None
    if turn is not None and any(pixels % 8 for pixels in image.size):
        return None  # its last pixel would be a part of one, and after turning its first, which `to_square` cannot know
    colours, data = _JPEG_COLOURS[image.mode], path.read_bytes()
    try:
        pixels = simplejpeg.decode_jpeg(data, colours, min_width=side, min_height=side, min_factor=1)
    except ValueError:  # the decoder refuses files that Pillow only warns of, and Pillow decides what can be used
        return None
    return Image.fromarray(pixels.squeeze(2) if colours == "GRAY" else pixels)


def _whole(image: Image.Image) -> Image.Image:
    """Decode all of a file's first frame, and what is outside of it or nowhere visible as browsers do."""
    if image.info.get("default_image"):
        image.seek(1)  # what comes first is for programs that show no animations
    box = image.tile[0].extents if isinstance(image, GifImageFile) else None
    image.load()
    if box not in (None, (0, 0, *image.size)) and "transparency" not in image.info:
        framed = image.convert("RGBA")  # Pillow fills the rest of the canvas with the first colour of the palette
        visible = Image.new("L", image.size)
        visible.paste(255, box)
        framed.putalpha(visible)
        return framed
    if image.format == "BMP" and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        return image.convert("RGB")  # the byte was left empty, by a program that knows no alpha
    return image


def upright_size(path: Path, config: PreprocessConfig) -> tuple[int, int]:
    """The width and height in pixels of a file as a viewer shows it, without decoding its pixels.

    Raises:
        RejectedImageError: its header alone shows that the file cannot be used.
    """
    with _opened(path, config) as image:
        profile_of(image, path)
        return _upright_size(image, _turn(image))


def _upright_size(image: Image.Image, turn: Image.Transpose | None) -> tuple[int, int]:
    return (image.height, image.width) if turn in _SIDEWAYS else image.size


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How EXIF says that an image is to be turned; None for upright ones, and TIFFs, which Pillow turns by itself."""
    if image.format == "TIFF" or "exif" not in image.info:
        return None
    exif = Image.Exif()
    try:
        exif.load(image.info["exif"])
        return _TURNS.get(exif.get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, LookupError, TypeError, ValueError, struct.error):  # broken EXIF says nothing
        return None


@contextmanager
def _opened(path: Path, config: PreprocessConfig) -> Iterator[Image.Image]:
    """Open a file within Pillow's limits. Whatever goes wrong in the block is a fault of the file, so a rejection."""
    if path.stat().st_size == 0:
        raise RejectedImageError("the file is empty")
    pillow_limit, pillow_reads = Image.MAX_IMAGE_PIXELS, TiffImagePlugin.READ_LIBTIFF
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd metadata, and of sizes that are checked below
        try:
            Image.MAX_IMAGE_PIXELS = config.max_pixels
            TiffImagePlugin.READ_LIBTIFF = True  # Pillow's own reader gets 16 bits in planes wrong, and parts of pixels
            with Image.open(path, formats=_FORMATS) as image:
                _check_size(image, config)
                check_decoder(image, path)
                image.info.pop("xmp", None)  # Pillow would turn a TIFF as it says; browsers and libvips do not
                yield image
        except UnidentifiedImageError as error:
            raise RejectedImageError(what_it_is(path)) from error
        except Image.DecompressionBombError as error:
            raise RejectedImageError(f"more than {config.max_pixels} pixels") from error
        except RejectedImageError:
            raise
        except Exception as error:
            if limit_hit(error) is not None:
                raise
            reason = printable(" ".join(str(error).split()))[:120] or type(error).__name__
            raise RejectedImageError(f"cannot be decoded: {reason}") from error
        finally:
            Image.MAX_IMAGE_PIXELS, TiffImagePlugin.READ_LIBTIFF = pillow_limit, pillow_reads


def _check_size(image: Image.Image, config: PreprocessConfig) -> None:
    width, height = image.size
    if width * height > config.max_pixels:
        raise RejectedImageError(f"{width}x{height} is more than {config.max_pixels} pixels")
    if min(width, height) < _SMALLEST_SIDE:
        raise RejectedImageError(f"{width}x{height} is smaller than {_SMALLEST_SIDE} pixels a side")


def _to_rgb(image: Image.Image, profile: bytes | None, config: PreprocessConfig) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bit_grey(image)
    if not image.has_transparency_data:
        return _in_rgb(_to_srgb(image, profile))
    with_alpha = image.convert("RGBA")
    colours = with_alpha.convert("L" if image.mode in ("L", "LA", "1") else "RGB")
    opaque = Image.new("RGB", image.size, config.background_rgb)
    opaque.paste(_in_rgb(_to_srgb(colours, profile)), mask=with_alpha.getchannel("A"))
    return opaque


def _in_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")  # converting an RGB image would copy it


def _eight_bit_grey(image: Image.Image) -> Image.Image:
    """Scale 16 bits, or floating point from 0 to 1, to 8 bits, where Pillow would clip; with alpha if there is any."""
    values: np.ndarray[Any, Any] = np.asarray(image)
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if tags.get(BITSPERSAMPLE) == (12,):
        values = values << 4 | values >> 8
    if image.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise RejectedImageError("its floating-point pixels do not lie between 0 and 1")
        grey = Image.fromarray((values * 255 + 0.5).astype(np.uint8))
    elif values.min() < 0 or values.max() >= len(_SIXTEEN_TO_EIGHT):
        raise RejectedImageError("its whole-number pixels need more than 16 bits")
    else:
        grey = Image.fromarray(_SIXTEEN_TO_EIGHT[values])
    if tags.get(PHOTOMETRIC_INTERPRETATION) == _WHITE_IS_ZERO:
        grey = ImageOps.invert(grey)  # Pillow does so itself for 8 bits and fewer
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(values != image.info["transparency"]))
    return grey


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert to sRGB; a profile that is broken or does not fit is ignored, as other programs do."""
    if not profile:
        return image
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if image.mode not in _PROFILE_FITS.get(space, ()):
            return image
        fitting = image.convert(_PROFILE_MODE[space])
        converted = ImageCms.profileToProfile(fitting, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:
        return image
    assert converted is not None, "profileToProfile returns an image unless asked to work in place"
    return converted


def to_square(image: Image.Image, resolution: int, whole: tuple[int, int] | None = None) -> Image.Image:
    """Cut out the largest centred square and resize it with Lanczos to `resolution` pixels a side.

    Args:
        whole: width and height of the image before the decoder reduced it to a number of eighths, which may leave parts
            of pixels at its right and lower edges; None where it was not reduced.
    """
    width, height = whole or image.size
    side, eighths = min(width, height), 8 * image.width // width
    left, top = (width - side) // 2, (height - side) // 2
    box = [edge * eighths / 8 for edge in (left, top, left + side, top + side)]
    # The square is cut out first, since a resize with a box would mix in pixels from outside of it.
    x, y = math.floor(box[0]), math.floor(box[1])
    square = image.crop((x, y, math.ceil(box[2]), math.ceil(box[3])))
    within = (box[0] - x, box[1] - y, box[2] - x, box[3] - y)
    return square.resize((resolution, resolution), Image.Resampling.LANCZOS, within)
