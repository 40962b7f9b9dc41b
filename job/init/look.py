"""Looks at a dataset as a run does, but cheaply: its pictures, their sizes, and the captions beside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from job.errors import ExitCode, JobError
from job.run.context import Attempt
from job.stages.fetch import fetch_dataset
from lora_engine.config.data import PreprocessConfig, SplitConfig
from lora_engine.images.kohya import plain_name, repeats_of
from lora_engine.images.prepare import PreparedImage, look_at, preprocess_images
from lora_engine.images.sidecars import read_sidecars, split_sidecars
from lora_engine.records import SourceFile

_FEW = 32  # files that are decoded, so that what a run will train on is known to the picture; of more, headers are read


@dataclass(frozen=True)
class Found:
    """What is in a dataset."""

    source: str  # as the user wrote it
    files: tuple[SourceFile, ...]  # but those that hold captions
    pictures: tuple[PreparedImage, ...]  # that can be used, with their sizes
    rejected: tuple[PreparedImage, ...]  # files that cannot, and why
    captions: dict[str, str]  # the first of each picture that came with one, by its key
    ignored: tuple[PreparedImage, ...] = ()  # files that are none of the dataset's images
    split: tuple[int, int] | None = None  # images that are trained on and held out; None where that was not tried

    @property
    def rejected_fraction(self) -> float:
        """The share of the files that cannot be used, as a run counts them."""
        return len(self.rejected) / (len(self.rejected) + len(self.pictures))

    @cached_property
    def short_sides(self) -> tuple[int, ...]:
        """The shorter side of each picture, in pixels, smallest first."""
        return tuple(sorted(min(picture.width or 0, picture.height or 0) for picture in self.pictures))

    @cached_property
    def shown(self) -> frozenset[str]:
        """What the folders named like `10_cat` show, after which kohya's scripts call it."""
        return frozenset(map(plain_name, repeats_of(picture.source for picture in self.pictures)))


def look(attempt: Attempt) -> Found:
    """Fetch the dataset, and read every file's header and every caption.

    Raises:
        JobError, DataError, UnsafeError: as `fetch_dataset` says; 41 also for fewer than two pictures that can be used,
            and for captions that cannot be read.
    """
    files = fetch_dataset(attempt)
    return look_through(attempt, files, lambda: read_sidecars(files).first)


def look_through(attempt: Attempt, files: Sequence[SourceFile], captions: Callable[[], dict[str, str]]) -> Found:
    """Read the header of each of the dataset's files; `captions` gives the first of each picture that has any.

    Raises:
        JobError, DataError: 41, a file cannot be read, or fewer than two pictures can be used.
    """
    candidates, _ = split_sidecars(files)
    seen = []
    with attempt.progress.stage("look", "Looking at the files", total=len(candidates), unit="files") as stage:
        for file in candidates:
            seen.append(look_at(file, attempt.manifest.preprocess))
            stage.advance(1)
    return _found(attempt, candidates, seen, captions())


def split_few(attempt: Attempt, found: Found, preprocess: PreprocessConfig, split: SplitConfig) -> Found:
    """Of few pictures, prepare and split all as a run will, which finds damage and copies, too; of many, nothing.

    The run finds the prepared images in its scratch folder.

    Raises:
        DataError: too few remain to train and to validate on.
    """
    from lora_engine.images.split import assign  # it imports scipy, which takes a while

    if len(found.files) > _FEW:
        return found
    images = list(preprocess_images(found.files, preprocess, attempt.workdir / "prepared"))
    again = _found(attempt, found.files, images, found.captions)
    records = assign(images, preprocess.model_copy(update={"max_rejected_fraction": 1.0}), split)
    train, held_out = (sum(record.split == part for record in records) for part in ("train", "validation"))
    return replace(again, split=(train, held_out))


def _found(
    attempt: Attempt, files: Sequence[SourceFile], images: Sequence[PreparedImage], captions: dict[str, str]
) -> Found:
    """Sort what was found of the files.

    Raises:
        JobError: 41, fewer than two of them can be used.
    """
    source = attempt.manifest.dataset.source
    ignored = tuple(image for image in images if image.ignored is not None)
    rejected = tuple(image for image in images if image.rejected is not None)
    pictures = tuple(image for image in images if image.ignored is None and image.rejected is None)
    if len(pictures) < 2:
        examples = "; ".join(
            f"{image.source}: {image.rejected or image.ignored}" for image in (*rejected, *ignored)[:3]
        )
        number = "none" if not pictures else "only one"
        raise JobError(
            ExitCode.DATA,
            f"{source} holds {len(images)} files, of which {number} can be used{': ' * bool(examples)}{examples}.",
            "Name a folder or archive of pictures, two at least: one to train on, another to hold out.",
        )
    with_captions = {image.source: captions[image.source] for image in pictures if image.source in captions}
    return Found(source, tuple(files), pictures, rejected, with_captions, ignored)
