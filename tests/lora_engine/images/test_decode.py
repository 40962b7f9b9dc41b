import io
import struct
import warnings
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import ExifTags, Image, ImageCms, ImageDraw, ImageOps, PngImagePlugin

from lora_engine.config.data import PreprocessConfig
from lora_engine.images.decode import RejectedImageError, decode_image, decode_with_size, to_square, upright_size
from tests.lora_engine.images.hostile import chunk, png, tiff

CONFIG = PreprocessConfig(resolution=64)
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 100, 50), (0, 0, 0), (255, 255, 255), (17, 34, 51), (128,) * 3]


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def decoded(tmp_path: Path, data: bytes, config: PreprocessConfig = CONFIG) -> np.ndarray[Any, Any]:
    (tmp_path / "file").write_bytes(data)
    image = decode_image(tmp_path / "file", config)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def patches(mode: str = "RGB") -> Image.Image:
    """A patch of 16x16 pixels for each of COLOURS."""
    image = Image.new("RGB", (16 * len(COLOURS), 16))
    for at, colour in enumerate(COLOURS):
        image.paste(colour, (16 * at, 0, 16 * at + 16, 16))
    return image.convert(mode)


def patch_colours(pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return pixels[8, 8::16]


@pytest.mark.parametrize(
    ("mode", "kind", "options", "tolerance"),
    [
        ("RGB", "PNG", {}, 0),
        ("RGB", "BMP", {}, 0),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}, 0),
        ("RGB", "WEBP", {"lossless": True}, 0),
        ("RGB", "JPEG", {"quality": 95, "subsampling": 0}, 3),
        ("RGB", "JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 3),
        ("RGBA", "PNG", {}, 0),
        ("RGBA", "WEBP", {"lossless": True}, 0),
        ("RGBX", "TIFF", {}, 0),
        ("P", "PNG", {}, 0),
        ("P", "GIF", {}, 0),
        ("CMYK", "TIFF", {}, 0),
        ("CMYK", "JPEG", {"quality": 95}, 3),  # with Adobe's marker, so stored inverted
        ("YCbCr", "TIFF", {}, 2),
    ],
)
def test_colours_survive(tmp_path: Path, mode: str, kind: str, options: dict[str, Any], tolerance: int) -> None:
    image = patches().convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else patches(mode)
    found = patch_colours(decoded(tmp_path, saved(image, kind, **options)))
    assert np.abs(found - np.array(COLOURS)).max() <= tolerance


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("L", "JPEG"), ("LA", "PNG"), ("1", "PNG"), ("1", "TIFF")])
def test_grey_is_equal_in_all_channels(tmp_path: Path, mode: str, kind: str) -> None:
    steps = [0, 255] if mode == "1" else [0, 60, 128, 255]
    image = Image.new("L", (16 * len(steps), 16))
    for at, value in enumerate(steps):
        image.paste(value, (16 * at, 0, 16 * at + 16, 16))
    found = patch_colours(decoded(tmp_path, saved(image.convert(mode), kind)))
    assert np.abs(found - np.array(steps)[:, None]).max() <= (2 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "big-endian TIFF"])
def test_a_sixteen_bit_gradient_keeps_its_shape(tmp_path: Path, kind: str) -> None:
    values = np.linspace(0, 65535, 256 * 16).astype(np.uint16).reshape(16, 256)
    stored = values.astype(">u2") if kind.startswith("big") else values
    found = decoded(tmp_path, saved(Image.fromarray(stored), kind.split()[-1]))
    assert np.abs(found[..., 0] / 255 - values / 65535).max() <= 0.5001 / 255
    assert (found[..., 0] == found[..., 2]).all()


