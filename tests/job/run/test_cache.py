"""What is computed once stays computed, however the computing ends."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from job.run.cache import text_cache
from job.storage import StorageSettings, open_storage
from job.storage.folder import RunFolder
from tests.s3_server import S3Server

NAMES = [f"name-{number}" for number in range(600)]
VALUES = {name: f"value of {name}" for name in NAMES}
UNUSED = Path("/dev/null/no-scratch")


def no_warning(text: str) -> None:
    raise AssertionError(text)


class Computer:
    """Computes values, until it is told to stop."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.asked: list[str] = []
        self._stop_after = stop_after

    def __call__(self, names: Sequence[str]) -> Iterator[tuple[str, str]]:
        for name in names:
            if len(self.asked) == self._stop_after:
                raise InterruptedError
            self.asked.append(name)
            yield name, f"value of {name}"


def not_needed(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    raise AssertionError(names)


def local_folder(path: Path) -> RunFolder:
    return RunFolder(open_storage(str(path), StorageSettings()), str(path))


def s3_folder(server: S3Server) -> RunFolder:
    root = f"s3://{server.make_bucket()}/cache"
    settings = StorageSettings(endpoint_url=server.endpoint_url, region="us-east-1", addressing_style="path")
    return RunFolder(open_storage(root, settings), root)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return local_folder(tmp_path)


@pytest.mark.parametrize("stop_after", [1, 255, 256, 257, 512, 599])
def test_what_was_computed_before_a_stop_is_kept(folder: RunFolder, stop_after: int) -> None:
    with pytest.raises(InterruptedError):
        list(text_cache(folder, UNUSED, no_warning).values(NAMES, Computer(stop_after)))
    rest = Computer()
    assert dict(text_cache(folder, UNUSED, no_warning).values(NAMES, rest)) == VALUES
    assert rest.asked == NAMES[stop_after:]


def test_what_a_reader_that_leaves_was_given_is_kept(folder: RunFolder) -> None:
    with closing(text_cache(folder, UNUSED, no_warning).values(NAMES, Computer())) as values:
        given = dict(next(values) for _ in range(300))
    rest = Computer()
    list(text_cache(folder, UNUSED, no_warning).values(NAMES, rest))
    assert set(rest.asked) == set(NAMES) - given.keys()


def test_equal_names_are_computed_once(folder: RunFolder) -> None:
    computer = Computer()
    assert list(text_cache(folder, UNUSED, no_warning).values(["a", "b", "a"], computer)) == [
        ("a", "value of a"),
        ("b", "value of b"),
    ]
    assert computer.asked == ["a", "b"]


def cut(data: bytes) -> bytes:
    return data[:-7]


def flip(data: bytes) -> bytes:
    return data.replace(b"value of name-7", b"value of name-8", 1)


@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize("remote", [False, True], ids=["folder", "s3"])
def test_a_damaged_entry_is_warned_of_and_computed_anew_once(
    tmp_path: Path, request: pytest.FixtureRequest, remote: bool, damage: Callable[[bytes], bytes]
) -> None:
    folder = s3_folder(request.getfixturevalue("s3_admin")) if remote else local_folder(tmp_path)
    list(text_cache(folder, tmp_path / "first", no_warning).values(NAMES, Computer()))
    key = next(key for key, _ in folder.list() if b"value of name-7" in (folder.read(key) or b""))
    folder.write(key, damage(folder.read(key) or b""))
    warnings: list[str] = []
    again = Computer()
    assert dict(text_cache(folder, tmp_path / "second", warnings.append).values(NAMES, again)) == VALUES
    assert again.asked == NAMES[:256]
    assert len(warnings) == 1
    assert f"{folder.uri(key)} is damaged" in warnings[0]
    assert dict(text_cache(folder, tmp_path / "third", no_warning).values(NAMES, not_needed)) == VALUES


def test_a_damaged_entry_that_is_computed_otherwise_does_not_stay(folder: RunFolder) -> None:
    list(text_cache(folder, UNUSED, no_warning).values(["a", "b"], Computer()))
    [(key, _)] = folder.list()
    folder.write(key, b"{}")
    warnings: list[str] = []
    list(text_cache(folder, UNUSED, warnings.append).values(["a"], Computer()))
    assert len(warnings) == 1
    assert not folder.exists(key)


def test_a_damaged_copy_is_fetched_again(tmp_path: Path, s3_admin: S3Server) -> None:
    folder = s3_folder(s3_admin)
    list(text_cache(folder, tmp_path, no_warning).values(NAMES, Computer()))
    copies = sorted(tmp_path.iterdir())
    assert [path.name for path in copies] == [key for key, _ in folder.list()]
    whole = copies[1].read_bytes()
    copies[1].write_bytes(whole[:100])
    warnings: list[str] = []
    assert dict(text_cache(folder, tmp_path, warnings.append).values(NAMES, not_needed)) == VALUES
    assert len(warnings) == 1
    assert str(copies[1]) in warnings[0]
    assert copies[1].read_bytes() == whole


def test_what_another_process_removes_or_stores_anew_meanwhile_is_left_to_it(folder: RunFolder) -> None:
    """Two processes find the same damage. The second has removed and stored it before the first removes it."""
    list(text_cache(folder, UNUSED, no_warning).values(NAMES, Computer()))
    first, *_, last = [key for key, _ in folder.list()]
    damaged = {key: folder.read(key) for key in (first, last)}
    folder.write(first, b"{")

    def other(_: str) -> None:
        folder.write(first, damaged[first] or b"")
        folder.delete(last)

    assert dict(text_cache(folder, UNUSED, other).values(NAMES, Computer())) == VALUES
    assert {key: folder.read(key) for key in (first, last)} == damaged


def test_entries_of_older_versions_are_left_alone(folder: RunFolder) -> None:
    folder.write(f"{'0' * 32}.shard", b'{"a": "of an older version"}')
    assert dict(text_cache(folder, UNUSED, no_warning).values(["a"], Computer())) == {"a": "value of a"}
    assert folder.exists(f"{'0' * 32}.shard")
