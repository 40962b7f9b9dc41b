"""The measures of a set of samples that are not the study's own, and the pictures that show them."""

from collections.abc import Mapping, Sequence

from job import layout
from job.layout import Member
from job.report.picture_schema import SampledMember, SampledPair, SampledSet
from job.report.pictures import Pictures
from job.report.samples import draw_copies, plot_grid
from job.storage.folder import RunFolder, json_bytes
from lora_engine.records import ImageRecord


def publish_set(
    run: RunFolder,
    images: Sequence[ImageRecord],
    members: Sequence[Member],
    pairs: Sequence[tuple[str, str]],
    set_name: str,
    headings: Mapping[int, str],
) -> None:
    """Measure a set's samples, and write the measures and the pictures that show them.

    Args:
        images: all records of `data/images.jsonl`; none where an adapter is not a run's.
        pairs: of variants that are compared.
        headings: step to what the pictures say instead of its number.

    Raises:
        JobError: 46 when a file is missing or damaged.
    """
    pictures = Pictures(run, images, members, set_name)
    of_variant: dict[str, list[Member]] = {}
    for member in members:
        of_variant.setdefault(member.variant, []).append(member)
    found = SampledSet(
        name=set_name,
        clip_sha256=pictures.clip_sha256,
        likeness=pictures.likeness(),
        members=[
            SampledMember(
                variant=member.variant,
                seed=member.seed,
                samples=pictures.points(member),
                memorised=pictures.memorised([member]),
            )
            for member in members
        ],
        variants=[found for of in of_variant.values() if (found := pictures.variant(of)) is not None],
        pairs=[
            SampledPair(a=a, b=b, seeds=len(of_variant[a]), pictures=difference)
            for a, b in pairs
            if (difference := pictures.pair(of_variant[a], of_variant[b], len(pairs))) is not None
        ],
    )
    run.write(layout.set_measures(set_name), json_bytes(found.model_dump(mode="json")))
    grid = plot_grid(run, pictures, headings)
    copies = draw_copies(run, {f"{m.variant}, seed {m.seed}": m.memorised for m in found.members})
    for key, data in ((layout.set_grid(set_name), grid), (layout.set_copies(set_name), copies)):
        if data is not None:
            run.write(key, data)
        elif run.exists(key):
            run.delete(key)  # It was of fewer steps.