def test_sixteen_bit_colour_keeps_its_high_bytes(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + struct.pack(">3H", 65535, 32896, 0) * 16 for _ in range(16))
    chunks = [(b"IHDR", struct.pack(">2I5B", 16, 16, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    assert np.abs(decoded(tmp_path, png)[8, 8] - [255, 128, 0]).max() <= 1


def test_wide_whole_and_floating_point_pixels_are_scaled(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 256).reshape(16, 16)
    for stored in ((values * 65535).astype(np.int32), values.astype(np.float32)):
        found = decoded(tmp_path, saved(Image.fromarray(stored), "TIFF"))
        assert np.abs(found[..., 0] / 255 - values).max() <= 0.51 / 255


@pytest.mark.parametrize(
    ("background", "rgb"), [("white", (255,) * 3), ("grey", (128,) * 3), ("#204080", (32, 64, 128))]
)
def test_alpha_lies_on_the_background(tmp_path: Path, background: str, rgb: tuple[int, int, int]) -> None:
    config = CONFIG.model_copy(update={"background": background})
    for alpha in (0, 64, 255):
        for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
            data = saved(Image.new("RGBA", (16, 16), (200, 100, 0, alpha)), kind, **options)
            expected = np.array((200, 100, 0)) * alpha / 255 + np.array(rgb) * (1 - alpha / 255)
            assert np.abs(decoded(tmp_path, data, config)[8, 8] - expected).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_entries_and_colours(tmp_path: Path, kind: str) -> None:
    palette = Image.new("P", (16, 16), 1)
    palette.paste(2, (0, 0, 8, 16))
    palette.putpalette([0, 0, 0, 9, 9, 9, 70, 80, 90])
    found = decoded(tmp_path, saved(palette, kind, transparency=1))
    assert (found[8, 4].tolist(), found[8, 12].tolist()) == ([70, 80, 90], [255, 255, 255])


@pytest.mark.parametrize(("mode", "key"), [("L", 40), ("RGB", (40, 40, 40))])
def test_a_colour_declared_transparent(tmp_path: Path, mode: str, key: Any) -> None:
    image = Image.new(mode, (16, 16), key)
    image.paste(Image.new(mode, (8, 16)), (0, 0))
    found = decoded(tmp_path, saved(image, "PNG", transparency=key))
    assert (found[8, 4].tolist(), found[8, 12].tolist()) == ([0, 0, 0], [255, 255, 255])


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_grey_declared_transparent_at_any_depth(tmp_path: Path, depth: int) -> None:
    """Darkest on the left and transparent, lightest on the right."""
    row = bytes(2 * depth) + b"\xff" * (2 * depth)
    found = decoded(tmp_path, png(32, 32, depth, 0, (b"\0" + row) * 32, chunk(b"tRNS", b"\0\0")))
    assert (found[8, 4].tolist(), found[8, 28].tolist()) == ([255] * 3, [255] * 3)
    config = CONFIG.model_copy(update={"background": "#204080"})
    highest = chunk(b"tRNS", (2**depth - 1).to_bytes(2, "big"))
    found = decoded(tmp_path, png(32, 32, depth, 0, (b"\0" + row) * 32, highest), config)
    assert (found[8, 4].tolist(), found[8, 28].tolist()) == ([0] * 3, [32, 64, 128])


def test_of_sixteen_bits_only_the_very_grey_is_transparent(tmp_path: Path) -> None:
    rows = (b"\0" + struct.pack(">16H", *[30_000] * 8, *[30_001] * 8)) * 16
    found = decoded(tmp_path, png(16, 16, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 30_000))))
    assert (found[8, 4].tolist(), found[8, 12].tolist()) == ([255] * 3, [117] * 3)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_a_tiff_whose_white_is_zero(tmp_path: Path, bits: int) -> None:
    white = struct.pack("<f", 0.25) if bits == 32 else (2 ** (bits - 2)).to_bytes(bits // 8, "little")
    for is_black, expected in ((0, 191), (1, 64)):
        entries = {258: (3, 1, bits), 262: (3, 1, is_black), 277: (3, 1, 1), 339: (3, 1, 3 if bits == 32 else 1)}
        found = decoded(tmp_path, tiff(entries, white * 64 * 64))
        assert np.abs(found[8, 8] - expected).max() <= 1


def test_a_tiff_of_twelve_bits_is_scaled(tmp_path: Path) -> None:
    for stored, expected in ((b"\xff\xff\xff", 255), (b"\x80\x08\x00", 128), (b"\0\0\0", 0)):
        entries = {258: (3, 1, 12), 262: (3, 1, 1), 277: (3, 1, 1)}
        assert (decoded(tmp_path, tiff(entries, stored * 32 * 64)) == expected).all()


def swapped_profile() -> bytes:
    """sRGB with red and blue exchanged: who heeds it sees red as blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert profile.count(b"rXYZ") == profile.count(b"bXYZ") == 1
    return profile.replace(b"rXYZ", b"temp").replace(b"bXYZ", b"rXYZ").replace(b"temp", b"bXYZ")


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_an_embedded_profile_is_converted_to_srgb(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (16, 16), (255, 0, 0)).convert(mode)
    found = decoded(tmp_path, saved(image, "PNG", icc_profile=swapped_profile()))[8, 8]
    assert np.abs(found - [0, 0, 255]).max() <= 3


def test_the_background_is_no_part_of_the_profile(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"background": "#ff0000"})
    data = saved(Image.new("RGBA", (16, 16), (255, 0, 0, 0)), "PNG", icc_profile=swapped_profile())
    assert decoded(tmp_path, data, config)[8, 8].tolist() == [255, 0, 0]


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_under_an_srgb_profile_stays(tmp_path: Path, mode: str) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.new("I;16", (16, 16), 100 * 257) if mode == "I;16" else Image.new("L", (16, 16), 100).convert(mode)
    assert np.abs(decoded(tmp_path, saved(image, "PNG", icc_profile=profile))[8, 8] - 100).max() <= 1


def test_profiles_that_are_broken_or_do_not_fit_are_ignored(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (b"junk" * 50, lab, swapped_profile()[:200]):
        data = saved(Image.new("RGB", (16, 16), (9, 8, 7)), "PNG", icc_profile=profile)
        assert decoded(tmp_path, data)[8, 8].tolist() == [9, 8, 7]
    cmyk = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "TIFF", icc_profile=swapped_profile())
    assert decoded(tmp_path, cmyk)[8, 8].tolist() == [255, 0, 0]


# where the dark top left corner of the stored pixels is to be seen
@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (0, 0)), (2, (0, -1)), (3, (-1, -1)), (4, (-1, 0)), (5, (0, 0)), (6, (0, -1)), (7, (-1, -1)), (8, (-1, 0))],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation(tmp_path: Path, kind: str, orientation: int, corner: tuple[int, int]) -> None:
    image = Image.new("RGB", (48, 32), "white")
    image.paste("black", (0, 0, 12, 12))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decoded(tmp_path, saved(image, kind, exif=exif))
    expected = (48, 32) if orientation < 5 else (32, 48)
    assert (found.shape[1], found.shape[0]) == expected == upright_size(tmp_path / "file", CONFIG)
    dark = {(y, x) for y in (0, -1) for x in (0, -1) if found[y, x, 0] < 60}
    assert dark == {corner}


def test_broken_exif_is_ignored(tmp_path: Path) -> None:
    data = saved(Image.new("RGB", (16, 12)), "JPEG", exif=b"Exif\0\0neither II nor MM")
    assert decoded(tmp_path, data).shape == (12, 16, 3)
    assert upright_size(tmp_path / "file", CONFIG) == (16, 12)


def test_a_large_jpeg_is_decoded_reduced_but_at_one_and_a_half_times_the_target(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 1600), (1200, 1600)).astype(np.uint8)
    data = saved(Image.fromarray(ramp), "JPEG", quality=95)
    found = decoded(tmp_path, data)
    assert 96 <= found.shape[0] < 1200
    assert upright_size(tmp_path / "file", CONFIG) == (1600, 1200)
    full = to_square(Image.fromarray(ramp), 64)
    reduced = to_square(decode_image(tmp_path / "file", CONFIG), 64)
    assert np.abs(np.asarray(full).astype(int) - np.asarray(reduced.convert("L"))).max() <= 2


def circles(side: int) -> Image.Image:
    image = Image.new("RGB", (2 * side, 2 * side), "white")
    draw = ImageDraw.Draw(image)
    for at in range(20):
        x, y, width = 97 * at % side, 61 * at % side, 3 + at % 11
        draw.ellipse((x, y, x + side // 2 + 9 * at, y + side // 2 + 5 * at), outline="black", width=width)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def decibels(a: Image.Image, b: Image.Image) -> float:
    return float(20 * np.log10(255 / np.sqrt(np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2))))


# To take bicubic instead of Lanczos changes these squares by 42 to 43 dB; at once to the target's side, by 31 to 37.
@pytest.mark.parametrize(
    ("size", "reduced_to"),
    [
        ((576, 576), (576, 576)),
        ((640, 640), (640, 640)),
        ((800, 800), (600, 600)),
        ((1000, 1000), (625, 625)),
        ((1151, 1151), (576, 576)),
        ((1152, 1152), (576, 576)),
        ((1304, 1304), (652, 652)),
        ((1536, 1536), (576, 576)),
        ((2300, 2300), (863, 863)),
        ((2304, 2304), (576, 576)),
        ((701, 907), (614, 794)),
        ((1158, 869), (869, 652)),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_reducing_while_decoding_hardly_changes_a_drawing(
    tmp_path: Path, size: tuple[int, int], reduced_to: tuple[int, int], mode: str
) -> None:
    data = saved(circles(max(size)).crop((0, 0, *size)).convert(mode), "JPEG", quality=90)
    (tmp_path / "file").write_bytes(data)
    reduced, whole_size = decode_with_size(tmp_path / "file", PreprocessConfig(resolution=384))
    assert (reduced.mode, reduced.size, whole_size) == ("RGB", reduced_to, size)
    whole = to_square(Image.open(io.BytesIO(data)).convert("RGB"), 384)
    if reduced_to == size:
        assert to_square(reduced, 384, size).tobytes() == whole.tobytes()
    else:
        assert decibels(to_square(reduced, 384, size), whole) > 40


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(1000, 800), (997, 801)])
def test_a_jpeg_that_is_turned_has_the_square_of_the_whole(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = saved(circles(1000).crop((0, 0, *size)), "JPEG", quality=90, exif=exif)
    (tmp_path / "file").write_bytes(data)
    whole = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    image, found = decode_with_size(tmp_path / "file", PreprocessConfig(resolution=384))
    assert found == whole.size
    if orientation == 1 or size == (1000, 800):
        assert image.width < whole.width
        assert decibels(to_square(image, 384, found), to_square(whole, 384)) > 40
    else:
        assert to_square(image, 384, found).tobytes() == to_square(whole, 384).tobytes()


def test_a_reduced_jpeg_is_turned_and_converted_as_any_other(tmp_path: Path) -> None:
    stored = Image.new("RGB", (400, 320), "blue")
    stored.paste("red", (0, 0, 400, 160))  # above, so on the right when a viewer has turned it
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    (tmp_path / "file").write_bytes(saved(stored, "JPEG", exif=exif, icc_profile=swapped_profile()))
    image, size = decode_with_size(tmp_path / "file", CONFIG)
    assert (image.size, size) == ((120, 150), (320, 400))
    assert [np.argmax(image.getpixel((x, 60))) for x in (30, 90)] == [0, 2], "its profile swaps red and blue"


def test_a_damaged_jpeg_is_what_pillow_makes_of_it(tmp_path: Path) -> None:
    data = bytearray(saved(circles(800), "JPEG", quality=90))
    for at in range(len(data) // 2, len(data) // 2 + 400, 40):
        data[at] ^= 0x55
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ValueError, match=r"(?i)corrupt|bad|extraneous"):
        simplejpeg.decode_jpeg(bytes(data))
    assert decode_image(tmp_path / "file", CONFIG).tobytes() == Image.open(io.BytesIO(data)).tobytes()


def test_a_phone_s_photograph_with_a_map_behind_it_is_reduced_as_any_other(tmp_path: Path) -> None:
    photograph, behind = circles(1000), Image.new("RGB", (500, 500), "red")
    both = saved(photograph, "MPO", save_all=True, append_images=[behind], quality=90)
    with Image.open(io.BytesIO(both)) as opened:
        assert (opened.format, opened.n_frames) == ("MPO", 2)
    config = PreprocessConfig(resolution=384)
    found = decoded(tmp_path, both, config)
    assert found.shape == (625, 625, 3)
    np.testing.assert_array_equal(found, decoded(tmp_path, saved(photograph, "JPEG", quality=90), config))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_only_the_first_frame_counts(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime")]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert decoded(tmp_path, data)[8, 8, 0] >= 250


@pytest.mark.parametrize(("size", "box"), [((301, 100), (100, 0, 200, 100)), ((100, 300), (0, 100, 100, 200))])
def test_the_square_is_the_middle_and_nothing_else(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    image = Image.new("RGB", size, "black")
    image.paste("white", box)
    for resolution in (64, 256):
        square = to_square(image, resolution)
        assert (square.size, np.asarray(square).min()) == ((resolution, resolution), 255)


def with_size(png: bytes, width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">2I", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def text_bomb() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 2**23, zip=True)
    return saved(Image.new("RGB", (16, 16)), "PNG", pnginfo=info)


@cache
def bad_files() -> dict[str, bytes]:
    noise = Image.effect_noise((64, 64), 80).convert("RGB")
    good = {kind: saved(noise, kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")}
    bad = {f"half a {kind}": data[: len(data) // 2] for kind, data in good.items()}
    bad |= {f"head of a {kind}": data[:40] for kind, data in good.items()}
    bad |= {f"signature of a {kind}": data[:8] for kind, data in good.items()}
    other = {kind: saved(noise, kind) for kind in ("ICO", "PPM", "TGA", "PCX", "JPEG2000", "ICNS", "PDF", "EPS")}
    bad |= {f"a {kind}": data for kind, data in other.items()}
    flipped = bytearray(good["PNG"])
    flipped[len(flipped) // 2] ^= 0xFF
    bad |= {"empty": b"", "zeros": bytes(4096), "text": b"a heart\n", "html": b"<!DOCTYPE html><html></html>"}
    bad |= {
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        "zip": b"PK\x03\x04" + bytes(60),
        "flipped": bytes(flipped),
    }
    bad |= {"no pixels": with_size(good["PNG"], 0, 64), "huge": with_size(good["PNG"], 60_000, 60_000)}
    bad |= {"huge beyond Pillow": with_size(good["PNG"], 2**31 - 1, 2**31 - 1), "text bomb": text_bomb()}
    bad |= {"1x1": saved(Image.new("RGB", (1, 1)), "PNG"), "7x900": saved(Image.new("RGB", (7, 900)), "PNG")}
    for name, value in (("nan", np.nan), ("infinite", np.inf), ("too bright", 200.0), ("negative", -0.5)):
        bad[name] = saved(Image.fromarray(np.full((16, 16), value, np.float32)), "TIFF")
    bad["16-bit colour declared transparent"] = png(16, 16, 16, 2, bytes(97 * 16), chunk(b"tRNS", bytes(6)))
    bad["32 bits"] = saved(Image.fromarray(np.full((16, 16), 2**20, np.int32)), "TIFF")
    bad["negative whole"] = saved(Image.fromarray(np.full((16, 16), -5, np.int32)), "TIFF")
    return bad


@pytest.mark.parametrize("name", bad_files())
def test_what_cannot_be_used_is_rejected_with_a_reason(tmp_path: Path, name: str) -> None:
    with pytest.raises(RejectedImageError) as caught:
        decoded(tmp_path, bad_files()[name])
    assert 10 < len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_reasons_say_what_is_wrong(tmp_path: Path) -> None:
    bad = bad_files()
    reasons = {
        "empty": "the file is empty",
        "text": "not a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF image",
        "huge": "more than 100000000 pixels",
        "7x900": "7x900 is smaller than 8 pixels a side",
        "32 bits": "its whole-number pixels need more than 16 bits",
        "16-bit colour declared transparent": "a PNG of 16 bits that declares a colour transparent",
        "too bright": "its floating-point pixels do not lie between 0 and 1",
    }
    for name, reason in reasons.items():
        with pytest.raises(RejectedImageError, match=reason):
            decoded(tmp_path, bad[name])


def test_a_png_with_an_altered_byte_is_refused(tmp_path: Path) -> None:
    """Pillow decodes some of them, to other pixels."""
    saved = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(saved, "PNG")
    data = bytearray(saved.getvalue())
    start = data.index(b"IDAT") + 4
    for at in range(start + 10, len(data) - 20, len(data) // 40):
        altered = bytes(data[:at]) + bytes([data[at] ^ 1]) + bytes(data[at + 1 :])
        with pytest.raises(RejectedImageError):
            decoded(tmp_path, altered)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "a HEIC image.*`heif-convert`"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heixmiaf" + bytes(99), "a HEIC image"),
        (b"\0\0\0\x14ftypheim\0\0\0\0heim" + bytes(99), "a HEIC image"),
        (b"\xff\x0a\xfa\x7f\x01" + bytes(99), "a JPEG XL image.*`djxl`"),
        (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl " + bytes(99), "a JPEG XL image"),
        (b"\0\0\0\x1cftypisom\0\0\2\0isomiso2mp41" + bytes(99), "not a JPEG, PNG, WebP, AVIF"),
        (tiff({258: (3, 1, 64), 262: (3, 1, 1), 277: (3, 1, 1), 339: (3, 1, 3)}), "of floating-point grey in 64 bits"),
        (tiff({262: (3, 1, 32803)}), "a damaged TIFF"),
        (b"II*\0\x08\0\0\0", "a damaged TIFF"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a damaged PNG"),
    ],
)
def test_other_kinds_are_named_for_what_they_are(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(RejectedImageError, match=reason):
        decode_image(tmp_path / "a.jpg", CONFIG)


def test_a_reason_to_reject_that_the_header_holds_is_seen_without_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(64, 64, 8, 2, b"", chunk(b"cICP", bytes([9, 16, 0, 1]))))
    with pytest.raises(RejectedImageError, match="an HDR image"):
        upright_size(path, CONFIG)


@pytest.mark.parametrize("gamma", [0, 1, 7, 2**31, 2**32 - 1])
@pytest.mark.parametrize("primaries", [None, (0,) * 8, (2**32 - 1,) * 8, (31270, 32900, *(64000, 33000) * 3), (1,) * 8])
def test_colours_that_no_screen_has_are_no_trouble(tmp_path: Path, gamma: int, primaries: tuple[int, ...]) -> None:
    chunks = [chunk(b"gAMA", struct.pack(">I", gamma))]
    if primaries:
        chunks.append(chunk(b"cHRM", struct.pack(">8I", *primaries)))
    rows = (b"\0" + bytes(range(48))) * 16
    assert decoded(tmp_path, png(16, 16, 8, 2, rows, *chunks)).shape == (16, 16, 3)


def test_the_background_is_under_what_a_gif_leaves_free(tmp_path: Path) -> None:
    data = saved(Image.new("RGB", (8, 8), "lime"), "GIF")
    canvas = data[:6] + struct.pack("<2H", 20, 20) + data[10:]
    config = CONFIG.model_copy(update={"background": "#204080"})
    found = decoded(tmp_path, canvas, config)
    assert (found[:8, :8] == (0, 255, 0)).all()
    assert (found[8:] == (32, 64, 128)).all()
    assert (found[:, 8:] == (32, 64, 128)).all()


def test_metadata_stays_in_the_file(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    (tmp_path / "file").write_bytes(saved(Image.new("RGB", (16, 16)), "PNG", exif=exif, dpi=(72, 72)))
    assert decode_image(tmp_path / "file", CONFIG).info == {}


def test_the_declared_limit_rules_not_pillows(tmp_path: Path) -> None:
    path, before = tmp_path / "a.png", Image.MAX_IMAGE_PIXELS
    jpeg = saved(Image.new("RGB", (16, 16)), "JPEG")
    start = jpeg.index(b"\xff\xc0") + 5
    path.write_bytes(jpeg[:start] + struct.pack(">2H", 20_000, 20_000) + jpeg[start + 4 :])
    assert upright_size(path, CONFIG.model_copy(update={"max_pixels": 10**9})) == (20_000, 20_000)
    path.write_bytes(saved(Image.new("RGB", (100, 60)), "PNG"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RejectedImageError, match="100x60 is more than 4096 pixels"):
            decode_image(path, CONFIG.model_copy(update={"max_pixels": 4096}))
    assert before == Image.MAX_IMAGE_PIXELS
