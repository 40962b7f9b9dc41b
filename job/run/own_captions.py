"""What is used of the captions that came with a run's images, and what is to be said of them."""

import posixpath
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import Field

from job.storage.stored import StoredJson
from lora_engine.captions.strategies import NO_CAPTION_REMEDY, lacks_missing
from lora_engine.config.captions import CaptionsConfig
from lora_engine.errors import DataError
from lora_engine.images.caption_files import KEYS
from lora_engine.images.sidecars import BESIDE, OwnCaptions, read_sidecars
from lora_engine.records import ImageRecord, SourceFile, used_images

_MOST_NAMED = 10  # images, in a sentence


class OwnCaptionFacts(StoredJson):
    """`data/own-captions.json`: what was read of the captions that came with the images."""

    images: int = Field(description="Images used.")
    missing: int = Field(description="Of these, images without a caption of their own.")
    sources: dict[str, int] = Field(description="Kind of file to the number of images whose captions it gave.")
    from_copies: int = Field(description="Images that had none, and got that of a file with the same bytes.")
    several: int = Field(description="Images with several lines or rows.")
    further: int = Field(description="Lines and rows beyond the first.")
    contradicted: int = Field(description="Images of which another file gives other captions, which do not count.")
    rows: int = Field(description="Rows of metadata.jsonl and metadata.csv.")
    stray_rows: int = Field(description="Rows that name no file of the dataset.")
    warnings: tuple[str, ...] = Field(description="What is odd, for a person.")

    @property
    def text(self) -> str:
        """The facts as a sentence without its end."""
        kinds = ", ".join(f"{kind}: {count}" for kind, count in self.sources.items())
        said = [
            f"{self.images - self.missing} of {self.images} images have one of their own" + f" ({kinds})" * bool(kinds)
        ]
        counted = (
            (self.missing, "missing"),
            (self.from_copies, "from copies"),
            (self.several, f"with several, {self.further} further lines or rows"),
            (self.contradicted, "contradicted by another file"),
            (self.stray_rows, f"of {self.rows} rows name no file"),
        )
        return "; ".join([*said, *(f"{count} {what}" for count, what in counted if count)])


@dataclass(frozen=True)
class FoundCaptions:
    """The captions that came with the images that are used."""

    of: dict[str, tuple[str, ...]]  # key of the image's file to its captions; without those that have none
    without: tuple[str, ...]  # the images that have none, each with why, if a file is there that should give one
    facts: OwnCaptionFacts
    behind_links: bool = False  # whether files are left out since they are links out of the dataset


def find_own_captions(files: Sequence[SourceFile], records: Sequence[ImageRecord]) -> FoundCaptions:
    """Read the captions, of all files of the dataset. An image without gets those of a copy that is not used.

    Raises:
        DataError: files cannot be read or are not text; it names all of them.
    """
    own = read_sidecars(files)
    copies: dict[str, list[str]] = {}
    for record in records:
        if record.duplicate_of is not None and record.source in own.captions:
            copies.setdefault(record.duplicate_of, []).append(record.source)
    used = [record.source for record in used_images(records)]
    giver = {
        key: key if key in own.captions else copies[key][0] for key in used if key in own.captions or key in copies
    }
    found = {key: own.captions[of] for key, of in giver.items()}
    sources = Counter(_kind(own.source[of]) for of in giver.values())
    facts = OwnCaptionFacts(
        images=len(used),
        missing=len(used) - len(found),
        sources=dict(sorted(sources.items())),
        from_copies=sum(key != of for key, of in giver.items()),
        several=sum(len(captions) > 1 for captions in found.values()),
        further=sum(len(captions) - 1 for captions in found.values()),
        contradicted=sum(key in own.contradicted for key in used),
        rows=own.rows,
        stray_rows=len(own.stray_rows),
        warnings=tuple(_warnings(own, used, found, copies)),
    )
    without = tuple(f"{key}{_why(own, key)}" for key in used if key not in found)
    return FoundCaptions(found, without, facts, bool(own.left_out))


def require_captions(own: FoundCaptions, configs: Iterable[CaptionsConfig]) -> None:
    """Make sure that every image has a caption of its own, or that the strategies say what others get.

    Raises:
        DataError: neither is so.
    """
    if own.without and lacks_missing(configs):
        count, is_one = len(own.without), len(own.without) == 1
        raise DataError(
            f"{count} of {own.facts.images} images {'has' if is_one else 'have'} no caption of "
            f"{'its' if is_one else 'their'} own: {named(own.without)}.",
            NO_CAPTION_REMEDY + " dataset.follow_links: true reads those behind links." * own.behind_links,
        )


def _kind(file: str) -> str:
    """What a file is called in counts: a table by its name, others by their suffix."""
    name = posixpath.basename(file).lower()
    return next((suffix for suffix in BESIDE if name.endswith(suffix)), name)


def _why(own: OwnCaptions, key: str) -> str:
    if (file := own.blank.get(key)) is None:
        return ""
    if file in own.left_out:
        return f" ({file} is a link out of the dataset)"
    return f" ({file} {'is empty' if _kind(file) in ('.txt', '.caption') else 'gives none'})"


def _warnings(
    own: OwnCaptions, used: Sequence[str], found: dict[str, tuple[str, ...]], copies: dict[str, list[str]]
) -> Iterable[str]:
    if own.left_out:
        count = len(own.left_out)
        yield (
            f"{count} caption file{'s are links' if count > 1 else ' is a link'} out of the dataset, and left out: "
            f"{named(sorted(own.left_out))}; dataset.follow_links: true reads such files"
        )
    if own.stray_rows:
        table, name = own.stray_rows[0]
        yield f"{len(own.stray_rows)} of {own.rows} rows name no file of the dataset, such as {name} in {table}"
    for table in own.useless_tables:
        yield f"{table} gives no captions: it needs a file_name and a {', '.join(KEYS[:-1])} or {KEYS[-1]} in its rows"
    if own.stray_files:
        yield (
            f"{_count(own.stray_files, 'file')} of captions not used, since another is written exactly as the image: "
            f"{named(own.stray_files)}"
        )
    differ = [f"{k} ({own.source[k]} counts, not {own.contradicted[k]})" for k in used if k in own.contradicted]
    if differ:
        yield f"of {_count(differ, 'image')} another file gives another caption, which does not count: {named(differ)}"
    others = [f"{k} ({each})" for k in used for each in copies.get(k, ()) if own.captions[each] != found[k]]
    if others:
        yield (
            f"of {_count(others, 'image')} a copy has another caption, which is not used (preprocess.deduplicate): "
            f"{named(others)}"
        )
    empty = {key: file for key, file in own.blank.items() if file not in own.left_out}
    blank = [f"{key} ({empty[key]})" for key in used if key in empty]
    if blank:
        yield f"of {_count(blank, 'image')} the entry is there and gives no caption: {named(blank)}"
    if own.beside_none and len(found) < len(used):
        yield (
            f"{_count(own.beside_none, 'file')} of captions may be meant for images that have none, but lie beside no "
            f"image of their name: {named(own.beside_none)}"
        )


def _count(things: Sequence[str], noun: str) -> str:
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def named(things: Sequence[str]) -> str:
    """The first of the things, and how many more there are."""
    more = f" and {len(things) - _MOST_NAMED} more" * (len(things) > _MOST_NAMED)
    return ", ".join(things[:_MOST_NAMED]) + more
