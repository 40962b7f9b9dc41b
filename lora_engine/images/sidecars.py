"""Captions that came with the images: in files beside them, or in tables that name them.

Where several files give captions of one image, the first in this order counts: a file of the image's whole name
(`a.png.txt`) before one of its stem (`a.txt`); among these `.txt`, `.caption`, `.json`; then the tables, that of the
innermost folder first, and there `metadata.jsonl` before `metadata.csv`.
"""

import posixpath
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lora_engine.errors import DataError
from lora_engine.images.caption_files import Row, UnfitError, captions_beside, rows_of
from lora_engine.images.kinds import is_leftover, may_be_image
from lora_engine.images.links import follows, images_below
from lora_engine.records import SourceFile

TABLES = ("metadata.jsonl", "metadata.csv")
BESIDE = (".txt", ".caption", ".json")
_MOST_NAMED = 100  # files that cannot be read


@dataclass
class OwnCaptions:
    """The captions that came with the images. Dictionaries are by the images' keys."""

    captions: dict[str, tuple[str, ...]] = field(default_factory=dict)  # one or more, in their order
    source: dict[str, str] = field(default_factory=dict)  # the key of the file that they are from
    contradicted: dict[str, str] = field(default_factory=dict)  # the key of a file that gives others: they do not count
    blank: dict[str, str] = field(default_factory=dict)  # of images without: the key of a file that should give one
    rows: int = 0  # of all tables
    stray_rows: list[tuple[str, str]] = field(default_factory=list)  # that name no image: the table's key, the name
    useless_tables: list[str] = field(default_factory=list)  # the keys of those without columns of names and captions
    stray_files: list[str] = field(default_factory=list)  # the keys of those whose image has one of exactly its name
    beside_none: list[str] = field(default_factory=list)  # of files that are called like captions, but of no image
    left_out: set[str] = field(default_factory=set)  # the keys of files that are links out of the dataset

    @property
    def first(self) -> dict[str, str]:
        """The first caption of each image that has any."""
        return {key: captions[0] for key, captions in self.captions.items()}

    def add(self, image: str, file: str, captions: tuple[str, ...]) -> None:
        """Take in what a file says of an image. Files come in the order in which they count."""
        if not captions:
            self.blank.setdefault(image, file)
        elif image not in self.captions:
            self.captions[image], self.source[image] = captions, file
        elif self.captions[image] != captions:
            self.contradicted.setdefault(image, file)


def split_sidecars(files: Sequence[SourceFile]) -> tuple[list[SourceFile], list[SourceFile]]:
    """Part the files that should be images from those that hold captions, which lie beside one or are tables.

    Files that systems leave behind hold none.

    Raises:
        OSError: the disk fails, or a file is gone.
    """
    images = [file.key for file in files if _parted(file.key)[1] not in BESIDE and may_be_image(file)]
    names = {_folded(name) for key in images for name in _names(key)}
    pictures: list[SourceFile] = []
    sidecars: list[SourceFile] = []
    for file in files:
        base, suffix = _parted(file.key)
        holds_captions = _is_table(file.key) or (suffix in BESIDE and _folded(base) in names)
        (sidecars if holds_captions and not is_leftover(file.key) else pictures).append(file)
    return pictures, sidecars


def without_captions(images: Sequence[str], sidecars: Sequence[str]) -> list[str]:
    """The images that no file of captions lies beside, by names alone; none where a table may name them."""
    if any(map(_is_table, sidecars)):
        return []
    bases = {_folded(_parted(key)[0]) for key in sidecars}
    return [key for key in images if bases.isdisjoint(map(_folded, _names(key)))]


def read_sidecars(files: Sequence[SourceFile]) -> OwnCaptions:
    """Read the captions of all images. An empty text is no caption.

    A file belongs to an image of its name; where there is none, to one whose name differs from it in case, or in how
    accents are written (as one character or two).

    Raises:
        DataError: files cannot be read or are not text; it names all of them.
    """
    pictures, sidecars = split_sidecars(files)
    keys = [picture.key for picture in pictures]
    unfit: list[tuple[str, UnfitError]] = []
    own = OwnCaptions()
    own.left_out = _left_out(pictures, sidecars)
    _read_beside(own, keys, [file for file in sidecars if not _is_table(file.key)], unfit)
    _read_tables(own, keys, [file for file in sidecars if _is_table(file.key) and file.key not in own.left_out], unfit)
    if unfit:
        raise _not_read(unfit)
    own.beside_none = [key for key in keys if _parted(key)[1] in BESIDE and not is_leftover(key)]
    own.blank = {image: file for image, file in own.blank.items() if image not in own.captions}
    return own


