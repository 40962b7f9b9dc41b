import dataclasses
import hashlib
import io
import random
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_engine.config.data import PreprocessConfig, SplitConfig
from lora_engine.data.decode import RejectedImageError, decode_image, to_square
from lora_engine.data.preprocess import PreparedImage, preprocess_images
from lora_engine.data.sidecars import read_sidecars
from lora_engine.data.sources import extract_archive, list_files
from lora_engine.data.split import assign, data_sha256
from lora_engine.errors import DataError
from lora_engine.records import SourceFile

CONFIG = PreprocessConfig(resolution=64)
GRADIENT = np.linspace(0, 255, 64, dtype=np.uint8)[None].repeat(48, axis=0)


def decoded(tmp_path: Path, image: Image.Image, kind: str, config: PreprocessConfig = CONFIG, **options: object):
    path = tmp_path / f"image.{kind.lower()}"
    image.save(path, kind, **options)
    return np.asarray(decode_image(path, config)).astype(int)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG"])
def test_every_kind_decodes_to_its_pixels(tmp_path: Path, kind: str) -> None:
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(kind, {})
    found = decoded(tmp_path, Image.fromarray(np.stack([GRADIENT, GRADIENT[:, ::-1], GRADIENT], -1)), kind, **options)
    assert found.shape == (48, 64, 3)
    tolerance = {"GIF": 12, "JPEG": 4}.get(kind, 0)
    assert np.abs(found[:, :, 0] - GRADIENT).max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGB"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.where(GRADIENT > 128, 255, 0).astype(np.uint8)).convert(mode)
    found = decoded(tmp_path, image, "TIFF" if mode == "CMYK" else "PNG")
    assert np.abs(found[:, :, 1] - np.where(GRADIENT > 128, 255, 0)).max() <= 2


def test_sixteen_bits_are_divided_not_clipped(tmp_path: Path) -> None:
    found = decoded(tmp_path, Image.fromarray(GRADIENT.astype(np.uint16) * 257), "PNG")
    assert np.abs(found[:, :, 0] - GRADIENT).max() <= 1


@pytest.mark.parametrize(("background", "value"), [("white", 255), ("black", 0), ("#804020", 128)])
def test_alpha_shows_the_background(tmp_path: Path, background: str, value: int) -> None:
    clear = Image.new("RGBA", (32, 32), (10, 20, 30, 0))
    config = CONFIG.model_copy(update={"background": background})
    assert decoded(tmp_path, clear, "PNG", config)[5, 5, 0] == value
    half = Image.new("LA", (32, 32), (0, 128))
    assert decoded(tmp_path, half, "PNG", config)[5, 5, 0] == pytest.approx(value / 2, abs=1)
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert decoded(tmp_path, palette, "PNG", config, transparency=1)[5, 5, 0] == value


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20), "white")
    image.paste("black", (0, 0, 40, 5))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise
    found = decoded(tmp_path, image, "JPEG", exif=exif, quality=95)
    assert found.shape == (40, 20, 3)
    assert found[20, 18, 0] < 60
    assert found[20, 2, 0] > 200


def test_only_the_first_frame_counts(tmp_path: Path) -> None:
    frames = [Image.new("L", (32, 32), 255), Image.new("L", (32, 32), 0)]
    assert decoded(tmp_path, frames[0], "GIF", save_all=True, append_images=frames[1:])[0, 0, 0] == 255


def test_the_square_is_centred() -> None:
    image = Image.new("RGB", (300, 100), "black")
    image.paste("white", (100, 0, 200, 100))
    assert np.asarray(to_square(image, 64)).min() >= 250


