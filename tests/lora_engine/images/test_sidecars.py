from pathlib import Path

import pytest

from lora_engine.errors import DataError
from lora_engine.images.sidecars import read_sidecars, split_sidecars
from lora_engine.records import SourceFile


def files(tmp_path: Path, contents: dict[str, bytes | str]) -> list[SourceFile]:
    made = []
    for at, (key, content) in enumerate(contents.items()):
        path = tmp_path / f"{at}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        made.append(SourceFile(key, str(path)))
    return made


def test_a_text_belongs_to_every_image_of_its_stem(tmp_path: Path) -> None:
    made = files(
        tmp_path, {"a.png": "", "a.jpg": "", "a.TXT": "one", "d/a.png": "", "d/a.b.png": "", "d/a.b.txt": "two"}
    )
    assert read_sidecars(made) == {"a.png": "one", "a.jpg": "one", "d/a.b.png": "two"}
    pictures, sidecars = split_sidecars(made)
    assert [file.key for file in pictures] == ["a.png", "a.jpg", "d/a.png", "d/a.b.png"]
    assert [file.key for file in sidecars] == ["a.TXT", "d/a.b.txt"]


def test_a_text_without_an_image_is_a_file_like_others(tmp_path: Path) -> None:
    pictures, sidecars = split_sidecars(files(tmp_path, {"README.txt": "", "a.png": ""}))
    assert ([file.key for file in pictures], sidecars) == (["README.txt", "a.png"], [])


def test_what_a_mac_leaves_behind_is_not_read(tmp_path: Path) -> None:
    contents: dict[str, bytes | str] = {"a.png": "", "a.txt": "fine"}
    contents |= {f"__MACOSX/._a.{end}": b"\0\5\x16\7\xff\xfe" for end in ("png", "txt")}
    contents["__MACOSX/metadata.jsonl"] = b"\xff"
    made = files(tmp_path, contents)
    assert read_sidecars(made) == {"a.png": "fine"}
    assert len(split_sidecars(made)[0]) == 4


def test_text_is_utf8_with_or_without_mark_and_stripped(tmp_path: Path) -> None:
    made = files(tmp_path, {"a.png": "", "a.txt": "\ufeff café \r\n", "b.png": "", "b.txt": " \n"})
    assert read_sidecars(made) == {"a.png": "café"}
    twice = files(tmp_path, {"a.png": "", "a.txt": "\ufeff\ufeffcafé"})
    assert read_sidecars(twice) == {"a.png": "café"}
    with pytest.raises(DataError, match=r"c\.txt is not UTF-8"):
        read_sidecars(files(tmp_path, {"c.png": "", "c.txt": b"caf\xe9"}))


@pytest.mark.parametrize("key", [".", "..", "//.", "d/."])
def test_a_key_without_a_name_has_no_caption(tmp_path: Path, key: str) -> None:
    assert read_sidecars(files(tmp_path, {"a.png": "", "a.txt": "one", key: ""})) == {"a.png": "one"}


@pytest.mark.parametrize("text", ["a cat".encode("utf-16-le"), "a cat".encode("utf-16-be"), b"a\0"])
def test_a_text_with_nul_is_refused(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(DataError, match=r"d/c\.txt holds NUL"):
        read_sidecars(files(tmp_path, {"d/c.png": "", "d/c.txt": text}))


def test_a_text_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for target, reason in (("gone", "No such file"), (".", "Is a directory")):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(target)
        with pytest.raises(DataError, match=rf"c\.txt cannot be read \({reason}"):
            read_sidecars([*files(tmp_path, {"c.png": ""}), SourceFile("c.txt", str(tmp_path / "link"))])


def test_metadata_counts_from_its_folder_and_yields_to_a_text(tmp_path: Path) -> None:
    lines = '\ufeff{"file_name": "b.png", "text": " bee "}\r\n\n{"file_name": "./c/d.png", "caption": "dee"}'
    odd = '{"file_name": "top.png", "text": "one\u2028two\u0085three", "more": [1]}'
    made = files(
        tmp_path,
        {"s/b.png": "", "s/c/d.png": "", "s/metadata.jsonl": lines, "top.png": "", "metadata.jsonl": odd},
    )
    assert read_sidecars(made) == {"s/b.png": "bee", "s/c/d.png": "dee", "top.png": "one\u2028two\u0085three"}
    assert read_sidecars([*made, *files(tmp_path / "..", {"s/b.txt": "beetle"})])["s/b.png"] == "beetle"


def test_metadata_names_a_file_composed_or_not(tmp_path: Path) -> None:
    lines = '{"file_name": "caf\u00e9.png", "text": "one"}\n{"file_name": "cafe\u0301s.png", "text": "two"}'
    made = files(tmp_path, {"cafe\u0301.png": "", "caf\u00e9s.png": "", "metadata.jsonl": lines})
    found = read_sidecars(made)
    assert [found[file.key] for file in made[:2]] == ["one", "two"]
    exact = lines + '\n{"file_name": "cafe\u0301.png", "text": "three"}'
    made = files(tmp_path, {"cafe\u0301.png": "", "caf\u00e9.png": "", "metadata.jsonl": exact})
    found = read_sidecars(made)
    assert [found[file.key] for file in made[:2]] == ["three", "one"]


def test_an_empty_text_is_no_caption(tmp_path: Path) -> None:
    lines = '{"file_name": "a.png", "text": ""}\n{"file_name": "b.png", "text": " "}'
    assert read_sidecars(files(tmp_path, {"a.png": "", "b.png": "", "b.txt": "", "metadata.jsonl": lines})) == {}


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
        '{"file_name": "a.png", "text": null}',
        '{"file_name": "a.png", "text": ["x"]}',
        '{"file_name": "a.png", "text": "a\\u0000"}',
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str) -> None:
    made = files(tmp_path, {"s/metadata.jsonl": f'{{"file_name": "a.png", "text": "x"}}\n\n{line}\n'})
    with pytest.raises(DataError, match=r"s/metadata\.jsonl, line 3 ") as caught:
        read_sidecars(made)
    assert '"file_name"' in caught.value.remedy