def _left_out(pictures: Sequence[SourceFile], sidecars: Sequence[SourceFile]) -> set[str]:
    """The keys of the caption files that are links which may not be followed."""
    named: dict[str, list[SourceFile]] = {}
    for picture in pictures:
        for name in _names(picture.key):
            named.setdefault(_folded(name), []).append(picture)
    left_out = set()
    for file in sidecars:
        images = images_below(file, pictures) if _is_table(file.key) else named.get(_folded(_parted(file.key)[0]), [])
        if not follows(file, images):
            left_out.add(file.key)
    return left_out


def _read_beside(
    own: OwnCaptions, keys: Sequence[str], sidecars: Sequence[SourceFile], unfit: list[tuple[str, UnfitError]]
) -> None:
    found: dict[str, tuple[str, ...]] = {}
    for file in sidecars:
        try:
            found[file.key] = () if file.key in own.left_out else captions_beside(file)
        except UnfitError as error:
            unfit.append((file.key, error))
    names = {name for key in keys for name in _names(key)}
    exact: dict[str, list[str]] = {}
    alike: dict[str, list[str]] = {}  # only those that no image has exactly the name of
    for sidecar in sorted(found, key=lambda key: (BESIDE.index(_parted(key)[1]), key)):
        base = _parted(sidecar)[0]
        exact.setdefault(base, []).append(sidecar)
        if base not in names:
            alike.setdefault(_folded(base), []).append(sidecar)
    strays = dict.fromkeys(found)
    for key in keys:
        for name in _names(key):
            for sidecar in exact.get(name) or alike.get(_folded(name)) or ():
                own.add(key, sidecar, found[sidecar])
                strays.pop(sidecar, None)
    own.stray_files = list(strays)


def _read_tables(
    own: OwnCaptions, keys: Sequence[str], tables: Sequence[SourceFile], unfit: list[tuple[str, UnfitError]]
) -> None:
    exact, alike = set(keys), _by_folded_name(keys)
    for table in sorted(tables, key=_order_of_tables):
        try:
            rows = rows_of(table)
        except UnfitError as error:
            unfit.append((table.key, error))
            continue
        if rows is None:
            own.useless_tables.append(table.key)
            continue
        said: dict[str, dict[str, None]] = {}
        for row in rows:
            image = next(_images_of(row, table.key, exact, alike), None)
            if image is None:
                own.stray_rows.append((table.key, row.name))
            else:
                said.setdefault(image, {}).update(dict.fromkeys(row.captions))
        own.rows += len(rows)
        for image, captions in said.items():
            own.add(image, table.key, tuple(captions))


def _images_of(row: Row, table: str, exact: set[str], alike: dict[str, str]) -> Iterator[str]:
    """The images that a row may mean, the best first: its name counts from the table's folder, or the dataset's."""
    names = dict.fromkeys((row.name, row.name.replace("\\", "/")))
    paths = [posixpath.normpath(posixpath.join(folder, n)) for folder in (posixpath.dirname(table), "") for n in names]
    yield from (path for path in paths if path in exact)
    yield from (alike[folded] for path in paths if (folded := _folded(path)) in alike)


def _by_folded_name(keys: Iterable[str]) -> dict[str, str]:
    """The images by their folded names, without those that share one."""
    found: dict[str, list[str]] = {}
    for key in keys:
        found.setdefault(_folded(key), []).append(key)
    return {folded: same[0] for folded, same in found.items() if len(same) == 1}


def _order_of_tables(file: SourceFile) -> tuple[int, int, str]:
    return -file.key.count("/"), TABLES.index(posixpath.basename(file.key).lower()), file.key


def _is_table(key: str) -> bool:
    return posixpath.basename(key).lower() in TABLES


def _names(key: str) -> tuple[str, ...]:
    """The names, without its suffix, that a file beside an image may have: the image's whole name, and its stem."""
    return tuple(dict.fromkeys((key, _parted(key)[0])))


def _parted(key: str) -> tuple[str, str]:
    """The key without its suffix, and the suffix in lower case; a name that begins with its only dot has none."""
    folder, slash, name = key.rpartition("/")
    stem, dot, suffix = name.rpartition(".")
    return (f"{folder}{slash}{stem}", f"{dot}{suffix}".lower()) if stem else (key, "")


def _folded(key: str) -> str:
    """What keys have in common that differ in case, or in how accents are written."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", key).casefold())


def _not_read(unfit: Sequence[tuple[str, UnfitError]]) -> DataError:
    """Names all files that cannot be read, by the reason."""
    reasons: dict[str, list[str]] = {}
    for key, error in unfit[:_MOST_NAMED]:
        reasons.setdefault(error.reason, []).append(f"{key}{error.place}")
    named = "; ".join(f"{', '.join(places)} ({reason})" for reason, places in reasons.items())
    more = f"; and {len(unfit) - _MOST_NAMED} more" * (len(unfit) > _MOST_NAMED)
    count = f"{len(unfit)} caption file{'s' if len(unfit) > 1 else ''}"
    remedies = " ".join(dict.fromkeys(error.remedy for _, error in unfit))
    return DataError(f"{count} cannot be read: {named}{more}.", remedies)