def bad_files() -> dict[str, bytes]:
    good = io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(good, "PNG")
    png, jpeg = good.getvalue(), io.BytesIO()
    Image.effect_noise((64, 64), 50).convert("RGB").save(jpeg, "JPEG")
    huge = bytearray(png)
    huge[16:24] = (60000).to_bytes(4, "big") * 2
    tiny = io.BytesIO()
    Image.new("RGB", (1, 1)).save(tiny, "PNG")
    ico = io.BytesIO()
    Image.new("RGB", (32, 32)).save(ico, "ICO")
    bad = {"empty": b"", "text": b"hello", "huge": bytes(huge), "tiny": tiny.getvalue(), "icon": ico.getvalue()}
    bad |= {"svg": b"<svg/>", "pdf": b"%PDF-1.4", "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n", "zeros": bytes(1000)}
    bad |= {f"png-{tenth}": png[: len(png) * tenth // 10] for tenth in range(1, 10)}
    bad |= {f"jpeg-{tenth}": jpeg.getvalue()[: len(jpeg.getvalue()) * tenth // 10] for tenth in range(1, 10)}
    return bad


@pytest.mark.parametrize(("name", "data"), bad_files().items(), ids=bad_files())
def test_what_cannot_be_used_is_rejected_with_a_reason(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / f"{name}.png"
    path.write_bytes(data)
    with pytest.raises(RejectedImageError) as caught:
        decode_image(path, CONFIG)
    assert str(caught.value)


def test_a_folder_is_prepared_in_order_and_once(tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for at in range(5):
        Image.effect_noise((70 + at, 50), 60).save(source / f"{at}.png")
    (source / "4.png").write_bytes(b"broken")
    (source / ".DS_Store").write_bytes(b"x")
    files = list(list_files(source))
    first = list(preprocess_images(files, CONFIG, out, workers=2))
    assert [image.source for image in first] == [file.key for file in files]
    assert [image.ignored for image in first] == [True, False, False, False, False, False]
    assert first[-1].rejected is not None
    assert (first[1].width, first[1].height) == (70, 50)
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert len(times) == 8
    assert list(preprocess_images(files, CONFIG, out, workers=1)) == first
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == times
    with Image.open(first[1].path) as square:
        assert (square.size, square.mode, square.info) == ((64, 64), "RGB", {})


def prepared(names: list[str], hashes: dict[str, int] | None = None) -> list[PreparedImage]:
    def perceptual(name: str) -> bytes:
        digest = hashlib.sha256(b"p" + name.encode()).digest()
        return (int.from_bytes(digest) ^ (hashes or {}).get(name, 0)).to_bytes(32)

    return [
        PreparedImage(hashlib.sha256(n.encode()).hexdigest(), n, 1, 64, 64, Path(n), Path(n), perceptual(n))
        for n in names
    ]


def test_a_new_image_moves_no_other() -> None:
    seed = 5
    print("seed", seed)
    dice = random.Random(seed)
    names = [f"{dice.random()}" for _ in range(400)]
    config = SplitConfig(validation_fraction=0.1, validation_min=1)
    before = {r.id: r.split for r in assign(prepared(names), CONFIG, config)}
    after = {r.id: r.split for r in assign(prepared([*names, "new"]), CONFIG, config)}
    assert {key: after[key] for key in before} == before
    assert 20 <= sum(split == "validation" for split in before.values()) <= 60


def test_near_duplicates_share_a_group_and_a_side() -> None:
    images = prepared([f"{i}" for i in range(60)])
    bits = int.from_bytes(images[0].perceptual_hash or b"")
    chain = [bits, bits ^ 0b111111, bits ^ 0b111111 ^ (0b111111 << 100)]  # each 6 bits from the next
    alike = [
        dataclasses.replace(image, perceptual_hash=value.to_bytes(32))
        for image, value in zip(prepared(["alike0", "alike1", "alike2"]), chain, strict=True)
    ]
    records = {r.source: r for r in assign([*images, *alike], CONFIG, SplitConfig())}
    together = [records[name] for name in ("0", "alike0", "alike1", "alike2")]
    assert {r.group for r in together} == {min(r.id for r in together)}
    assert len({r.split for r in together}) == 1


def test_small_sets_hold_out_enough_but_at_most_a_quarter() -> None:
    records = assign(prepared([f"{i}" for i in range(40)]), CONFIG, SplitConfig(validation_min=16))
    assert sum(r.split == "validation" for r in records) == 10


def test_exact_duplicates_are_used_once() -> None:
    images = prepared([f"{i}" for i in range(20)])
    copy = PreparedImage(images[3].id, "a-copy", 1, 64, 64, Path(), Path(), images[3].perceptual_hash)
    records = {r.source: r for r in assign([*images, copy], CONFIG, SplitConfig())}
    assert records["3"].duplicate_of is None
    assert sum(r.used for r in records.values()) == 20
    assert {records["3"].used, records["a-copy"].used} == {True, False}
    assert data_sha256(records.values()) == data_sha256(assign(images, CONFIG, SplitConfig()))


def test_too_many_rejected_files_end_the_run() -> None:
    bad = [PreparedImage("x", f"bad{i}", 1, rejected="the file is empty") for i in range(3)]
    with pytest.raises(DataError, match=r"3 of 23 .* bad0: the file is empty"):
        assign([*prepared([f"{i}" for i in range(20)]), *bad], CONFIG, SplitConfig())


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("members", "phrase"),
    [
        ({"../x.png": b"1"}, "leads out"),
        ({"/x.png": b"1"}, "leads out"),
        ({"a\\..\\x.png": b"1"}, "leads out"),
        ({"C:/x.png": b"1"}, "leads out"),
        ({"a/X.png": b"1", "a/x.PNG": b"2"}, "told apart"),
        ({"e\u0301.png": b"1", "\u00e9.png": b"2"}, "told apart"),
        ({"bomb.png": bytes(300 * 2**20)}, "would unpack"),
    ],
)
def test_archives_that_mean_harm_are_refused(tmp_path: Path, members: dict[str, bytes], phrase: str) -> None:
    archive = make_zip(tmp_path / "a.zip", members)
    with pytest.raises(DataError, match=phrase):
        list(extract_archive(archive, tmp_path / "out"))
    assert not (tmp_path / "x.png").exists()


def test_links_in_a_tar_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(DataError, match="link"):
        list(extract_archive(tmp_path / "a.tar", tmp_path / "out"))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_a_damaged_archive_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 this is not an archive" * 50)
    with pytest.raises(DataError, match=name):
        list(extract_archive(tmp_path / name, tmp_path / "out"))


def test_zip_and_tar_give_the_same_files(tmp_path: Path) -> None:
    members = {"b/2.png": b"two", "a.png": b"one", "b/2.txt": b"text"}
    make_zip(tmp_path / "a.zip", members)
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    for name in ("a.zip", "a.tgz"):
        files = extract_archive(tmp_path / name, tmp_path / f"out-{name}")
        assert {file.key: Path(file.path).read_bytes() for file in files} == members


def test_sidecars(tmp_path: Path) -> None:
    contents = {
        "a.png": b"",
        "a.txt": "\ufeff caf\u00e9 \n".encode(),
        "sub/b.png": b"",
        "sub/metadata.jsonl": b'{"file_name": "b.png", "text": "bee"}\n\n',
    }
    files = []
    for at, (key, data) in enumerate(contents.items()):
        (tmp_path / f"{at}").write_bytes(data)
        files.append(SourceFile(key, str(tmp_path / f"{at}")))
    assert read_sidecars(files) == {"a.png": "caf\u00e9", "sub/b.png": "bee"}
    (tmp_path / "3").write_bytes(b'{"file_name": "b.png"}\n')
    with pytest.raises(DataError, match=r"sub/metadata\.jsonl, line 1"):
        read_sidecars(files)
