"""Which links of a dataset's caption files may be followed out of the dataset: a text is shown, and trained on.

Whoever makes a dataset could otherwise have any file of this machine read, if it is text, by a link beside an image.
"""

import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from lora_engine.records import SourceFile

# A file in a store that names files by their content, as git-annex and DVC do below folders that are named so, too.
# The first group is the store.
_STORED = re.compile(r"(.*)/(?:[0-9a-f]{2}/[0-9a-f]{30}|[^/]+/[^/]+/([A-Z0-9_]+-[^/]*--[^/]+)/\2)")


def leads_out(path: str, folder: str) -> bool:
    """Whether a file is a link to somewhere outside of the folder, whose own links are resolved already."""
    return Path(path).is_symlink() and not _is_below(os.path.realpath(path), folder)


def follows(file: SourceFile, images: Iterable[SourceFile]) -> bool:
    """Whether a caption file of these images may be read: it lies in the dataset, or in the tree of an image's link.

    That is the folder that an image's link leads into, as a hub's cache has one for all files, or the store that this
    is part of, as git-annex and DVC have.
    """
    if not file.leads_out:
        return True
    target = os.path.realpath(file.path)
    trees = {_tree_of(os.path.realpath(image.path)) for image in images if image.leads_out}
    return any(_is_below(target, tree) for tree in trees)


def images_below(table: SourceFile, images: Sequence[SourceFile]) -> list[SourceFile]:
    """The images in the folder of a table and below, which are those that it may name."""
    folder = posixpath.dirname(table.key)
    return [image for image in images if not folder or image.key.startswith(f"{folder}/")]


def _tree_of(target: str) -> str:
    stored = _STORED.fullmatch(target)
    return stored[1] if stored else posixpath.dirname(target)


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")
