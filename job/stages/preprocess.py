"""Turns files into square images, decides which are held out, and records what became of every file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace

from job import layout
from job.errors import ExitCode, JobError
from job.run.context import Attempt
from job.run.dataset import Images, Prepared, SourceStamp
from job.run.decisions import read_resolved
from job.run.unverified import write_unverified
from job.storage.transfer import write_all
from lora_engine.errors import DataError
from lora_engine.images.fates import data_warnings, fates_of, sentence
from lora_engine.images.prepare import PreparedImage, pixels_key, preprocess_images
from lora_engine.images.sidecars import split_sidecars
from lora_engine.images.split import assign, data_sha256, tell_copies_apart
from lora_engine.records import ImageRecord, SourceFile


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
    same = attempt.run.read_stored(layout.SOURCE, SourceStamp) == stamp
    # A begun run keeps the groups and sides that its images have, though this version may see other likenesses.
    kept = same or read_resolved(attempt) is not None
    rows = attempt.run.read_rows(layout.IMAGES, ImageRecord) if kept else None
    recorded = tuple(rows or ())
    if same and rows is not None:
        _check_both_sides(attempt, recorded)
        return Images(recorded, lambda: _preprocess(attempt, fetch(), recorded))
    prepared = _preprocess(attempt, fetch(), recorded)
    write_unverified(attempt.run, attempt.unverified)
    attempt.run.write_stored(layout.SOURCE, stamp)  # It is written last: it says that the records are complete.
    return Images(prepared.records, lambda: prepared)


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
        except DataError:
            # Ctrl-C sends its signal to the worker processes, too: that they are gone is then no fault of the data.
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
            f"{attempt.run.root} holds a run of this name with other images than dataset.source has now.",
            "Give this one another name: --set name=...",
        )
    attempt.run.write_jsonl(layout.IMAGES, (asdict(record) for record in records))
    used = {record.id for record in records if record.used}
    paths = {image.id: image.path for image in prepared if image.id in used and image.path is not None}
    return Prepared(tuple(files), records, paths)


def _tell(attempt: Attempt, records: Sequence[ImageRecord]) -> None:
    """Say what became of the files, and what of it is odd."""
    fates = fates_of(records, attempt.manifest.preprocess.resolution)
    attempt.progress.say("data", sentence(records, fates), **asdict(fates))
    for warning in data_warnings(records, fates):
        attempt.progress.warn(warning)
