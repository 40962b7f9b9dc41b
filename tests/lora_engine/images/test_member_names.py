"""Names of a zip's members are what was meant, whatever their flag says, and none is split within a character."""

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from lora_engine.images.kinds import why_left_out
from lora_engine.images.member_names import member_names
from lora_engine.images.sources import extract_archive
from tests.old_zip import old_zip

JAPANESE = [
    "刺青/機能.png",
    "刺青/表紙.png",
    "刺青/ソ.png",
    "刺青/ソ.txt",
    "刺青/桜の花 2.png",
    "刺青/申.png",
    "タトゥー/十.png",
]
NAMES = {
    "cp932": JAPANESE,
    "gbk": ["纹身/机能.png", "纹身/猫.png", "训练 图片/花.txt", "狗.png"],
    "big5": ["紋身/功能.png", "許功蓋.png", "貓.png"],
    "cp949": ["문신/고양이.png", "기능.txt", "고양이 2.png"],
    "cp866": ["Татуировки/кошка.png", "кот.png", "Роза.txt"],
    "cp437": ["café.png", "über/Ärger.png", "naïve.png", "piñata.png", "pépé.png", "été.png"],
    "utf-8": ["Zoë.png", "刺青/ソ.png", "кот.png", "고양이.png", "e\u0301.png"],
}


def packed(raws: Sequence[bytes], extra: Sequence[bytes] = ()) -> list[zipfile.ZipInfo]:
    """The members of a zip with these bytes for names."""
    return zipfile.ZipFile(io.BytesIO(old_zip([(raw, b"") for raw in raws], extra))).infolist()


def unicode_name(raw: bytes, name: str) -> bytes:
    """Info-ZIP's extra field that gives a name in UTF-8 to the name `raw`."""
    body = struct.pack("<BL", 1, zlib.crc32(raw)) + name.encode()
    return struct.pack("<HH", 0x7075, len(body)) + body


@pytest.mark.parametrize("code", NAMES)
def test_names_without_the_flag_are_read_in_the_code_that_they_were_written_in(code: str) -> None:
    names = [*NAMES[code], "plain.png"]
    assert member_names(packed([name.encode(code) for name in names])) == names


@pytest.mark.parametrize("code", ["cp932", "gbk", "big5"])
def test_no_byte_of_a_character_parts_a_name_or_hides_a_file(code: str) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = random.Random(seed)
    leads = [chr(number) for number in range(0x3040, 0xA000) if ends_like_a_backslash(chr(number), code)]
    for _ in range(100):
        names = ["".join(dice.choices(leads, k=dice.randint(1, 4))) for _ in range(dice.randint(1, 9))]
        raws = list(dict.fromkeys(f"d/{name}.png".encode(code) for name in names))
        found = member_names(packed(raws))
        assert len(set(found)) == len(raws)
        for name in found:
            assert (name.count("/"), name.endswith(".png"), why_left_out(name)) == (1, True, None), found


def test_chinese_is_not_japanese_with_letters_that_are_none() -> None:
    """As Japanese, the first name has a byte that is no letter, and a backslash behind it."""
    raws = [b"d/\xfd\\\xad\\\x8a].png", b"d/\x81\\\x82\\.png"]
    names = [raw.decode("gbk") for raw in raws]
    assert member_names(packed(raws)) == names


def ends_like_a_backslash(character: str, code: str) -> bool:
    raw = character.encode(code, "ignore")
    return len(raw) == 2 and raw.endswith(b"\\")


def test_a_backslash_between_folders_is_a_separator_in_every_code() -> None:
    assert member_names(packed(["絵\\ソ.png".encode("cp932"), "絵\\機能.png".encode("cp932")])) == [
        "絵/ソ.png",
        "絵/機能.png",
    ]
    assert member_names(packed([b"d\\e.png", b"d\\x\\y.png"])) == ["d/e.png", "d/x/y.png"]
    assert member_names(packed([b"caf\x82\\e.png"])) == ["café\uff3ce.png"]  # it might be, and might not


def test_the_unicode_field_counts_where_it_belongs_to_the_name() -> None:
    raw, name = b"caf_.png", "café.png"
    assert member_names(packed([raw], [unicode_name(raw, name)])) == [name]
    assert member_names(packed([raw], [unicode_name(b"other", name)])) == ["caf_.png"]
    broken = struct.pack("<HH", 0x7075, 7) + struct.pack("<BL", 1, zlib.crc32(raw)) + b"\xff\xfe"
    assert member_names(packed([raw], [broken])) == ["caf_.png"]
    timed = struct.pack("<HH", 0x5455, 5) + bytes(5)  # as Info-ZIP writes it before
    assert member_names(packed([raw], [timed + unicode_name(raw, name)])) == [name]


def test_codes_may_be_mixed() -> None:
    raws = ["Zoë.png".encode(), "Łódź.png".encode(), *(name.encode("cp932") for name in JAPANESE)]
    assert member_names(packed(raws)) == ["Zoë.png", "Łódź.png", *JAPANESE]


@pytest.mark.parametrize("code", ["cp850", "cp437"])
@pytest.mark.parametrize(
    "names",
    [
        ["Größe/Übergröße.png", "Größe/Müßig.png"],
        ["Fußgänger.png"],
        ["déçu.png", "Noël/à côté.png"],
        ["Straße.png", "Übung.txt", "Äpfel.png"],
        ["José.png", "niño/pingüino.png"],
    ],
)
def test_accented_letters_are_no_letters_of_other_alphabets(code: str, names: list[str]) -> None:
    assert member_names(packed([name.encode(code) for name in names])) == names


def test_a_flag_that_says_utf_8_of_other_bytes_is_not_believed(tmp_path: Path) -> None:
    members = [(name.encode("cp932"), name.encode()) for name in JAPANESE] + [("Zoë.png".encode(), b"z")]
    archive = tmp_path / "flagged.zip"
    archive.write_bytes(old_zip(members, flags=1 << 11))
    found = {file.key: Path(file.path).read_bytes() for file in extract_archive(archive, tmp_path / "unpacked")}
    assert found == {name: name.encode() for name in JAPANESE} | {"Zoë.png": b"z"}


def test_any_bytes_are_a_name() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = random.Random(seed)
    for _ in range(300):
        raws = [bytes(dice.choices(range(1, 256), k=dice.randint(3, 12))) for _ in range(dice.randint(1, 6))]
        found = member_names(packed(raws))
        assert len(found) == len(raws)
        assert all(name and "\\" not in name and name.encode() for name in found)
