"""Turns files into square images, decides which are held out, and records what became of every file."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, replace

from job import layout
from job.errors import ExitCode, JobError
from job.manifest.packs import caption_sets
from job.run.changed_captions import own_captions_hash, refuse_other_captions
from job.run.context import Attempt
from job.run.dataset import Images, Prepared, SourceStamp
from job.run.identity import RESTORE_OR_RENAME
from job.run.own_captions import named, require_captions
from job.run.resolved import read_resolved
from job.run.unverified import write_unverified
from job.storage.folder import jsonl_bytes
from job.storage.transfer import write_all
from lora_engine.captions.strategies import needs_sidecars
from lora_engine.config.captions import CaptionsConfig
from lora_engine.errors import DataError, EngineError
from lora_engine.images.fates import data_warnings, fates_of, sentence
from lora_engine.images.prepare import PreparedImage, pixels_key, preprocess_images
from lora_engine.images.sidecars import split_sidecars
from lora_engine.images.split import assign, data_sha256, tell_copies_apart
from lora_engine.records import ImageRecord, SourceFile, used_images


def images_of(attempt: Attempt, fingerprint: str, fetch: Callable[[], Sequence[SourceFile]]) -> Images:
    """The images of the dataset: as an earlier attempt recorded them, or else prepared now.

    Args:
        fingerprint: of the dataset's source, see `fingerprint_of`; with another one, or other settings of
            preprocessing and split, the earlier records do not hold.
        fetch: brings the dataset's files to this machine. Called only where the images are prepared, now or later.

    Raises:
        DataError, JobError: as `_preprocess` says; 46 also where the records are those of no study.
    """
    config, split = attempt.manifest.preprocess, attempt.manifest.dataset.split
    stamp = SourceStamp(
        fingerprint=fingerprint,
        pixels=pixels_key(config),
        preprocess=config.model_dump(mode="json"),
        split=split.model_dump(mode="json"),
    )
    stored = attempt.run.read_stored(layout.SOURCE, SourceStamp)
    same = stored if stored is not None and stored.model_copy(update={"own_captions": None}) == stamp else None
    # A begun run keeps the groups and sides that its images have, though this version may see other likenesses.
    kept = same is not None or read_resolved(attempt) is not None
    rows = attempt.run.read_rows(layout.IMAGES, ImageRecord) if kept else None
    recorded = tuple(rows or ())
    begun = read_resolved(attempt) is not None
    configs = caption_sets(attempt.manifest).values()
    # What the hash was made of is known only where the run is begun: before that, strategies may change.
    if same is not None and rows is not None and (begun or not needs_sidecars(configs)):
        _check_both_sides(attempt, recorded)
        return Images(recorded, lambda: _preprocess(attempt, fetch(), recorded), same.own_captions if begun else None)
    prepared = _preprocess(attempt, fetch(), recorded)
    if not begun and needs_sidecars(configs):
        _require_captions(attempt, prepared, configs)
    own = own_captions_hash(attempt.manifest, prepared)
    made_anew = () if same or begun else (attempt.manifest.dataset.source,)
    write_unverified(attempt.run, attempt.unverified, made_anew)
    # It is written last: it says that the records are complete.
    attempt.run.write_stored(layout.SOURCE, stamp.model_copy(update={"own_captions": own}))
    return Images(prepared.records, lambda: prepared, own)


def _require_captions(attempt: Attempt, prepared: Prepared, configs: Collection[CaptionsConfig]) -> None:
    """Refuse missing captions before the run is begun with those that are there, and say what may be the cause."""
    try:
        require_captions(prepared.own, configs)
    except DataError:
        for warning in prepared.own.facts.warnings:
            attempt.progress.warn(f"Captions of the dataset: {warning}")
        raise


def _check_both_sides(attempt: Attempt, recorded: Sequence[ImageRecord]) -> None:
    """Refuse records that are those of no study."""
    if {"train", "validation"} <= {record.split for record in recorded}:
        return
    raise JobError(
        ExitCode.CONFLICT,
        f"{attempt.run.uri(layout.IMAGES)} names no image to train on, or none that is held out.",
        f"Restore it, or remove {attempt.run.uri(layout.SOURCE)} to have it written anew.",
    )


def _preprocess(attempt: Attempt, files: Sequence[SourceFile], recorded: Sequence[ImageRecord]) -> Prepared:
    """Prepare every image, and write their thumbnails and `data/images.jsonl`.

    Args:
        recorded: the records so far, see `assign`.

    Raises:
        DataError: there are too few images, or too many that cannot be used.
        JobError: 46 when the run was begun with other images, of which nothing is overwritten.
    """
    config, begun = attempt.manifest.preprocess, read_resolved(attempt)
    pictures = sorted(split_sidecars(files)[0], key=lambda file: file.key)
    prepared: list[PreparedImage] = []
    stored = {key for key, _ in attempt.run.list(layout.THUMBNAILS)}
    with attempt.progress.stage("preprocess", "Preparing images", total=len(pictures), unit="images") as stage:

        def thumbnails() -> Iterator[tuple[str, bytes]]:
            images = preprocess_images(pictures, config, attempt.workdir / "prepared")
            for image in tell_copies_apart(images) if config.deduplicate == "none" else images:
                key = layout.thumbnail(image.id)
                if image.thumbnail is not None and key not in stored and begun is None:
                    stored.add(key)
                    yield attempt.run.uri(key), image.thumbnail
                prepared.append(replace(image, thumbnail=None))
                stage.advance(1)
                attempt.stop.check()

        try:
            for _ in write_all(attempt.run.storage, thumbnails(), check=attempt.stop.check):
                pass
        except EngineError:
            # A signal may go to the worker processes, too: that they are gone is then the fault of nothing else.
            attempt.stop.check()
            raise
    records = assign(prepared, config, attempt.manifest.dataset.split, recorded)
    _tell(attempt, records)
    if begun is not None and begun.data_sha256 != data_sha256(records):
        # Earlier versions did not tell copies apart, and a run that one of them began goes on so.
        prepared = [replace(image, id=image.content, copy_of=None) for image in prepared]
        records = assign(prepared, config, attempt.manifest.dataset.split, recorded)
    if begun is not None and begun.data_sha256 != data_sha256(records):
        raise JobError(
            ExitCode.CONFLICT,
            f"{attempt.run.root} holds a run of this name with other images than are read of dataset.source now: "
            f"{_changes(recorded, records)}.",
            f"{RESTORE_OR_RENAME} A run that an earlier version began may have read files that this one leaves out, "
            "such as those in reg/: that version ends it.",
        )
    used = {record.id for record in records if record.used}
    paths = {image.id: image.path for image in prepared if image.id in used and image.path is not None}
    found = Prepared(tuple(files), records, paths)
    if begun is not None:
        refuse_other_captions(attempt, begun.identity, found)
    _write(attempt, records)
    return found


def _write(attempt: Attempt, records: Sequence[ImageRecord]) -> None:
    """Write what became of the files, where that is not what is there.

    A finished run of which a file has another name by now is to be reported again.
    """
    data = jsonl_bytes(map(asdict, records))
    if attempt.run.read(layout.IMAGES) != data:
        attempt.run.delete(layout.SUCCESS)
        attempt.run.write(layout.IMAGES, data)


def _changes(before: Sequence[ImageRecord], now: Sequence[ImageRecord]) -> str:
    """Which images are used now, which were, and which others are held out, for a person."""
    then, current = ({record.id: record for record in used_images(records)} for records in (before, now))
    gone = [then[image].source for image in then.keys() - current.keys()]
    new = [current[image].source for image in current.keys() - then.keys()]
    moved = [
        current[image].source for image in then.keys() & current.keys() if then[image].split != current[image].split
    ]
    said = [(gone, "no longer there"), (new, "new"), (moved, "on the other side of the split")]
    parts = [
        f"{named(sorted(sources))} {'is' if len(sources) == 1 else 'are'} {what}" for sources, what in said if sources
    ]
    return f"{len(then)} -> {len(current)} used; {'; '.join(parts) or 'their groups differ'}"


def _tell(attempt: Attempt, records: Sequence[ImageRecord]) -> None:
    """Say what became of the files, and what of it is odd."""
    fates = fates_of(records, attempt.manifest.preprocess.resolution)
    attempt.progress.say("data", sentence(records, fates), **asdict(fates))
    for warning in data_warnings(records, fates):
        attempt.progress.warn(warning)
