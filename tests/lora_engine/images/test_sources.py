import bz2
import gzip
import io
import os
import random
import stat
import struct
import subprocess
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path

import pytest

from job.errors import code_of
from lora_engine.errors import DataError, EngineError, UnsafeError
from lora_engine.images.sources import extract_archive, is_archive, list_files

Members = list[tuple[str, bytes]]
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def zip_of(members: Members, compression: int = zipfile.ZIP_STORED) -> bytes:
    data = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(data, "w", compression) as archive:
        warnings.simplefilter("ignore")  # of the doubled names that are the point
        for name, content in members:
            archive.writestr(name, content)
    return data.getvalue()


def tar_of(members: Members, mode: str = "w", kind: bytes = tarfile.REGTYPE) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode, format=tarfile.PAX_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "elsewhere" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def extracted(tmp_path: Path, name: str, data: bytes) -> dict[str, bytes]:
    (tmp_path / name).write_bytes(data)
    files = extract_archive(tmp_path / name, tmp_path / f"{name}-members")
    return {file.key: Path(file.path).read_bytes() for file in files}


def refusal(tmp_path: Path, name: str, data: bytes, code: int = 47) -> EngineError:
    with pytest.raises((DataError, UnsafeError)) as caught:
        extracted(tmp_path, name, data)
    assert code_of(caught.value) == code
    assert name in caught.value.cause
    assert caught.value.remedy
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    return caught.value


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.zip", True), ("A.ZIP", True), ("a.tar", True), ("a.tar.gz", True), ("a.tgz", True), ("a.gz", False)],
)
def test_archives_are_known_by_name(name: str, expected: bool) -> None:
    assert is_archive(name) is expected


def test_a_folder_lists_files_and_links_by_key(tmp_path: Path) -> None:
    for key in ("b/2.png", "a.png", "b/1.png", "B.png"):
        (tmp_path / "in" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / key).write_bytes(key.encode())
    os.mkfifo(tmp_path / "in" / "pipe.png")
    links = {"b/link.png": "../a.png", "loop": ".", "nowhere.png": "gone", "own.png": "own.png", "piped": "pipe.png"}
    for key, target in links.items():
        (tmp_path / "in" / key).symlink_to(target)
    (tmp_path / "also").symlink_to(tmp_path / "in")
    for folder in (tmp_path / "in", tmp_path / "also"):
        files = {file.key: Path(file.path) for file in list_files(folder)}
        expected = ["B.png", "a.png", "b/1.png", "b/2.png", "b/link.png", "loop", "nowhere.png", "own.png"]
        assert list(files) == expected
        assert files["b/link.png"].read_bytes() == b"a.png"
        assert all(files[key].read_bytes() == key.encode() for key in expected[:4])


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere cannot be read"):
        list(list_files(tmp_path / "nowhere"))


