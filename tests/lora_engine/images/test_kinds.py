"""What never claimed to be an image is ignored, with its reason; what did counts. All that count files ask here."""

from pathlib import Path

import pytest

from lora_engine.images.kinds import BACKUP, HIDDEN, LEFT_BEHIND, REGULARISATION, claims_image, is_leftover, why_ignored
from lora_engine.images.kohya import is_regularisation, plain_name, repeats_of
from lora_engine.images.sources import list_files
from lora_engine.records import SourceFile

STARTS = {
    "jpeg": b"\xff\xd8\xff\xe0",
    "png": b"\x89PNG\r\n\x1a\n",
    "gif": b"GIF89a",
    "webp": b"RIFF\x10\0\0\0WEBPVP8 ",
    "bmp": b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
    "tiff": b"II*\0",
    "tiff-be": b"MM\0*",
    "avif": b"\0\0\0\x20ftypavif",
    "heic": b"\0\0\0\x18ftypheic",
    "psd": b"8BPS\0\x01",
}


@pytest.mark.parametrize(
    "key",
    ["a/Thumbs.db", "ehthumbs.db", "desktop.ini", "Icon\r", "__MACOSX/a.png", "@eaDir/a.png/SYNOPHOTO_THUMB_XL.jpg"],
)
def test_what_systems_leave_behind_is_known_by_name(key: str) -> None:
    assert (why_ignored(SourceFile(key, "/nowhere")), claims_image(key)) == (LEFT_BEHIND, False)


@pytest.mark.parametrize("key", ["a.png~", "d/a.jpg_original", "a.png.bak", "b.JPG.crdownload", "c.webp.part"])
def test_backups_and_unfinished_copies_are_known_by_name(key: str) -> None:
    assert (why_ignored(SourceFile(key, "/nowhere")), claims_image(key)) == (BACKUP, False)


@pytest.mark.parametrize("key", [".DS_Store", "a/._b.png", ".git/x", "b/.thumbnails/1.png", ".png", ".a/b/c.jpg"])
def test_hidden_files_are_known_by_name(key: str) -> None:
    assert (why_ignored(SourceFile(key, "/nowhere")), claims_image(key)) == (HIDDEN, False)


@pytest.mark.parametrize(
    "key",
    [
        "reg/1_man/a.png",
        "kohya/Reg/a.png",
        "regularization_images/a.png",
        "REG/b/c/d.jpg",
        "reg_man/1_man/a.png",
        "class_images/a.png",
    ],
)
def test_regularisation_images_are_known_by_their_folder(key: str) -> None:
    assert (why_ignored(SourceFile(key, "/nowhere")), claims_image(key)) == (REGULARISATION, False)


@pytest.mark.parametrize(
    "key",
    [
        "reg.png",
        "region/a.png",
        "class/a.png",
        "reggae/a.png",
        "a_original.png",
        "part.png",
        "regina/a.png",
        "img/10_reg/a.png",
        "a@eaDir/b.png",
        "x/.a/../b",
    ],
)
def test_other_names_are_not_taken_for_those(key: str) -> None:
    assert is_leftover(key) is (key == "x/.a/../b")


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.jpeg", "a.WebP", "a.tif", "a b.gif", "a.heic", "a.jxl", "a.cr2"])
def test_a_file_that_is_named_like_an_image_counts_as_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert (why_ignored(SourceFile(name, str(tmp_path / name))), claims_image(name)) == (None, True)


@pytest.mark.parametrize("kind", STARTS)
@pytest.mark.parametrize("name", ["object", "a.dat", "a.2024"])
def test_a_file_that_begins_like_an_image_counts_as_one(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / name).write_bytes(STARTS[kind] + bytes(100))
    assert (why_ignored(SourceFile(name, str(tmp_path / name))), claims_image(name)) == (None, False)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("README.md", b"# Pictures\n", "not an image (.md)"),
        ("LICENSE", b"MIT\n", "not an image (no suffix)"),
        ("classes.txt", b"cat\ndog\n", "not an image (.txt)"),
        ("labels.CSV", b"BMW,1\n", "not an image (.csv)"),
        ("BMW", b"BMW is a car, and this is a text", "not an image (no suffix)"),
        ("a_0512x0512_sd.npz", b"PK\3\4", "not an image (.npz)"),
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}", "not an image (.safetensors)"),
        ("a.mp4", b"\0\0\0\x20ftypisom", "not an image (.mp4)"),
        ("a.wav", b"RIFF\x10\0\0\0WAVEfmt ", "not an image (.wav)"),
        ("empty", b"", "not an image (no suffix)"),
        ("v1. final", b"text", "not an image (no suffix)"),
        ("more.zip", b"PK\3\4", "an archive; archives within the dataset are not opened"),
        ("more.tar.gz", b"\x1f\x8b", "an archive; archives within the dataset are not opened"),
    ],
)
def test_what_never_claimed_to_be_an_image_is_ignored(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert (why_ignored(SourceFile(name, str(tmp_path / name))), claims_image(name)) == (why, False)


def test_links_that_lead_to_no_image_are_ignored_unless_they_are_named_like_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, target in {"folder": "..", "gone": "nowhere", "gone.png": "nowhere"}.items():
        (tmp_path / "in" / name).symlink_to(target)
    found = {file.key: why_ignored(file) for file in list_files(tmp_path / "in")}
    assert found == {
        "folder": "a link to a folder; only links to files are followed",
        "gone": "a link that leads nowhere",
        "gone.png": None,
    }


def test_kohyas_names_of_folders() -> None:
    keys = ["img/10_ink tattoo/a.png", "img/1_moth/b.png", "2024_x/c.png", "10_x/sub/d.png", "reg/5_man/e.png", "f.png"]
    assert repeats_of(keys) == {"10_ink tattoo": 10, "1_moth": 1}
    assert [plain_name(name) for name in ("10_ink tattoo", "moth", "2024_x", "1_")] == [
        "ink tattoo",
        "moth",
        "2024_x",
        "1_",
    ]
    assert [key for key in keys if is_regularisation(key)] == ["reg/5_man/e.png"]
