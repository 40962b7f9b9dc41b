"""Tells a dataset's images from the files beside them that never claimed to be one. All that count files ask here."""

import re
from pathlib import Path
from posixpath import splitext

from lora_engine.images.kohya import is_regularisation
from lora_engine.records import SourceFile

_READ = ".jpg .jpeg .jpe .jfif .mpo .png .webp .gif .bmp .dib .tif .tiff .avif".split()
_NOT_READ = ".heic .heif .jxl .jp2 .j2k .psd .svg .tga .exr .ppm .pgm .pbm .xcf .dng .cr2 .cr3 .nef .arw .orf".split()
_IMAGES = frozenset((*_READ, *_NOT_READ))
_ARCHIVES = frozenset(".zip .tar .gz .tgz .bz2 .xz .zst .7z .rar .cbz".split())
_SUFFIX = re.compile(r"\.[a-z0-9_]{1,12}")
_STARTS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF.{4}WEBP|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"
    rb"|II[*+]\0|MM\0[*+]|.{4}ftyp(?:avi[fs]|hei[cfmsx]|hev[cx]|mif1|msf1)|\0\0\0\x0cJXL |8BPS\0\x01",
    re.DOTALL,
)
_START_BYTES = 32

_LEFT_FILES = frozenset(("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"))
_LEFT_FOLDERS = frozenset(
    ("__macosx", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin", "lost+found",
     "system volume information")
)  # fmt: skip

LEFT_BEHIND = "left behind by a system"
BACKUP = "a backup or an unfinished copy, as its name says"
_BACKUP = re.compile(r".+(~|\.(bak|orig|tmp|part|crdownload)|\.[a-z]{3,4}_original)", re.IGNORECASE | re.DOTALL)
HIDDEN = "hidden, as its name or its folder's begins with a dot"
REGULARISATION = "in a folder for regularisation images, which are never trained on"
_ARCHIVE = "an archive; archives within the dataset are not opened"
_UNREADABLE = "this user may not read it"
_FOLDER_LINK = "a link to a folder; only links to files are followed"
_DEAD_LINK = "a link that leads nowhere"
MAY_HOLD_IMAGES = frozenset((_ARCHIVE, _UNREADABLE, _FOLDER_LINK, _DEAD_LINK))  # reasons that nobody may have meant


def why_left_out(key: str) -> str | None:
    """Why a file's name alone says that it is no part of the dataset, whatever it holds; None where it does not."""
    *folders, name = key.split("/")
    if name.lower() in _LEFT_FILES or any(folder.lower() in _LEFT_FOLDERS for folder in folders):
        return LEFT_BEHIND
    if any(part.startswith(".") for part in (*folders, name)):
        return HIDDEN
    if _BACKUP.fullmatch(name):
        return BACKUP
    return REGULARISATION if is_regularisation(key) else None


def is_leftover(key: str) -> bool:
    """Whether `why_left_out` says why; such files hold neither images nor captions."""
    return why_left_out(key) is not None


def claims_image(key: str) -> bool:
    """Whether a file's name says that it is an image of the dataset, be it one that cannot be read."""
    return not is_leftover(key) and has_image_suffix(key)


def has_image_suffix(key: str) -> bool:
    """Whether a file is named like an image, wherever it lies."""
    return _suffix(key) in _IMAGES


def may_be_image(file: SourceFile) -> bool:
    """Whether a file's name, or its first bytes, are an image's; of one that was only listed, a name without suffix is.

    Raises:
        OSError: as `why_ignored`.
    """
    if file.path:
        return why_ignored(file) is None
    return claims_image(file.key) or (not is_leftover(file.key) and not _suffix(file.key))


def why_ignored(file: SourceFile) -> str | None:
    """Why a file is none of the dataset's images; None where its name or its first bytes are those of an image.

    What is ignored counts as no broken image. The reasons are few: they are told together with how many files each has.

    Raises:
        OSError: the disk fails, or the file is gone.
    """
    if (why := why_left_out(file.key)) is not None or claims_image(file.key):
        return why
    try:
        with Path(file.path).open("rb") as opened:
            if _STARTS.match(opened.read(_START_BYTES)):
                return None
    except OSError as error:
        if (why := why_unread(Path(file.path), error)) is not None:
            return why
        raise
    suffix = _suffix(file.key)
    return _ARCHIVE if suffix in _ARCHIVES else f"not an image ({suffix or 'no suffix'})"


def why_unread(path: Path, error: OSError) -> str | None:
    """Why this one file cannot be read; None for a fault of the disk, or a file that is gone since it was listed."""
    if isinstance(error, PermissionError):
        return _UNREADABLE
    if isinstance(error, IsADirectoryError):
        return _FOLDER_LINK
    if path.is_symlink() and not path.exists():
        return _DEAD_LINK
    return None


def _suffix(key: str) -> str:
    """The suffix in lower case; empty where there is none, or what follows the dot is no suffix."""
    suffix = splitext(key)[1].lower()
    return suffix if _SUFFIX.fullmatch(suffix) else ""