def test_names_must_be_text(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    with pytest.raises(DataError, match=r"caf.*not UTF-8"):
        list(list_files(tmp_path))


def test_members_are_streamed_one_by_one_in_their_order(tmp_path: Path) -> None:
    members = [(f"{name}.png", name.encode()) for name in "cab"]
    for name, data in (("a.zip", zip_of(members)), ("a.tar", tar_of(members)), ("a.tgz", tar_of(members, "w:gz"))):
        (tmp_path / name).write_bytes(data)
        out = tmp_path / f"{name}-out"
        files = extract_archive(tmp_path / name, out)
        for count, (key, content) in enumerate(members, 1):
            file = next(files)
            assert (file.key, Path(file.path).read_bytes()) == (key, content)
            assert len(list(out.iterdir())) == count


def test_keys_are_plain_and_names_on_disk_are_our_own(tmp_path: Path) -> None:
    long = "x" * 300
    members = [
        ("./a.PNG", b"1"),
        ("d\\b.png", b"2"),
        ("e//f .j;p g", b"3"),
        (f"{long}.{long}", b"4"),
        ("2:1.png", b"5"),
    ]
    found = extracted(tmp_path, "a.zip", zip_of(members))
    assert list(found) == ["a.PNG", "d/b.png", "e/f .j;p g", f"{long}.{long}", "2:1.png"]
    names = sorted(path.name for path in (tmp_path / "a.zip-members").iterdir())
    assert names == ["0000000.png", "0000001.png", "0000002.jpg", "0000003.xxxxxxxxx", "0000004.png"]


def test_folders_and_nested_archives_are_no_trouble(tmp_path: Path) -> None:
    inner = zip_of([("x.png", b"x")])
    assert extracted(tmp_path, "a.zip", zip_of([("d/", b""), ("d/in.zip", inner)])) == {"d/in.zip": inner}
    from_windows = zip_of([("d\\", b""), ("d\\e\\", b""), ("d\\e\\a.png", b"a")])
    assert extracted(tmp_path, "b.zip", from_windows) == {"d/e/a.png": b"a"}
    assert "leads out" in refusal(tmp_path, "c.zip", zip_of([("..\\", b"")])).cause


@pytest.mark.parametrize(
    "name", ["../x", "d/../../x", "/x", "\\x", "a\\..\\x", "C:/x", "c:\\x", "d/..", "../d/", "//h/x"]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    for kind, data in (("a.zip", zip_of([(name, b"1")])), ("a.tar", tar_of([(name, b"1")]))):
        assert "leads out" in refusal(tmp_path, kind, data).cause
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "names", [("A.png", "a.png"), ("ß", "SS"), ("\u00e9.png", "e\u0301.png"), ("\u212b", "\u00e5"), ("D/a", "d/a")]
)
def test_names_that_some_systems_take_for_one_are_two_files(tmp_path: Path, names: tuple[str, str]) -> None:
    contents = {name: name.encode() for name in names}
    for kind, data in (("a.zip", zip_of([*contents.items()])), ("a.tar", tar_of([*contents.items()]))):
        assert extracted(tmp_path, kind, data) == contents


@pytest.mark.parametrize("names", [("a", "a"), ("./a", "a"), ("d//a", "d/a"), ("d\\a", "d/a"), ("a.png", "a.png")])
def test_of_two_members_of_one_name_the_later_one_counts(tmp_path: Path, names: tuple[str, str]) -> None:
    members = [(names[0], b"longer than the later one"), ("b", b"b"), (names[1], b"later")]
    for kind, data in (("a.zip", zip_of(members)), ("a.tar", tar_of(members)), ("a.tgz", tar_of(members, "w:gz"))):
        (tmp_path / kind).write_bytes(data)
        files = list(extract_archive(tmp_path / kind, tmp_path / f"{kind}-members"))
        assert [(file.key, Path(file.path).read_bytes()) for file in files] == [(names[1], b"later"), ("b", b"b")]


def test_of_two_members_of_one_name_tar_itself_extracts_the_later_one(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_of([("a.png", b"1"), ("a.png", b"22")]))
    subprocess.run(["tar", "-xf", "a.tar"], check=True, cwd=tmp_path)
    assert (tmp_path / "a.png").read_bytes() == b"22"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    assert (
        "'odd.png' that is a link or a device"
        in refusal(tmp_path, "a.tar", tar_of([("odd.png", b"")], kind=kind)).cause
    )


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("odd.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "'odd.png' that is a link" in refusal(tmp_path, "a.zip", data.getvalue()).cause


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    data = bytearray(zip_of([("secret.png", b"1234")]))
    data[6] |= 1  # the flag in the member's own header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and in the directory
    assert "encrypted member 'secret.png'" in refusal(tmp_path, "a.zip", bytes(data), 41).cause


@pytest.mark.parametrize("name", ["a.zip", "a.tgz"])
def test_bombs_are_refused_before_they_fill_the_disk(tmp_path: Path, name: str) -> None:
    members = [(f"{at}.png", bytes(2**26)) for at in range(5)]
    data = zip_of(members, zipfile.ZIP_DEFLATED) if name == "a.zip" else tar_of(members, "w:gz")
    assert "would unpack to more than" in refusal(tmp_path, name, data).cause
    assert sum(path.stat().st_size for path in (tmp_path / f"{name}-members").iterdir()) <= 2**28


def test_what_compresses_well_is_no_bomb(tmp_path: Path) -> None:
    data = zip_of([("blank.png", bytes(2**22))], zipfile.ZIP_DEFLATED)
    assert len(data) * 200 < 2**22
    assert len(extracted(tmp_path, "a.zip", data)["blank.png"]) == 2**22


@pytest.mark.parametrize("compression", [*COMPRESSIONS, "w", "w:gz"])
def test_damage_anywhere_is_a_data_error_or_harmless(tmp_path: Path, compression: int | str) -> None:
    seed = 11
    print("seed", seed)
    dice = random.Random(seed)
    members = [(f"é{at}{'x' * 120 * at}.png", dice.randbytes(100) + bytes(300)) for at in range(3)]
    is_tar = isinstance(compression, str)
    data = tar_of(members, compression) if is_tar else zip_of(members, compression)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(dice.choice([1, 1, 4])):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        cut = len(damaged) if dice.random() < 0.8 else dice.randrange(len(damaged))
        try:
            extracted(tmp_path, "a.tar" if is_tar else "a.zip", bytes(damaged[:cut]))
        except DataError:
            refused += 1
    assert refused > 10


def test_a_member_of_another_compression_is_not_unpacked(tmp_path: Path) -> None:
    """4 KiB of bzip2 may hold gigabytes, which zipfile would unpack at once."""
    bomb = bz2.compress(bytes(2**26))
    for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, 97):
        data = bytearray(zip_of([("a.png", bomb)]))
        for at in (8, data.index(b"PK\x01\x02") + 10):
            data[at : at + 2] = kind.to_bytes(2, "little")
        assert "'a.png' is neither stored nor deflated" in refusal(tmp_path, "a.zip", bytes(data), 41).cause
    for mode in ("w:bz2", "w:xz"):
        refusal(tmp_path, "a.tar", tar_of([("a.png", bytes(2**22))], mode), 41)


def tar_header(name: str, size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = size.to_bytes(12, "big", signed=True) if size < 0 else f"{size:011o}\0".encode()
    if size >= 0:
        header[148:156] = b" " * 8
    header[148:156] = b" " * 8
    header[148:155] = f"{sum(header):06o}\0".encode()
    return bytes(header)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, b"Z"])
