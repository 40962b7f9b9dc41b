import errno
import hashlib
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lora_engine.config.data import PreprocessConfig, SplitConfig
from lora_engine.errors import DataError, EngineError, ResourceError, UnsafeError
from lora_engine.images.kinds import HIDDEN
from lora_engine.images.perceptual_hash import perceptual_hash
from lora_engine.images.prepare import pixels_key, prepare, preprocess_images
from lora_engine.images.sources import extract_archive, list_files
from lora_engine.images.split import assign
from lora_engine.images.squares import read_square, write_square
from lora_engine.records import SourceFile

CONFIG = PreprocessConfig(resolution=64)


def noise_png(seed: int, side: int = 80) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def bits_apart(a: Image.Image, b: Image.Image) -> int:
    words = [int.from_bytes(perceptual_hash(image)) for image in (a, b)]
    return (words[0] ^ words[1]).bit_count()


def symmetric(inset: int, round_: bool) -> Image.Image:
    image = Image.new("RGB", (256, 256), "white")
    draw = ImageDraw.Draw(image)
    (draw.ellipse if round_ else draw.rectangle)((inset, inset, 255 - inset, 255 - inset), outline="black", width=9)
    return image


@pytest.mark.parametrize("inset", [20, 45, 70, 95])
@pytest.mark.parametrize("round_", [True, False])
def test_copies_of_symmetric_drawings_stay_within_the_distance(inset: int, round_: bool) -> None:
    original = symmetric(inset, round_)
    for side, quality in ((256, 90), (256, 60), (128, 90), (192, 75)):
        data = io.BytesIO()
        original.resize((side, side), Image.Resampling.LANCZOS).save(data, "JPEG", quality=quality)
        assert bits_apart(original, Image.open(data)) <= CONFIG.near_duplicate_distance


def test_different_drawings_and_blank_pages_hash_as_they_look() -> None:
    for a, b in pairwise([symmetric(20, True), symmetric(20, False), symmetric(70, True), symmetric(70, False)]):
        assert bits_apart(a, b) > 2 * CONFIG.near_duplicate_distance
    blanks = [Image.new("RGB", (64, 64), (value,) * 3) for value in (0, 77, 128, 255)]
    assert max(bits_apart(blanks[0], blank) for blank in blanks) <= CONFIG.near_duplicate_distance
    assert bits_apart(blanks[3], symmetric(45, True)) > 2 * CONFIG.near_duplicate_distance


def test_a_prepared_square_is_the_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(noise_png(0, side=64))
    made = prepare(SourceFile("a.png", str(tmp_path / "a.png")), CONFIG, tmp_path)
    assert made.path is not None
    assert made.thumbnail is not None
    assert made.perceptual_hash is not None
    with Image.open(made.path) as square, Image.open(tmp_path / "a.png") as original:
        assert (np.asarray(square) == np.asarray(original)).all()
    with Image.open(io.BytesIO(made.thumbnail)) as small:
        assert (small.format, small.size) == ("WEBP", (64, 64))
    assert len(made.perceptual_hash) == 128


def test_nothing_of_the_file_but_pixels_is_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    Image.new("RGB", (400, 300), "red").save(tmp_path / "a.jpg", exif=exif, comment=b"private", dpi=(9, 9))
    made = prepare(SourceFile("a.jpg", str(tmp_path / "a.jpg")), CONFIG, tmp_path)
    assert made.path is not None
    assert made.thumbnail is not None
    for content in (made.path.read_bytes(), made.thumbnail):
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            assert not image.getexif()
            assert not {"comment", "dpi", "exif", "icc_profile"} & set(image.info)


def test_finished_work_is_read_back_and_half_written_work_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(noise_png(1))
    file = SourceFile("a.png", str(tmp_path / "a.png"))
    made = prepare(file, CONFIG, tmp_path)
    assert made.path is not None
    write_square(Image.new("RGB", (64, 64), "lime"), made.path)  # tells what is read back from what is made
    again = prepare(file, CONFIG, tmp_path)
    assert again.perceptual_hash != made.perceptual_hash


