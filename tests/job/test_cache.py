"""What is computed once stays computed, however the computing ends."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from job.cache import text_cache
from job.storage import S3Settings, open_storage
from job.storage.run_folder import RunFolder

NAMES = [f"name-{number}" for number in range(600)]


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


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(open_storage(str(tmp_path), S3Settings()), str(tmp_path))


@pytest.mark.parametrize("stop_after", [1, 255, 256, 257, 512, 599])
def test_what_was_computed_before_a_stop_is_kept(folder: RunFolder, stop_after: int) -> None:
    with pytest.raises(InterruptedError):
        list(text_cache(folder, Path(folder.root) / "unused").values(NAMES, Computer(stop_after)))
    rest = Computer()
    assert dict(text_cache(folder, Path(folder.root) / "unused").values(NAMES, rest)) == {
        name: f"value of {name}" for name in NAMES
    }
    assert rest.asked == NAMES[stop_after:]


def test_what_a_reader_that_leaves_was_given_is_kept(folder: RunFolder) -> None:
    with closing(text_cache(folder, Path(folder.root) / "unused").values(NAMES, Computer())) as values:
        given = dict(next(values) for _ in range(300))
    rest = Computer()
    list(text_cache(folder, Path(folder.root) / "unused").values(NAMES, rest))
    assert set(rest.asked) == set(NAMES) - given.keys()


def test_equal_names_are_computed_once(folder: RunFolder) -> None:
    computer = Computer()
    assert list(text_cache(folder, Path(folder.root) / "unused").values(["a", "b", "a"], computer)) == [
        ("a", "value of a"),
        ("b", "value of b"),
    ]
    assert computer.asked == ["a", "b"]
