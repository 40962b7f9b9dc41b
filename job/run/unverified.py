"""Which sources came over a network without anything that tells whether their bytes arrived as they were stored."""

from collections.abc import Collection, Mapping

from job import layout
from job.run.context import Workplace
from job.storage.folder import RunFolder
from job.storage.stored import StoredJson


class UnverifiedSource(StoredJson):
    """A source, and what of it could not be verified by any of the attempts that fetched it."""

    files: int
    example: str  # the URI or name of one of them
    names: tuple[str, ...] = ()  # URIs or names of all, sorted; earlier versions did not write them


class Unverified(StoredJson):
    """`data/unverified.json`, which only a run with such sources has."""

    sources: dict[str, UnverifiedSource] = {}


def note_unverified(place: Workplace, source: str, names: Collection[str]) -> None:
    """Note, and warn, that these files of a source could not be verified, beside those that were noted before.

    `write_unverified` writes it into the run.
    """
    noted = place.unverified.get(source, frozenset())
    if new := sorted({*names} - noted):
        place.unverified[source] = noted | {*new}
        place.progress.warn(
            f"{source}: {len(new)} files came without a checksum, for example {new[0]}: whether they arrived as "
            "they were stored is not known"
        )


def write_unverified(run: RunFolder, found: Mapping[str, Collection[str]], made_anew: Collection[str] = ()) -> None:
    """Write into a run, which this process may write, what `note_unverified` noted, beside what earlier attempts did.

    Args:
        made_anew: sources of which the run uses nothing that an earlier attempt fetched.
    """
    before = run.read_stored(layout.UNVERIFIED, Unverified) or Unverified()
    kept = {source: entry for source, entry in before.sources.items() if source not in made_anew}
    now = Unverified(sources=kept | {source: _with(kept.get(source), names) for source, names in found.items()})
    if now != before:
        run.delete(layout.SUCCESS)  # The report is to say it.
        run.write_stored(layout.UNVERIFIED, now)


def _with(before: UnverifiedSource | None, names: Collection[str]) -> UnverifiedSource:
    """What an attempt found of a source, with what was known of it."""
    if before is None:
        return UnverifiedSource(files=len(names), example=min(names), names=tuple(sorted(names)))
    known = {*before.names, *names}
    # Of an earlier version's files only the number and one name are known: these may be among them.
    files = max(before.files, len(known | {before.example}))
    return UnverifiedSource(files=files, example=before.example, names=tuple(sorted(known)))


def unverified_notes(run: RunFolder) -> list[str]:
    """A sentence for the report on each source that could not be verified."""
    found = run.read_stored(layout.UNVERIFIED, Unverified) or Unverified()
    return [
        f"Of {name}, {source.files} files are unverified: neither the store nor the files have a checksum, so damage "
        f"on the way would not have been noticed. One is {source.example}."
        for name, source in sorted(found.sources.items())
    ]