def test_a_square_that_was_planted_moved_or_damaged_is_made_again_and_never_used(tmp_path: Path) -> None:
    folder = tmp_path / f"images-{pixels_key(CONFIG)}"
    folder.mkdir()
    (tmp_path / "a.png").write_bytes(noise_png(1))
    file = SourceFile("a.png", str(tmp_path / "a.png"))
    made = prepare(file, CONFIG, folder)
    assert made.path is not None
    content, plain = made.path.read_bytes(), io.BytesIO()
    Image.new("RGB", (64, 64), "lime").save(plain, "PPM")
    others = (folder / "other.ppm", tmp_path / made.path.name)  # of another image, and of other settings
    for other in others:
        write_square(Image.new("RGB", (64, 64), "lime"), other)
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    wrong = {"flipped": flipped, "empty": b"", "cut off": content[: len(content) // 2], "longer": content + b"\0"}
    wrong |= {"planted": plain.getvalue(), "another's": others[0].read_bytes(), "moved": others[1].read_bytes()}
    for what, data in wrong.items():
        made.path.write_bytes(data)
        with pytest.raises(UnsafeError, match="is not the image that was prepared"):
            read_square(made.path)
        assert prepare(file, CONFIG, folder) == made, what
        assert made.path.read_bytes() == content
    assert not list(folder.glob("*.part"))


def test_only_what_decides_the_pixels_names_the_folder() -> None:
    def key(**changes: object) -> str:
        return pixels_key(CONFIG.model_copy(update=changes))

    assert key(near_duplicate_distance=9, max_rejected_fraction=0.5, max_pixels=10**6) == key()
    assert len({key(), key(resolution=128), key(background="black")}) == 3


def test_every_file_gets_its_row_in_order(tmp_path: Path) -> None:
    contents = {f"{at:02d}.png": noise_png(at) for at in range(40)}
    contents |= {"05.png": b"broken", "notes.pdf": b"%PDF-1.4", "in.zip": b"PK\3\4", "Thumbs.db": noise_png(0)}
    contents["copy.png"] = contents["03.png"]
    source = tmp_path / "in"
    source.mkdir()
    for key, data in contents.items():
        (source / key).write_bytes(data)
    files = list(list_files(source))
    rows = list(preprocess_images(files, CONFIG, tmp_path / "out", workers=2))
    assert [row.source for row in rows] == [file.key for file in files] == sorted(contents)
    by_key = {row.source: row for row in rows}
    assert {key for key, row in by_key.items() if row.rejected} == {"05.png"}
    assert {key for key, row in by_key.items() if row.ignored} == {"Thumbs.db", "notes.pdf", "in.zip"}
    assert by_key["copy.png"].id == by_key["03.png"].id
    assert {row.path for row in rows if row.path} == set((tmp_path / "out").rglob("*.*"))
    assert len({row.path for row in rows if row.thumbnail}) == 39


def test_a_link_is_the_file_that_it_leads_to_or_a_row_that_says_why_not(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "store" / "object").write_bytes(noise_png(0))
    targets = {"a.png": "../store/object", "b": "../store", "c.png": "../gone", "d.png": "d.png", ".#e.png": "nobody"}
    for name, target in targets.items():
        (tmp_path / "in" / name).symlink_to(target)
    (tmp_path / "in" / "f.png").write_bytes(noise_png(1))
    rows = {row.source: row for row in (prepare(file, CONFIG, tmp_path) for file in list_files(tmp_path / "in"))}
    assert rows["a.png"].id == hashlib.sha256(noise_png(0)).hexdigest()
    assert rows["a.png"].rejected is None
    assert rows["b"].ignored == "a link to a folder; only links to files are followed"
    assert rows["c.png"].rejected == rows["d.png"].rejected == "a link that leads nowhere"
    assert (rows[".#e.png"].ignored, rows[".#e.png"].rejected) == (HIDDEN, None)
    config = CONFIG.model_copy(update={"max_rejected_fraction": 1.0})
    records = assign(list(rows.values()), config, SplitConfig())
    assert [record.source for record in records if record.used] == ["a.png", "f.png"]
    assert [record.source for record in records] == sorted(rows)


def test_zip_tar_and_folder_give_the_same_records(tmp_path: Path) -> None:
    contents = {f"d/{at}.png": noise_png(at) for at in range(8)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed, tarfile.open(tmp_path / "a.tar.gz", "w:gz") as packed_tar:
        for key, data in contents.items():
            packed.writestr(key, data)
            info = tarfile.TarInfo(f"./{key}")
            info.size = len(data)
            packed_tar.addfile(info, io.BytesIO(data))
            path = tmp_path / "plain" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    ways = [extract_archive(tmp_path / name, tmp_path / f"{name}-out") for name in ("a.zip", "a.tar.gz")]
    rows = [
        assign(list(preprocess_images(files, CONFIG, tmp_path / "out", workers=1)), CONFIG, SplitConfig())
        for files in (*ways, list_files(tmp_path / "plain"))
    ]
    assert rows[0] == rows[1] == rows[2]
    assert sum(row.used for row in rows[0]) == 8


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (signal.SIGKILL, ResourceError, r"was killed \(SIGKILL\).*, at one of: \d\d\.png, \d\d\.png\. .*memory\.max"),
        (signal.SIGSEGV, DataError, r"took a worker process down \(SIGSEGV\), at one of: \d\d\.png, \d\d\.png\."),
    ],
)
def test_a_worker_that_dies_is_an_error_with_candidates(
    tmp_path: Path, number: signal.Signals, kind: type[EngineError], said: str
) -> None:
    slow = noise_png(0, side=900)
    files = []
    for at in range(20):
        path = tmp_path / f"{at:02d}.png"
        path.write_bytes(slow + bytes([at]))  # what follows a PNG's end makes another file of the same picture
        files.append(SourceFile(path.name, str(path)))
    rows = preprocess_images(files, CONFIG, tmp_path / "out", workers=1)
    assert next(rows).source == "00.png"
    for child in multiprocessing.active_children():
        assert child.pid is not None
        os.kill(child.pid, number)
    with pytest.raises(kind, match=said):
        list(rows)


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.ENOENT, errno.EACCES])
def test_shared_memory_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("multiprocessing.synchronize._multiprocessing.SemLock", refuse)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(ResourceError, match=rf"/dev/shm cannot be used: {os.strerror(code)}"):
        list(preprocess_images([SourceFile("a.png", str(tmp_path / "a.png"))], PreprocessConfig(), tmp_path / "out"))


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    files = [SourceFile("gone.png", str(tmp_path / "gone.png"))]
    with pytest.raises(DataError, match=r"gone\.png cannot be read \(No such file"):
        list(preprocess_images(files, CONFIG, tmp_path / "out", workers=1))


def test_a_full_or_broken_disk_is_no_fault_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(noise_png(0))
    rows = preprocess_images(iter([SourceFile("a.png", str(tmp_path / "a.png"))]), CONFIG, tmp_path / "out", workers=1)
    folder = tmp_path / "out" / f"images-{pixels_key(CONFIG)}"
    folder.parent.mkdir()
    folder.symlink_to(tmp_path / "target")
    (tmp_path / "target").mkdir()
    name = prepare(SourceFile("a.png", str(tmp_path / "a.png")), CONFIG, tmp_path).id
    (folder / f"{name}.ppm").mkdir()  # in the way of the rename
    with pytest.raises(OSError, match="directory"):
        list(rows)
    assert not list(folder.glob("*.part"))


def test_workers_start_without_torch() -> None:
    code = "import sys, lora_engine.images.prepare, lora_engine.images.split, lora_engine.images.sidecars; "
    code += "sys.exit(','.join({'torch', 'boto3', 'diffusers', 'transformers'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
