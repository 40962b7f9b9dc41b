"""Captions in files beside images and in tables that name them: whose they are, and which of several count."""

import json
import tarfile
from pathlib import Path

import pytest

from lora_engine.errors import DataError
from lora_engine.images.sidecars import OwnCaptions, read_sidecars, split_sidecars, without_captions
from lora_engine.images.sources import extract_archive, list_files
from lora_engine.records import SourceFile

PNG = b"\x89PNG\r\n\x1a\n"  # what makes a file without a suffix an image


def files(tmp_path: Path, contents: dict[str, bytes | str]) -> list[SourceFile]:
    made = []
    for at, (key, content) in enumerate(contents.items()):
        path = tmp_path / f"{at}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        made.append(SourceFile(key, str(path)))
    return made


def read(tmp_path: Path, contents: dict[str, bytes | str]) -> OwnCaptions:
    return read_sidecars(files(tmp_path, contents))


def rows(*given: object) -> str:
    return "\n".join(json.dumps(row) for row in given)


def test_a_text_belongs_to_every_image_of_its_stem(tmp_path: Path) -> None:
    made = files(
        tmp_path, {"a.png": "", "a.jpg": "", "a.TXT": "one", "d/a.png": "", "d/a.b.png": "", "d/a.b.txt": "two"}
    )
    assert read_sidecars(made).first == {"a.png": "one", "a.jpg": "one", "d/a.b.png": "two"}
    pictures, sidecars = split_sidecars(made)
    assert [file.key for file in pictures] == ["a.png", "a.jpg", "d/a.png", "d/a.b.png"]
    assert [file.key for file in sidecars] == ["a.TXT", "d/a.b.txt"]


@pytest.mark.parametrize("image", ["a.png", "v1.5 a cat", "a", "d.e/a.v2.jpg", "caf\u00e9.webp"])
@pytest.mark.parametrize("suffix", [".txt", ".caption", ".json", ".Txt", ".JSON"])
@pytest.mark.parametrize("whole", [False, True])
def test_a_caption_has_the_name_of_its_image_whole_or_without_suffix(
    tmp_path: Path, image: str, suffix: str, whole: bool
) -> None:
    stem = image.rpartition(".")[0] if image.endswith(("png", "jpg", "webp")) else image
    key = f"{image if whole else stem}{suffix}"
    content = '{"caption": "a cat"}' if suffix.lower() == ".json" else "a cat"
    found = read(tmp_path, {image: PNG, key: content})
    assert (found.first, found.source) == ({image: "a cat"}, {image: key})


@pytest.mark.parametrize("suffix", [".txt", ".caption", ".json"])
def test_a_caption_without_an_image_is_a_file_like_others(tmp_path: Path, suffix: str) -> None:
    pictures, sidecars = split_sidecars(files(tmp_path, {f"README{suffix}": "", "a.png": ""}))
    assert ([file.key for file in pictures], sidecars) == ([f"README{suffix}", "a.png"], [])


def test_a_text_beside_what_is_no_image_is_a_file_like_others(tmp_path: Path) -> None:
    contents = {
        "README.md": "",
        "README.txt": b"caf\xe9",
        "labels.csv": "a,b",
        "labels.json": "{",
        "b.npz": "",
        "b.txt": "",
    }
    made = files(tmp_path, contents | {"a.png": "", "a.txt": "a cat"})
    pictures, sidecars = split_sidecars(made)
    assert [file.key for file in pictures] == [*contents, "a.png"]
    assert [file.key for file in sidecars] == ["a.txt"]
    assert read_sidecars(made).first == {"a.png": "a cat"}


def test_a_text_whose_image_has_one_of_exactly_its_name_is_told(tmp_path: Path) -> None:
    found = read(tmp_path, {"a.png": "", "a.txt": "small", "A.txt": "large"})
    assert (found.first, found.stray_files) == ({"a.png": "small"}, ["A.txt"])


def test_of_files_that_were_only_listed_names_tell_which_lack_captions() -> None:
    images = ["a.png", "B.png", "c.d/e.png"]
    assert without_captions(images, ["a.txt", "c.d/e.png.json"]) == ["B.png"]
    assert without_captions(images, ["b.caption", "metadata.csv"]) == []
    listed = [SourceFile(key, "") for key in ("a", "a.txt", "README.md", "README.txt")]
    assert [file.key for file in split_sidecars(listed)[1]] == ["a.txt"]


