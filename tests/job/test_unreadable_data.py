"""A dataset of which a part may not be read: what it is has its name and code, and one file is not the end."""

import os
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from job.errors import JobError, code_of
from job.run.dataset import source_fingerprint
from lora_engine.config.data import PreprocessConfig
from lora_engine.errors import DataError
from lora_engine.images.prepare import prepare
from lora_engine.images.sources import extract_archive, list_files
from tests.job.small_run import attempt_of, drawings

NOBODY = 65534


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may read everything."""
    user = os.geteuid()
    os.seteuid(user or NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that any user may enter, which is not so of a test's own."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def fingerprint(source: Path | str, tmp_path: Path) -> str:
    attempt, _ = attempt_of(tmp_path, f"dataset.source={source}")
    with ordinary_user():
        return source_fingerprint(attempt)


def test_an_image_that_may_not_be_read_is_a_row_with_its_reason(folder: Path) -> None:
    path = next(drawings(folder / "in").glob("*.png"))
    path.chmod(0)
    with ordinary_user():
        rows = {
            file.key: prepare(file, PreprocessConfig(), folder)
            for file in list_files(folder / "in")
            if file.path == str(path)
        }
    assert rows[path.name].rejected == "this user may not read it"


def test_an_archive_that_may_not_be_read_is_named(folder: Path) -> None:
    with tarfile.open(folder / "secret.tgz", "w:gz") as packed:
        packed.add(drawings(folder / "in"))
    (folder / "secret.zip").write_bytes(b"PK")
    for name in ("secret.tgz", "secret.zip"):
        (folder / name).chmod(0)
        with ordinary_user(), pytest.raises(DataError, match=rf"{name} cannot be read \(Permission denied\)"):
            list(extract_archive(folder / name, Path(tempfile.gettempdir())))


@pytest.mark.parametrize("mode", [0o000, 0o644])
def test_a_folder_within_that_may_not_be_read_is_named(folder: Path, tmp_path: Path, mode: int) -> None:
    inner = folder / "in" / "deep" / "inner"
    inner.mkdir(parents=True)
    (inner / "a.png").touch()
    inner.chmod(mode)
    with pytest.raises(JobError, match=r"/deep/inner(/a\.png)? cannot be used: Permission denied") as caught:
        fingerprint(folder / "in", tmp_path)
    assert code_of(caught.value) == 41


def test_a_name_that_no_file_can_have_is_41(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="File name too long") as caught:
        fingerprint("x" * 300, tmp_path)
    assert code_of(caught.value) == 41
