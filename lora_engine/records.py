"""Frozen records that are handed from stage to stage and written as JSON lines. Torch-free."""

from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "validation"]


@dataclass(frozen=True)
class SourceFile:
    """A file of the dataset, before anything is known of its contents."""

    key: str  # its name within the source, with forward slashes
    path: str  # where its bytes lie on this machine


@dataclass(frozen=True)
class ImageRecord:
    """One row of `data/images.jsonl`: a file that was met, and what became of it."""

    id: str  # SHA-256 of the file's bytes, hexadecimal; empty where they could not be read
    source: str  # the file's key
    size_bytes: int
    width: int | None = None  # of the decoded image after EXIF orientation, in pixels
    height: int | None = None
    group: str | None = None  # smallest id among its near-duplicates; None when it is not used
    split: Split | None = None  # None when it is not used
    duplicate_of: str | None = None  # key of the file with the same bytes that is used instead
    ignored: bool = False  # a file that systems leave behind; not counted as rejected
    rejected: str | None = None  # why it cannot be used

    @property
    def used(self) -> bool:
        """Whether the image is trained on or scored."""
        return self.split is not None


@dataclass(frozen=True)
class CaptionRecord:
    """One row of `data/captions/<set>.jsonl`: an image's texts. A mix has several, every other strategy one."""

    id: str  # the image's
    texts: tuple[str, ...]  # as the text encoder reads them
    raw: tuple[str | None, ...]  # each text before cleaning and hints; None where the strategy has no source text
    tokens: tuple[int, ...]  # how many tokens each text has, start and end included
    truncated: tuple[bool, ...]  # whether words of each were cut: to fit the text encoder, or past 2000 characters


@dataclass(frozen=True)
class StepRecord:
    """One row of `metrics.jsonl`: one optimizer update of one adapter."""

    step: int  # 1 is the first update
    loss: float | None  # mean squared error over the update's images; None when it was not finite
    learning_rate: float
    grad_norm: float | None  # the gradient's norm before clipping; None when it was not finite
    images_per_second: float  # of the whole pack, averaged over the updates whose numbers were read at once
    skipped: bool  # not updated: a gradient of the pack was not finite, or the adapter is frozen
    order_sha256: str  # of the image ids, timesteps and noise that this update saw
    timesteps_sha256: str
    noise_sha256: str


@dataclass(frozen=True)
class ValidationRecord:
    """One row of `validation.jsonl`: an adapter scored on the held-out images at one step."""

    step: int  # 0 is the untouched base model
    loss: float  # primary: mean over all caption sets, the same sets for every adapter
    curve_loss: float  # the same over the curve's timesteps alone, which every evaluation shares
    timesteps: int  # strata per image
    images: int
    caption_sets: dict[str, float]  # mean loss under each set's captions; "" is the empty prompt


@dataclass(frozen=True)
class FileEntry:
    """A file of a checkpoint as its `COMMIT.json` lists it."""

    path: str  # relative to the checkpoint
    size: int  # bytes
    sha256: str