def test_names_may_differ_in_case_and_in_how_accents_are_written(tmp_path: Path) -> None:
    found = read(tmp_path, {"IMG_1.PNG": "", "img_1.txt": "one", "cafe\u0301.png": "", "caf\u00e9.caption": "two"})
    assert found.first == {"IMG_1.PNG": "one", "cafe\u0301.png": "two"}
    # one that belongs to an image of exactly its name belongs to no other
    found = read(tmp_path, {"a.png": "", "A.png": "", "a.txt": "small"})
    assert found.first == {"a.png": "small"}
    found = read(tmp_path, {"a.png": "", "A.png": "", "a.txt": "small", "A.txt": "large"})
    assert found.first == {"a.png": "small", "A.png": "large"}
    assert not found.contradicted


def test_the_first_source_counts_and_what_says_something_else_is_named(tmp_path: Path) -> None:
    contents: dict[str, bytes | str] = {"d/a.png": ""}
    order = ["d/a.png.txt", "d/a.png.caption", "d/a.png.json", "d/a.txt", "d/a.caption", "d/a.json"]
    order += ["d/metadata.jsonl", "d/metadata.csv", "metadata.jsonl", "metadata.csv"]
    for at, key in enumerate(order):
        name = "a.png" if key.startswith("d/") else "d/a.png"
        made = {"json": f'{{"text": "c{at}"}}', "csv": f"file_name,text\n{name},c{at}\n"}
        made["jsonl"] = rows({"file_name": name, "text": f"c{at}"})
        contents[key] = made.get(key.rpartition(".")[2], f"c{at}")
    for at, key in enumerate(order):
        found = read(tmp_path, dict(reversed(contents.items())))
        assert (found.first, found.source) == ({"d/a.png": f"c{at}"}, {"d/a.png": key})
        assert found.contradicted == ({"d/a.png": order[at + 1]} if at + 1 < len(order) else {})
        del contents[key]


def test_sources_that_agree_contradict_nothing(tmp_path: Path) -> None:
    metadata = rows({"file_name": "a.png", "text": " a cat "})
    found = read(
        tmp_path, {"a.png": "", "a.txt": "a cat\n", "a.json": '{"caption": "a cat"}', "metadata.jsonl": metadata}
    )
    assert (found.first, found.source, found.contradicted) == ({"a.png": "a cat"}, {"a.png": "a.txt"}, {})


def test_what_a_mac_leaves_behind_is_not_read(tmp_path: Path) -> None:
    contents: dict[str, bytes | str] = {"a.png": "", "a.txt": "fine"}
    contents |= {f"__MACOSX/._a.{end}": b"\0\5\x16\7\xff\xfe" for end in ("png", "txt", "json")}
    contents["__MACOSX/metadata.jsonl"] = contents["__MACOSX/metadata.csv"] = b"\xff"
    made = files(tmp_path, contents)
    assert read_sidecars(made).first == {"a.png": "fine"}
    assert len(split_sidecars(made)[0]) == 6


def test_lines_are_captions_of_their_own(tmp_path: Path) -> None:
    text = "an anchor on white\r\nink drawing\r\n\r\n \r\n:d, cup, -_-  \rink drawing\nbig\u2028wide"
    found = read(tmp_path, {"a.png": "", "a.txt": text})
    assert found.captions == {"a.png": ("an anchor on white", "ink drawing", ":d, cup, -_-", "big\u2028wide")}
    table = rows(
        *(
            {"file_name": name, "text": text}
            for name, text in (("a.png", "one"), ("b.png", "x"), ("a.png", "two\nthree"))
        )
    )
    found = read(tmp_path, {"a.png": "", "b.png": "", "metadata.jsonl": table})
    assert found.captions == {"a.png": ("one", "two", "three"), "b.png": ("x",)}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"caption": "a cat"}, ("a cat",)),
        ({"text": "a cat", "caption": "a dog", "prompt": "x"}, ("a cat",)),
        ({"text": None, "caption": "", "prompt": " a cat"}, ("a cat",)),
        ({"caption": ["a cat", " ", "on a mat"]}, ("a cat", "on a mat")),
        ({"tags": ["1girl", " solo ", ""]}, ("1girl, solo",)),
        ({"tags": "1girl, solo"}, ("1girl, solo",)),
        ({"tag_string": "1girl solo long_hair", "id": 7}, ("1girl solo long_hair",)),
        ({"tags": {"general": ["1girl"]}, "tag_string": "1girl"}, ("1girl",)),
        ({"caption": 7, "text": ["a", 7]}, ()),
        ({"shapes": [], "imageData": "x" * 100_000}, ()),
        ({"caption": "x" * 16_385}, ()),
        (["a cat"], ()),
        ("a cat", ()),
    ],
)
def test_json_beside_an_image_gives_what_tools_write(tmp_path: Path, given: object, expected: tuple[str, ...]) -> None:
    found = read(tmp_path, {"a.png": "", "a.json": json.dumps(given)})
    assert found.captions == ({"a.png": expected} if expected else {})
    assert found.blank == ({} if expected else {"a.png": "a.json"})


