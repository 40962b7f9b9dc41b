"""Reads what finished runs are compared by. Nothing is written into them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import ValidationError

from job import layout
from job.errors import ExitCode, JobError
from job.layout import Member
from job.report.artefacts import missing, rows, stored
from job.report.schema import Comparison, MemberReport
from job.run.resolved import Resolved
from job.run.samples import SampleIndex
from job.run.verify import Depth, require_whole
from job.storage import is_remote
from job.storage.folder import RunFolder
from job.storage.uris import local_path
from lora_engine.records import CaptionRecord, ImageRecord


@dataclass(frozen=True)
class FinishedRun:
    """A run that has a report."""

    folder: RunFolder
    resolved: Resolved
    comparison: Comparison
    held_out: tuple[tuple[str, str], ...]  # id and group of each held-out image, ascending

    @cached_property
    def variants(self) -> tuple[str, ...]:
        """The names of the variants, in the order of the report."""
        return tuple(dict.fromkeys(member.variant for member in self.comparison.members))

    def members(self, variant: str) -> list[MemberReport]:
        """The adapters of a variant, one a seed."""
        return [member for member in self.comparison.members if member.variant == variant]

    def held_out_captions(self, variant: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The id and the texts of each held-out image, ascending. Raises JobError 46 where captions are missing."""
        ids = {image for image, _ in self.held_out}
        found = rows(self.folder, layout.captions(self.resolved.set_of_variant[variant]), CaptionRecord)
        return tuple(sorted((record.id, record.texts) for record in found if record.id in ids))

    @cached_property
    def drawn(self) -> dict[Member, SampleIndex]:
        """What is stored of the last pictures of each variant's first adapter that has some."""
        found: dict[Member, SampleIndex] = {}
        for report in self.comparison.members:
            member = Member(report.variant, report.seed)
            last = max((point.step for point in report.samples), default=None)
            is_last = report.diverged_at is None and last == report.final.step
            if not is_last or last is None or any(member.variant == other.variant for other in found):
                continue
            key = layout.sample_index(member, last, self.resolved.sample_set)
            index = self.folder.read_stored(key, SampleIndex)
            if index is None:
                raise missing(self.folder, key)
            found[member] = index
        return found


def read_run(folder: RunFolder) -> FinishedRun:
    """Read a run. Raises JobError 46 where it has no report, one of another version, or one of another run."""
    resolved = stored(folder, layout.RESOLVED, Resolved)
    folder.read_json(layout.RESOLVED)  # It also refuses numbers and characters that no JSON can be written with.
    data = folder.read(layout.COMPARISON)
    if data is None:
        raise _no_report(folder, "is missing: the run is not finished, or its report was removed")
    try:
        comparison = Comparison.model_validate_json(data)
    except (ValidationError, RecursionError) as error:
        raise _no_report(folder, "is not a report that this version writes") from error
    members = {member for pack in resolved.packs for member in pack.members}
    if {Member(each.variant, each.seed) for each in comparison.members} != members or not members:
        raise _no_report(folder, "has other adapters than the run")
    images = [image for image in rows(folder, layout.IMAGES, ImageRecord) if image.split == "validation"]
    held_out = tuple(sorted((image.id, str(image.group)) for image in images))
    return FinishedRun(folder, resolved, comparison, held_out)


def require_unaltered(folder: RunFolder) -> None:
    """Raise JobError 46 where a finished run's files, from which it is put beside others, are not as it lists them."""
    if folder.exists(layout.SUCCESS):
        require_whole(folder, Depth.RECORDS, only=_is_read)


def _is_read(key: str) -> bool:
    is_of_set = key.startswith(f"{layout.CAPTIONS}/") or key.endswith(f"/{layout.SAMPLE_INDEX_NAME}")
    return is_of_set or key in (layout.SUCCESS, layout.RESOLVED, layout.COMPARISON, layout.IMAGES)


def _no_report(folder: RunFolder, what: str) -> JobError:
    return JobError(
        ExitCode.CONFLICT,
        f"{folder.uri(layout.COMPARISON)} {what}.",
        f"Write it with `lora-job report {folder.root}`.",
    )


def require_different(folders: Sequence[RunFolder]) -> None:
    """Raise JobError 2 where two folders are one run."""
    places = [_place(folder.root) for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise JobError(ExitCode.USAGE, f"{folder.root} is named twice.", "Name each run once.")


def _place(root: str) -> str:
    return root.rstrip("/") if is_remote(root) else str(local_path(root).resolve())
