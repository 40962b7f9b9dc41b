"""The scratch folder: whose it is, and who may read what lies there."""

import os
import stat
import tempfile
import zipfile
from pathlib import Path

import pytest

from job import env
from job.errors import ExitCode, JobError
from lora_engine.images.sources import extract_archive
from lora_engine.system.scratch import adopt, make_folder


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder, in which anybody may make anything."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_scratch_in_the_temporary_folder_is_the_users_alone(shared: Path) -> None:
    made = env.workdir({}, None, "study")
    assert made == shared / f"lora-job-{os.geteuid()}" / "study"
    assert [rights(folder) for folder in (made, made.parent)] == [0o700, 0o700]
    assert env.workdir({}, None, "study") == made


@pytest.mark.usefixtures("shared")
def test_what_is_made_there_has_the_rights_of_its_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("a.txt", "a cat")
    (tmp_path / "open").mkdir(mode=0o755)
    for outer, folder, file in ((env.workdir({}, None, "study"), 0o700, 0o600), (tmp_path / "open", 0o755, 0o644)):
        (unpacked,) = extract_archive(tmp_path / "a.zip", outer / "dataset" / "members")
        assert [rights(outer / "dataset"), rights(Path(unpacked.path))] == [folder, file]


def test_the_umask_may_take_more(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        make_folder(tmp_path / "a" / "b")
        (tmp_path / "a" / "file").write_text("")
        adopt(tmp_path / "a" / "file")
    finally:
        os.umask(before)
    assert rights(tmp_path / "a" / "b") & 0o027 == 0
    assert rights(tmp_path / "a" / "file") & 0o027 == 0


def planted(folder: Path, how: str, elsewhere: Path) -> None:
    if how == "a link":
        elsewhere.mkdir(mode=0o700)
        folder.symlink_to(elsewhere)
    elif how == "a dangling link":
        folder.symlink_to(elsewhere)
    elif how == "a file":
        folder.write_text("")
    else:
        folder.mkdir()
        folder.chmod(int(how, 8))


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("a link", ExitCode.UNSAFE),
        ("0777", ExitCode.UNSAFE),
        ("0750", ExitCode.UNSAFE),
        ("a file", ExitCode.UNSAFE),
        ("a dangling link", ExitCode.UNSAFE),
    ],
)
def test_what_was_planted_there_is_refused(shared: Path, tmp_path: Path, how: str, code: ExitCode) -> None:
    folder = shared / f"lora-job-{os.geteuid()}"
    planted(folder, how, tmp_path / "elsewhere")
    with pytest.raises(JobError, match=str(folder)) as caught:
        env.workdir({}, None, "study")
    assert caught.value.code == code
    assert not (folder / "study").exists()
    assert env.workdir({}, tmp_path / "chosen", "study").is_dir()


def test_another_users_folder_is_refused(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)  # for who runs these tests can hardly make another's
    (shared / f"lora-job-{owner + 1}").mkdir(mode=0o700)
    with pytest.raises(JobError, match=f"belongs to another user .number {owner}.") as caught:
        env.workdir({}, None, "study")
    assert caught.value.code == ExitCode.UNSAFE
