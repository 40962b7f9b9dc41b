"""Decodes one image file to upright 8-bit RGB, or says why it cannot."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from lora_engine.config.data import PreprocessConfig

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_SMALLEST_SIDE = 8  # pixels; nothing can be learned from less


class RejectedImageError(Exception):
    """The file cannot be used; the message is the reason, for a person."""


def decode_image(path: Path, config: PreprocessConfig) -> Image.Image:
    """The first frame, upright, alpha over the background, profile converted to sRGB, mode RGB.

    A JPEG that is much larger than needed is decoded at a fraction of its size, at least twice the target.

    Raises:
        RejectedImageError: empty, truncated, not an image of a known kind, too large, or too small.
    """
    if path.stat().st_size == 0:
        raise RejectedImageError("the file is empty")
    with warnings.catch_warnings():
        # Pillow warns of odd metadata and of sizes that are checked below
        warnings.simplefilter("ignore")
        try:
            with Image.open(path, formats=_FORMATS) as image:
                _check_size(image, config)
                if image.format == "JPEG":
                    image.draft("RGB", (2 * config.resolution, 2 * config.resolution))
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image), config)
        except UnidentifiedImageError as error:
            raise RejectedImageError("not a JPEG, PNG, WebP, GIF, BMP or TIFF image") from error
        except Image.DecompressionBombError as error:
            raise RejectedImageError(f"more than {config.max_pixels} pixels") from error
        except RejectedImageError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise RejectedImageError(f"cannot be decoded: {reason}") from error


def _check_size(image: Image.Image, config: PreprocessConfig) -> None:
    width, height = image.size
    if width * height > config.max_pixels:
        raise RejectedImageError(f"{width}x{height} is more than {config.max_pixels} pixels")
    if min(width, height) < _SMALLEST_SIDE:
        raise RejectedImageError(f"{width}x{height} is smaller than {_SMALLEST_SIDE} pixels a side")


def _to_rgb(image: Image.Image, config: PreprocessConfig) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _wide_to_rgb(image)
    image = _to_srgb(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, (*config.background_rgb, 255))
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque.convert("RGB")
    return image.convert("RGB")


def _wide_to_rgb(image: Image.Image) -> Image.Image:
    """16 bits to 8 by dividing, where Pillow would clip."""
    values = np.asarray(image, dtype=np.float64)
    if image.mode == "F" and values.max(initial=0) <= 1:
        values = values * 65535
    eight_bit = np.clip(values / 257 + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(eight_bit).convert("RGB")


def _to_srgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:
        return image  # a profile that does not fit the pixels is common, and other programs ignore it too
    assert converted is not None, "profileToProfile returns an image unless asked to work in place"
    return converted


def to_square(image: Image.Image, resolution: int) -> Image.Image:
    """The largest centred square, resized with Lanczos to `resolution` pixels a side."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    # cropped first: a resize with a box would mix in pixels from outside it
    square = image.crop((left, top, left + side, top + side))
    return square.resize((resolution, resolution), Image.Resampling.LANCZOS)