@pytest.mark.parametrize("text", ["a café", "\ufeffa café", "\ufeff\ufeffa café", " a café \r\n"])
def test_text_is_utf8_with_or_without_marks_and_stripped(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, {"a.png": "", "a.txt": text}).first == {"a.png": "a café"}


@pytest.mark.parametrize("mark", [b"\xff\xfe", b"\xfe\xff"])
def test_text_in_utf16_says_so(tmp_path: Path, mark: bytes) -> None:
    def encoded(text: str) -> bytes:
        return mark + text.encode("utf-16-le" if mark == b"\xff\xfe" else "utf-16-be")

    contents: dict[str, bytes | str] = {"a.png": "", "a.txt": encoded("a café\r\n"), "b.png": ""}
    contents["metadata.csv"] = encoded("file_name,text\r\nb.png,a tree\r\n")
    assert read(tmp_path, contents).first == {"a.png": "a café", "b.png": "a tree"}
    with pytest.raises(DataError, match=r"a\.txt \(not UTF-16\)"):
        read(tmp_path, {"a.png": "", "a.txt": encoded("a")[:-1]})


def test_all_files_that_are_no_text_are_named_at_once(tmp_path: Path) -> None:
    contents: dict[str, bytes | str] = {f"{at}.png": "" for at in range(6)}
    contents |= {f"{at}.txt": b"caf\xe9" for at in range(3)} | {"3.txt": "fine", "4.json": "{", "5.caption": b"a\0"}
    contents["metadata.csv"] = b"file_name,text\n0.png,caf\xe9\n"
    with pytest.raises(DataError) as caught:
        read(tmp_path, contents)
    assert caught.value.cause == (
        "6 caption files cannot be read: 0.txt, 1.txt, 2.txt, metadata.csv (not UTF-8); 4.json (no JSON); "
        "5.caption (it holds NUL characters, as UTF-16 does)."
    )
    assert caught.value.remedy == "Save them as UTF-8. Mend it, or remove it."


def test_of_very_many_files_that_are_no_text_the_first_are_named(tmp_path: Path) -> None:
    contents: dict[str, bytes | str] = {f"{at}.{end}": b"\xff" for at in range(103) for end in ("png", "txt")}
    with pytest.raises(DataError, match=r"^103 caption files.*, 99\.txt \(not UTF-8\); and 3 more\."):
        read(tmp_path, contents)


@pytest.mark.parametrize("key", [".", "..", "//.", "d/."])
def test_a_key_without_a_name_has_no_caption(tmp_path: Path, key: str) -> None:
    assert read(tmp_path, {"a.png": "", "a.txt": "one", key: ""}).first == {"a.png": "one"}


