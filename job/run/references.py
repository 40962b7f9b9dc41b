"""What samples are compared with: the measures of the images that a run trains on and holds out, as it stores them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from job import layout
from job.errors import ExitCode, JobError
from job.storage.folder import RunFolder
from lora_engine.evaluation.line_art import Measures
from lora_engine.evaluation.memorisation import Library, Likeness
from lora_engine.images.crops import SIDE
from lora_engine.records import ImageRecord


@dataclass(frozen=True)
class _Id:
    """The id of a row that is about an image."""

    id: str


def read_line_art(run: RunFolder) -> dict[str, Measures] | None:
    """The line-art measures of images by their ids; None where the manifest asked for no samples.

    An earlier version measured the training images alone.
    """
    ids, measures = run.read_rows(layout.LINE_ART, _Id), run.read_rows(layout.LINE_ART, Measures)
    if ids is None or measures is None:
        return None
    return {row.id: each for row, each in zip(ids, measures, strict=True)}


def read_library(run: RunFolder, used: Sequence[ImageRecord], clip_sha256: str | None) -> Library | None:
    """The training images, to which samples are compared for likeness; None where an earlier version kept none.

    Args:
        used: all images that are used, in the order of their ids.
        clip_sha256: of the CLIP model whose embeddings are wanted; without them where the run has none by it.

    Raises:
        JobError: 46 when a file is damaged or of other images.
    """
    small = read_small(run, used)
    if small is None:
        return None
    train = [at for at, image in enumerate(used) if image.split == "train"]
    embeddings = None if clip_sha256 is None else read_embeddings(run, used, clip_sha256)
    return Library(
        ids=tuple(used[at].id for at in train),
        small=small[train],
        embeddings=None if embeddings is None else embeddings[train],
    )


def read_small(run: RunFolder, used: Sequence[ImageRecord]) -> npt.NDArray[np.uint8] | None:
    """The images in grey and small, [images, H, W], as likeness is computed from; None where the run has none."""
    return read_array(run, layout.SMALL_IMAGES, "small", np.uint8, (len(used), SIDE, SIDE))


def read_embeddings(run: RunFolder, used: Sequence[ImageRecord], clip_sha256: str) -> npt.NDArray[np.float32] | None:
    """The CLIP embeddings of the images and of their mirror images, [images, 2, D]; None where the run has none."""
    return read_array(run, layout.reference_embeddings(clip_sha256), "embeddings", np.float32, (len(used), 2, None))


def read_held_out_likeness(run: RunFolder, images: int) -> list[Likeness] | None:
    """How like the held-out images are to training images, in the order of their ids; None where the run has none.

    Raises:
        JobError: 46 when there are not so many rows as images.
    """
    found = run.read_rows(layout.HELD_OUT_LIKENESS, Likeness)
    if found is not None and len(found) != images:
        raise not_of_the_run(run, layout.HELD_OUT_LIKENESS)
    return found


def read_array(
    run: RunFolder, key: str, name: str, dtype: type, shape: tuple[int | None, ...], sha256: str | None = None
) -> npt.NDArray[Any] | None:
    """The array of that name in a safetensors file of a run; None where there is no file.

    Args:
        shape: of the array; None for a length that is not known, but at least 1.
        sha256: of the file; None where it is not known.

    Raises:
        JobError: 46 when the file is damaged, or the array is another.
    """
    data = run.read(key)
    if data is None:
        return None
    try:
        found = load(data)[name]
        fits = len(found.shape) == len(shape) and all(
            length > 0 and wanted in (None, length) for length, wanted in zip(found.shape, shape, strict=True)
        )
        if found.dtype != dtype or not fits or not np.isfinite(found).all():
            raise ValueError(f"{found.dtype} of shape {found.shape}, or no numbers")
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError("another file")
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise not_of_the_run(run, key) from error
    return found


def not_of_the_run(run: RunFolder, key: str) -> JobError:
    """The error that a file is damaged, or another's."""
    return JobError(
        ExitCode.CONFLICT,
        f"{run.uri(key)} does not hold what the run wrote there.",
        "Restore it, or run under another name: --set name=...",
    )
