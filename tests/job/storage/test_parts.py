"""Which unfinished files are removed: those of this user that are old, and that no living process writes."""

import fcntl
import os
import time
from pathlib import Path

import pytest

from job.storage.files import sweep_parts


def part(folder: Path, name: str, age_seconds: float) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.part-{'0a' * 8}"
    path.touch()
    os.utime(path, (time.time() - age_seconds,) * 2)
    return path


def test_what_a_killed_process_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    old, lock, new = (part(tmp_path / "run", name, age) for name, age in (("a", 7200), ("b", 7200), ("c", 10)))
    other = part(tmp_path / "run", "d", 7200).rename(tmp_path / "run" / "d.part-of-a-song")
    at_work = part(tmp_path / "run", "e", 7200)
    link = tmp_path / "run" / f"f.part-{'0b' * 8}"
    link.symlink_to(part(tmp_path / "elsewhere", "g", 7200))
    with at_work.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        sweep_parts(tmp_path / "run", 3600)
    assert sorted((tmp_path / "run").iterdir()) == sorted([new, other, at_work, link])
    assert not old.exists()
    assert not lock.exists()
    assert link.exists()
    sweep_parts(tmp_path / "run")
    assert sorted((tmp_path / "run").iterdir()) == sorted([other, link])


def test_what_another_user_left_stays(tmp_path: Path) -> None:
    path = part(tmp_path / "run", "a", 7200)
    try:
        os.chown(path, 12345, -1)
    except PermissionError:
        pytest.skip("only root can give a file to another user")
    sweep_parts(tmp_path / "run", 3600)
    assert path.exists()
