"""Gives what is made in a scratch folder the rights of the folder around it, or fewer where the umask says so."""

import stat
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make a folder and what lacks above it, each with the rights of the folder that it is made in. Raises OSError."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=_rights_of(folder.parent), exist_ok=True)


def adopt(file: Path) -> None:
    """Take from a new file the rights that the folder around it does not give. Raises OSError."""
    rights = stat.S_IMODE(file.stat().st_mode)
    if rights & ~_rights_of(file.parent):  # Some file systems refuse every change of rights.
        file.chmod(rights & _rights_of(file.parent))


def _rights_of(folder: Path) -> int:
    """What others may do there; the owner of what is made may do all with it."""
    return folder.stat().st_mode & 0o777 | 0o700
