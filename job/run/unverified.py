"""Which sources came over a network without anything that tells whether their bytes arrived as they were stored."""

from collections.abc import Mapping

from job import layout
from job.run.context import Workplace
from job.storage.folder import RunFolder
from job.storage.stored import StoredJson


class UnverifiedSource(StoredJson):
    """A source, and what of it could not be verified."""

    files: int
    example: str  # the URI or name of one of them


class Unverified(StoredJson):
    """`data/unverified.json`, which only a run with such sources has."""

    sources: dict[str, UnverifiedSource] = {}


def note_unverified(place: Workplace, source: str, names: list[str]) -> None:
    """Note, and warn, that these files of a source could not be verified; nothing where there is none.

    `write_unverified` writes it into the run.
    """
    if names:
        place.unverified[source] = len(names), names[0]
        place.progress.warn(
            f"{source}: {len(names)} files came without a checksum, for example {names[0]}: whether they arrived as "
            "they were stored is not known"
        )


def write_unverified(run: RunFolder, found: Mapping[str, tuple[int, str]]) -> None:
    """Write into a run, which this process may write, what `note_unverified` noted."""
    if not found:
        return
    before = run.read_stored(layout.UNVERIFIED, Unverified) or Unverified()
    sources = {source: UnverifiedSource(files=files, example=example) for source, (files, example) in found.items()}
    now = Unverified(sources=before.sources | sources)
    if now != before:
        run.delete(layout.SUCCESS)  # The report is to say it.
        run.write_stored(layout.UNVERIFIED, now)


def unverified_notes(run: RunFolder) -> list[str]:
    """A sentence for the report on each source that could not be verified."""
    found = run.read_stored(layout.UNVERIFIED, Unverified) or Unverified()
    return [
        f"Of {name}, {source.files} files are unverified: neither the store nor the files have a checksum, so damage "
        f"on the way would not have been noticed. One is {source.example}."
        for name, source in sorted(found.sources.items())
    ]
