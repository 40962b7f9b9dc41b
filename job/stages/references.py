"""Measures the images that a run trains on and holds out, with which its samples are compared."""

from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import torch
from PIL import ImageOps
from safetensors.numpy import save

from job import layout
from job.run.context import Attempt
from job.run.dataset import Images
from job.run.references import (
    read_library,
    read_line_art,
    read_small,
)
from lora_engine.evaluation.line_art import measure
from lora_engine.evaluation.memorisation import nearest
from lora_engine.images.crops import thumbnail_grey
from lora_engine.images.squares import read_square
from lora_engine.models.clip import load_clip
from lora_engine.models.files import LocalModel

_EMBEDDED_AT_ONCE = 64


def measure_references(attempt: Attempt, images: Images, clip_model: LocalModel | None, device: torch.device) -> None:
    """Measure the images that are used as samples will be, and write what no earlier attempt wrote.

    Does nothing where the manifest asks for no samples.

    Args:
        clip_model: that scores the samples; None where the manifest names none.
    """
    if attempt.manifest.evaluation.samples is None:
        return
    run, used = attempt.run, images.used
    line_art = read_line_art(run)
    if line_art is None or line_art.keys() != {image.id for image in used} or not run.exists(layout.SMALL_IMAGES):
        _measure(attempt, images)
    if clip_model is not None and not run.exists(key := layout.reference_embeddings(clip_model.sha256)):
        run.write(key, save({"embeddings": _embeddings(attempt, images, clip_model, device)}))
    if not run.exists(layout.HELD_OUT_LIKENESS):
        _compare_held_out(attempt, images)


def _measure(attempt: Attempt, images: Images) -> None:
    """Measure all images as line art, and keep them small and in grey."""
    rows, small = [], []
    with attempt.progress.stage("measure", "Measuring images", total=len(images.used), unit="images") as stage:
        for image in images.used:
            square = read_square(images.prepared.paths[image.id])
            rows.append({"id": image.id, **asdict(measure(square))})
            small.append(thumbnail_grey(square))
            stage.advance(1)
            attempt.stop.check()
    attempt.run.write(layout.SMALL_IMAGES, save({"small": np.stack(small)}))
    attempt.run.write_jsonl(layout.LINE_ART, rows)


def _embeddings(attempt: Attempt, images: Images, model: LocalModel, device: torch.device) -> npt.NDArray[np.float32]:
    """The CLIP embeddings of all images and of their mirror images, [images, 2, D]."""
    clip, found = load_clip(model, device), []
    used = images.used
    with attempt.progress.stage("embed", "Measuring images with CLIP", total=len(used), unit="images") as stage:
        for start in range(0, len(used), _EMBEDDED_AT_ONCE):
            squares = [read_square(images.prepared.paths[i.id]) for i in used[start : start + _EMBEDDED_AT_ONCE]]
            mirrored = [ImageOps.mirror(square) for square in squares]
            found.append(np.stack([clip.image_embeddings(squares), clip.image_embeddings(mirrored)], axis=1))
            stage.advance(len(squares))
            attempt.stop.check()
    return np.concatenate(found)


def _compare_held_out(attempt: Attempt, images: Images) -> None:
    """Find and write how like the held-out images, none of which was trained on, are to training images."""
    run, used = attempt.run, images.used
    library, small = read_library(run, used, None), read_small(run, used)
    assert library is not None, "it was written a moment ago"
    assert small is not None, "it is a part of the library"
    held_out = [at for at, image in enumerate(used) if image.split == "validation"]
    run.write_jsonl(layout.HELD_OUT_LIKENESS, (asdict(each) for each in nearest(small[held_out], None, library)))