@pytest.mark.parametrize("text", ["a cat".encode("utf-16-le"), "a cat".encode("utf-16-be"), b"a\0"])
def test_a_text_with_nul_is_refused(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(DataError, match=r"d/c\.txt \(it holds NUL"):
        read(tmp_path, {"d/c.png": "", "d/c.txt": text})


def test_a_text_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for target, reason in (("gone", "No such file"), (".", "Is a directory")):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(target)
        with pytest.raises(DataError, match=rf"c\.txt \({reason}"):
            read_sidecars([*files(tmp_path, {"c.png": ""}), SourceFile("c.txt", str(tmp_path / "link"))])
    with pytest.raises(DataError, match=r"c\.txt \(more than 16384 bytes\)"):
        read(tmp_path, {"c.png": "", "c.txt": "x" * 16_385})


def test_metadata_counts_from_its_folder_and_yields_to_a_text(tmp_path: Path) -> None:
    lines = '\ufeff{"file_name": "b.png", "text": " bee "}\r\n\n{"file_name": "./c/d.png", "caption": "dee"}'
    odd = '{"file_name": "top.png", "text": "one\u2028two\u0085three", "more": [1]}'
    made = files(
        tmp_path,
        {"s/b.png": "", "s/c/d.png": "", "s/metadata.jsonl": lines, "top.png": "", "metadata.jsonl": odd},
    )
    found = read_sidecars(made)
    assert found.first == {"s/b.png": "bee", "s/c/d.png": "dee", "top.png": "one\u2028two\u0085three"}
    assert (found.rows, found.stray_rows) == (3, [])
    (tmp_path / "more").mkdir()
    assert read_sidecars([*made, *files(tmp_path / "more", {"s/b.txt": "beetle"})]).first["s/b.png"] == "beetle"


@pytest.mark.parametrize(
    "name",
    [
        "b c.png",
        "./b c.png",
        "train/b c.png",
        "train\\b c.png",
        ".\\b c.png",
        "x/../b c.png",
        "B C.PNG",
        "TRAIN\\b c.png",
    ],
)
@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv"])
def test_a_row_names_its_image_from_the_tables_folder_or_the_datasets(tmp_path: Path, name: str, table: str) -> None:
    content = (
        f'file_name,text\n"{name}","a, b"\n' if table.endswith("csv") else rows({"file_name": name, "text": "a, b"})
    )
    assert read(tmp_path, {"train/b c.png": "", f"train/{table}": content}).first == {"train/b c.png": "a, b"}


def test_a_name_with_a_backslash_in_it_is_found_as_it_is(tmp_path: Path) -> None:
    table = rows({"file_name": "a\\b.png", "text": "one"})
    assert read(tmp_path, {"a\\b.png": "", "a/b.png": "", "metadata.jsonl": table}).first == {"a\\b.png": "one"}


def test_rows_that_name_no_file_are_told(tmp_path: Path) -> None:
    names = ("a.jpg", "/a.png", "../a.png", "C:\\a.png", "")
    table = rows(*({"file_name": name, "text": "x"} for name in names))
    found = read(tmp_path, {"a.png": "", "s/metadata.jsonl": table})
    assert (found.first, found.rows) == ({"a.png": "x"}, 5)  # the third row leads to it
    assert found.stray_rows == [("s/metadata.jsonl", name) for name in (*names[:2], *names[3:])]


def test_metadata_names_a_file_composed_or_not(tmp_path: Path) -> None:
    lines = '{"file_name": "caf\u00e9.png", "text": "one"}\n{"file_name": "cafe\u0301s.png", "text": "two"}'
    made = files(tmp_path, {"cafe\u0301.png": "", "caf\u00e9s.png": "", "metadata.jsonl": lines})
    found = read_sidecars(made).first
    assert [found[file.key] for file in made[:2]] == ["one", "two"]
    exact = lines + '\n{"file_name": "cafe\u0301.png", "text": "three"}'
    made = files(tmp_path, {"cafe\u0301.png": "", "caf\u00e9.png": "", "metadata.jsonl": exact})
    found = read_sidecars(made).first
    assert [found[file.key] for file in made[:2]] == ["three", "one"]
    # a row that may mean either of two images means neither
    made = files(tmp_path, {"A.png": "", "a.png": "", "metadata.jsonl": rows({"file_name": "A.PNG", "text": "x"})})
    assert read_sidecars(made).stray_rows == [("metadata.jsonl", "A.PNG")]


def test_an_empty_text_is_no_caption(tmp_path: Path) -> None:
    lines = rows(*({"file_name": "abc"[at] + ".png", "text": text} for at, text in enumerate(("", " ", None))))
    found = read(tmp_path, {"a.png": "", "b.png": "", "c.png": "", "b.txt": "\n", "metadata.jsonl": lines})
    assert found.captions == {}
    assert found.blank == {"a.png": "metadata.jsonl", "b.png": "b.txt", "c.png": "metadata.jsonl"}
    found = read(tmp_path, {"a.png": "", "a.txt": "", "a.caption": "a cat"})
    assert (found.first, found.blank, found.contradicted) == ({"a.png": "a cat"}, {}, {})


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "1",
        "null",
        '{"file_name": "a.png"}',
        '{"text": "x"}',
        '{"file_name": 3, "text": "x"}',
        "[" * 100_000,
        '{"file_name": "a.png", "text": 3}',
        '{"file_name": "a.png", "text": ["x", 3]}',
        '{"file_name": "a.png", "text": "a\\u0000"}',
        '{"file_name": "a\\ud800.png", "text": "a"}',
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str) -> None:
    made = files(tmp_path, {"s/metadata.jsonl": f'{{"file_name": "a.png", "text": "x"}}\n\n{line}\n'})
    with pytest.raises(DataError, match=r"s/metadata\.jsonl, line 3 \(no caption of a named file\)") as caught:
        read_sidecars(made)
    assert '"file_name"' in caught.value.remedy