def test_a_tar_does_not_lead_back_to_its_own_start(tmp_path: Path, kind: bytes) -> None:
    data = tar_header("a.png", -512, kind) + tar_header("b.png", -1024, kind) + bytes(1024)
    assert "damaged" in refusal(tmp_path, "a.tar", data, 41).cause


def test_a_pax_size_does_not_lead_back_either(tmp_path: Path) -> None:
    record = b"16 size=-100000\n"
    data = tar_header("x", len(record), tarfile.XHDTYPE) + record.ljust(512, b"\0")
    assert (
        "damaged" in refusal(tmp_path, "a.tar", data + tar_header("a.png", 0, tarfile.REGTYPE) + bytes(1024), 41).cause
    )


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_headers_that_would_take_hours_are_refused(tmp_path: Path, kind: bytes) -> None:
    member = tar_header("d", 0, tarfile.DIRTYPE)
    huge = tar_header("x", 2**22, kind) + b"1" * 2**22 + member
    many = (tar_header("x", 2**13, kind) + b"1" * 2**13 + member) * 100
    for data in (huge, many):
        # a newer Python's parser refuses the first of them
        assert "header" in refusal(tmp_path, "a.tgz", gzip.compress(data + bytes(1024)), 41).cause


def test_a_damaged_header_is_not_taken_for_the_end_of_the_archive(tmp_path: Path) -> None:
    data = bytearray(tar_of([(name, b"0123456789") for name in ("a.png", "b.png", "c.png")]))
    data[1024 + 20] ^= 1  # in the second member's name
    assert "bad checksum" in refusal(tmp_path, "a.tar", bytes(data), 41).cause
    assert "truncated header" in refusal(tmp_path, "b.tar", bytes(data[: 1024 + 20]), 41).cause


def test_long_names_in_many_members_are_no_trouble(tmp_path: Path) -> None:
    names = [f"{'é' * 100}/{'x' * 200}/{at}.png" for at in range(300)]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w:gz", format=form) as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name))
        assert list(extracted(tmp_path, f"a{form}.tgz", data.getvalue())) == names


def test_what_is_no_file_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.zip")
    with pytest.raises(DataError, match="is no file"):
        list(extract_archive(tmp_path / "a.zip", tmp_path / "out"))


def test_more_members_than_any_dataset_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_engine.images.sources._MAX_MEMBERS", 50)
    members = [(f"{at}.png", b"") for at in range(51)]
    assert len(extracted(tmp_path, "few.zip", zip_of(members[:50]))) == 50
    for name, data in (("a.zip", zip_of(members)), ("a.tar", tar_of(members)), ("b.zip", zip_of([("d/", b"")] * 51))):
        assert "more than 50 members" in refusal(tmp_path, name, data).cause


@pytest.mark.parametrize("name", ["../\x1b[31m\n\u202e.png", "../" + "x" * 60_000])
def test_a_members_name_is_shown_in_one_plain_line(tmp_path: Path, name: str) -> None:
    assert "leads out" in refusal(tmp_path, "a.zip", zip_of([(name, b"")])).cause


def test_archives_that_hold_members_twice_over_are_refused(tmp_path: Path) -> None:
    """A zip whose members share one packed body unpacks to far more than its size."""
    body = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = body.compress(bytes(2**22)) + body.flush()
    crc, size = zlib.crc32(bytes(2**22)), 2**22
    local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 33, crc, len(packed), size, 1, 0) + b"a" + packed
    directory = b""
    for at in range(3000):
        name = f"{at}".encode()
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 8, 0, 33, crc, len(packed), size, len(name), 0, 0, 0, 0, 0, 0
        )
        directory += name
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 3000, 3000, len(directory), len(local), 0)
    error = refusal(tmp_path, "a.zip", local + directory + end, 41)
    assert "damaged" in error.cause  # the names in the body do not agree with the directory
