"""What the pictures show, and its bytes in a file."""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

SIDE = 24  # pixels


def drawing() -> Image.Image:
    """Two gradients and six patches: turned, mirrored, striped or recoloured, it looks different."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] * 255 // (SIDE - 1)
    image = Image.fromarray(np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8))
    for at, colour in enumerate(("black", "red", "lime", "blue", "white", (200, 120, 60))):
        image.paste(colour, (6 * (at % 3), 6 * (at // 3), 6 * (at % 3) + 6, 6 * (at // 3) + 6))
    return image


def grey() -> Image.Image:
    """The drawing without its colours."""
    return drawing().convert("L")


def alpha() -> Image.Image:
    """Opaque at the top, transparent at the bottom."""
    rows = np.linspace(255, 0, SIDE).astype(np.uint8)
    return Image.fromarray(np.repeat(rows[:, None], SIDE, axis=1))


def with_alpha() -> Image.Image:
    """The drawing, ever more transparent."""
    image = drawing().convert("RGBA")
    image.putalpha(alpha())
    return image


def grey_with_alpha() -> Image.Image:
    """The same without colours."""
    return Image.merge("LA", (grey(), alpha()))


def deep(image: Image.Image | None = None) -> np.ndarray[Any, Any]:
    """The drawing in 16 bits."""
    return np.asarray(image or drawing()).astype(np.uint16) * 257


def frame() -> Image.Image:
    """A second picture, all orange."""
    return Image.new("RGB", (SIDE, SIDE), "orange")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of the file that Pillow writes."""
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def swapped_profile() -> bytes:
    """An ICC profile of sRGB with red and blue exchanged: who heeds it sees red as blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"temp").replace(b"bXYZ", b"rXYZ").replace(b"temp", b"bXYZ")


def exif(orientation: int) -> Image.Exif:
    """EXIF that says how the picture is to be turned."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def xmp(orientation: int) -> bytes:
    """The same in XMP."""
    about = (
        f'<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
    )
    rdf = f'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{about}</rdf:RDF>'
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{rdf}</x:xmpmeta>'.encode()


def text(key: str, value: str) -> PngImagePlugin.PngInfo:
    """An international text of a PNG."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(key, value)
    return info