def test_of_many_malformed_lines_the_first_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metadata\.jsonl, lines 1, 2, 3, 4, 5 and 2 more \(no caption"):
        read(tmp_path, {"metadata.jsonl": "1\n" * 7})


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_csv_is_read_as_spreadsheets_write_it(tmp_path: Path, delimiter: str, end: str) -> None:
    lines = [["id", " file_name", "caption"], ["1", "a.png", '"say ""hi"", twice"'], ["2", "b.png", ""], ["3", "c.png"]]
    table = "\ufeff" + end.join(delimiter.join(line) for line in lines) + end * 2
    found = read(tmp_path, {"a.png": "", "b.png": "", "c.png": "", "metadata.csv": table})
    assert (found.first, found.rows) == ({"a.png": 'say "hi", twice'}, 3)
    assert found.blank == {"b.png": "metadata.csv", "c.png": "metadata.csv"}


def test_a_csv_of_something_else_gives_no_captions(tmp_path: Path) -> None:
    for table in ("image_id,label\n1,cat\n", "file_name,label\na.png,cat\n", "", "\n\n"):
        found = read(tmp_path, {"a.png": "", "metadata.csv": table})
        assert (found.captions, found.useless_tables, found.rows) == ({}, ["metadata.csv"], 0)


def test_a_table_without_captions_is_none(tmp_path: Path) -> None:
    labels = rows({"file_name": "a.png", "label": 0}, {"file_name": "b.png", "label": 1})
    found = read(tmp_path, {"a.png": "", "b.png": "", "a.txt": "a cat", "metadata.jsonl": labels})
    assert (found.first, found.useless_tables) == ({"a.png": "a cat"}, ["metadata.jsonl"])


def test_numbers_of_any_length_are_no_fault_of_captions(tmp_path: Path) -> None:
    long = f'{{"file_name": "b.png", "caption": "b", "seed": {"9" * 5000}}}'
    found = read(tmp_path, {"a.png": "", "b.png": "", "a.json": long, "metadata.jsonl": long})
    assert found.first == {"a.png": "b", "b.png": "b"}


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_row_of_more_fields_than_columns_is_refused(tmp_path: Path, delimiter: str) -> None:
    """As one with a comma in its caption and no quotes is, of which the rest would be lost."""
    table = "file_name,text\na.png,a cat\nb.png,a cat, sitting, on a mat\n".replace(",", delimiter)
    with pytest.raises(DataError, match=r"metadata\.csv, line 3 \(more fields than columns\)") as caught:
        read(tmp_path, {"a.png": "", "b.png": "", "metadata.csv": table})
    assert "quotes" in caught.value.remedy


@pytest.mark.parametrize("nothing", ["null", "NULL", "NaN", "None", " n/a "])
def test_a_field_that_holds_nothing_in_words_is_no_caption(tmp_path: Path, nothing: str) -> None:
    found = read(tmp_path, {"a.png": "", "metadata.csv": f"File_Name,Text\na.png,{nothing}\n"})
    assert (found.first, found.blank) == ({}, {"a.png": "metadata.csv"})


def test_excels_line_for_the_delimiter_is_skipped(tmp_path: Path) -> None:
    found = read(tmp_path, {"a.png": "", "metadata.csv": 'sep=;\r\nfile_name;text\r\na.png;"a; b"\r\n'})
    assert found.first == {"a.png": "a; b"}
    with pytest.raises(DataError, match=r"line 4 \(no CSV"):
        read(tmp_path, {"a.png": "", "metadata.csv": 'sep=;\nfile_name;text\na.png;a\nb.png;"x"y\n'})


@pytest.mark.parametrize("rest", ['"a.png,x\n', 'a.png,"x"y\n', "a.png," + "x" * 200_000])
def test_a_damaged_csv_is_named(tmp_path: Path, rest: str) -> None:
    with pytest.raises(DataError, match=r"metadata\.csv, line \d+ \(no CSV, "):
        read(tmp_path, {"a.png": "", "metadata.csv": f"file_name,text\nb.png,y\n{rest}"})


def test_a_webdataset_tar_has_image_and_caption_by_stem(tmp_path: Path) -> None:
    """As img2dataset writes them: the caption as a text, and again among what is known of the image."""
    folder = tmp_path / "shard"
    folder.mkdir()
    for at in range(3):
        (folder / f"00{at}.jpg").write_bytes(b"jpg")
        (folder / f"00{at}.txt").write_text(f"picture {at}")
        (folder / f"00{at}.json").write_text(
            json.dumps({"caption": f"picture {at}", "key": f"00{at}", "status": "success"})
        )
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    found = read_sidecars(list(extract_archive(tmp_path / "00000.tar", tmp_path / "out")))
    assert found.first == {f"00{at}.jpg": f"picture {at}" for at in range(3)}
    assert not found.contradicted


def linked(tmp_path: Path, links: dict[str, str], stored: dict[str, str]) -> Path:
    """A dataset of links, and what lies beside it."""
    for name, text in stored.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for key, target in links.items():
        (tmp_path / "data" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / key).symlink_to(tmp_path / target)
    return tmp_path / "data"


ANNEX = ".git/annex/objects"
PNG_KEY, TXT_KEY = "SHA256E-s3--0a.png", "SHA256E-s5--0b.txt"
STORES = {
    "beside it": ("pool/a.png", "pool/a.txt"),
    "below it": ("pool/a.png", "pool/texts/a.txt"),
    "git-annex": (f"{ANNEX}/1x/Gq/{PNG_KEY}/{PNG_KEY}", f"{ANNEX}/zz/0K/{TXT_KEY}/{TXT_KEY}"),
    "DVC": (f"cache/files/md5/ab/{'0' * 30}", f"cache/files/md5/cd/{'1' * 30}"),
    "a hub": (f"blobs/{'a' * 64}", f"blobs/{'b' * 40}"),
}


@pytest.mark.parametrize("store", STORES)
def test_a_caption_is_read_through_a_link_where_its_images_leads(tmp_path: Path, store: str) -> None:
    image, text = STORES[store]
    table = f"{text.rpartition('/')[0]}/t.jsonl" if store in ("beside it", "a hub") else None
    links = {"d/a.png": image, "d/a.txt": text} | ({"metadata.jsonl": table} if table else {})
    stored = {image: "", text: "a cat"} | ({table: rows({"file_name": "d/a.png", "text": "a dog"})} if table else {})
    found = read_sidecars(list(list_files(linked(tmp_path, links, stored))))
    assert (found.first, found.left_out, found.rows) == ({"d/a.png": "a cat"}, set(), int(table is not None))


OUT = {
    "no link of its image": ("a.png", None, "home/secret"),
    "another folder": ("a.png", "pool/a.png", "home/secret"),
    "above the image": ("a.png", "home/pictures/a.png", "home/secret"),
    "a folder whose name begins alike": ("a.png", "home/s/a.png", "home/secrets/a"),
    "another image's folder": ("b.png", "home/a.png", "home/secret"),
    "a folder beside a store": ("a.png", f"cache/md5/ab/{'0' * 30}", "cache/secret"),
}


@pytest.mark.parametrize("kind", OUT)
@pytest.mark.parametrize("name", ["a.txt", "a.png.JSON", "metadata.jsonl"])
def test_a_link_out_of_the_dataset_gives_no_caption_unless_asked_for(tmp_path: Path, kind: str, name: str) -> None:
    image, target, secret = OUT[kind]
    if kind == "another image's folder" and name == "metadata.jsonl":
        image, target = "d/a.png", "pool/a.png"
    text = rows({"file_name": image, "text": "a key", "caption": "a key"})
    links = {name: secret} | ({image: target} if target else {})
    folder = linked(tmp_path, links, {secret: text} | ({target: ""} if target else {}))
    (folder / "a.png").touch()
    found = read_sidecars(list(list_files(folder)))
    assert (found.captions, found.left_out) == ({}, {name})
    asked = read_sidecars(list(list_files(folder, follow_links=True)))
    assert (bool(asked.captions), asked.left_out) == (True, set())


def test_links_within_a_dataset_that_is_a_link_itself_are_read(tmp_path: Path) -> None:
    folder = linked(tmp_path, {"a.txt": "data/texts/1"}, {"data/texts/1": "a cat", "data/a.png": ""})
    (tmp_path / "link").symlink_to(folder)
    assert read_sidecars(list(list_files(tmp_path / "link"))).first == {"a.png": "a cat"}
