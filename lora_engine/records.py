"""Frozen records that stages hand to each other and write as JSON lines. They do not import torch."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Literal

Split = Literal["train", "validation"]

FINITE = {"allow_inf_nan": False}  # for pydantic: JSON has no NaN, and a row that holds one could not be written again


@dataclass(frozen=True)
class SourceFile:
    """A file of the dataset as it was found."""

    key: str  # its name within the source, with forward slashes
    path: str  # of the file on this machine that holds its bytes
    leads_out: bool = False  # whether it is a link out of the dataset, and such links are not all to be followed


@dataclass(frozen=True)
class ImageRecord:
    """One row of `data/images.jsonl`: a file of the dataset, and what became of it."""

    # SHA-256 of the file's bytes, hexadecimal; of further files with the same bytes that are used, too, another that is
    # made from it. Empty where the file is ignored, or cannot be read.
    id: str
    source: str  # the file's key
    size_bytes: int
    width: int | None = None  # of the decoded image after EXIF orientation, in pixels; None where it was not decoded
    height: int | None = None
    group: str | None = None  # smallest id among the image and its near-duplicates; None where it is not used
    split: Split | None = None  # None where the image is not used
    duplicate_of: str | None = None  # key of a file with the same bytes that is used instead; None where there is none
    ignored: bool = False  # whether it never claimed to be an image to train on, and so counts as no rejected one
    rejected: str | None = None  # why the file cannot be used; None where it can, or is ignored or a duplicate
    why_ignored: str | None = None  # None where it is not ignored, or an earlier version ignored it
    uniform: bool = False  # whether its square is all of one colour

    @property
    def used(self) -> bool:
        """Whether the image is trained on or scored."""
        return self.split is not None


def used_images(records: Iterable[ImageRecord]) -> tuple[ImageRecord, ...]:
    """The images that are trained on or held out, in the order of their ids."""
    return tuple(sorted((record for record in records if record.used), key=lambda record: record.id))


@dataclass(frozen=True)
class CaptionRecord:
    """One row of `data/captions/<set>.jsonl`: the captions of one image.

    Each part of a mix of strategies gives an image a text, as a plain strategy does, or all lines that came with it.
    The other tuples but `lines` are as long as `texts`.
    """

    id: str  # of the image
    texts: tuple[str, ...]
    raw: tuple[str | None, ...]  # each text before cleaning and hints; None where the strategy starts from no text
    tokens: tuple[int, ...]  # how many tokens each whole text has, start and end tokens included
    truncated: tuple[bool, ...]  # whether words were cut: to fit the text encoder, or past 2000 characters
    lines: tuple[int, ...] = ()  # how many of the texts each part of the strategy gives; empty where it is one each
    unused: int = 0  # lines that came with the image and are left out

    def __post_init__(self) -> None:
        if not len(self.texts) == len(self.raw) == len(self.tokens) == len(self.truncated) > 0:
            raise ValueError(f"no caption of {self.id}, or facts of others than those that it has")
        if self.lines and (sum(self.lines) != len(self.texts) or min(self.lines) < 1):
            raise ValueError(f"captions of {self.id} that are of no part of the strategy")

    @property
    def places(self) -> tuple[range, ...]:
        """For each part of the strategy, where its texts stand."""
        lines = self.lines or (1,) * len(self.texts)
        ends = list(accumulate(lines))
        return tuple(range(end - count, end) for end, count in zip(ends, lines, strict=True))


@dataclass(frozen=True)
class StepRecord:
    """One row of `metrics.jsonl`: one update of one adapter."""

    __pydantic_config__ = FINITE

    step: int  # 1 is the first update
    loss: float | None  # that was trained on, the mean over the update's images; None when it was not finite
    learning_rate: float
    grad_norm: float | None  # before clipping; None when it was not finite
    images_per_second: float  # of the whole pack, averaged over the steps that are logged together
    skipped: bool  # whether the adapter was not updated, since its loss or gradient was not finite, or it is frozen
    order_sha256: str  # of the ids of the images that the update saw, in their order
    timesteps_sha256: str  # of the timesteps that were drawn for them
    noise_sha256: str  # of the noise that was drawn for them and for their latents
    squared_error: float | None = None  # the mean, unweighted; None where that is the loss, or it was not finite
    d: float | None = None  # the learning rate that Prodigy found; None for other optimizers

    def row(self) -> dict[str, object]:
        """The row; what it has no value for is not in it, as in those of versions that did not know of it."""
        values = asdict(self)
        return {key: value for key, value in values.items() if value is not None or key not in _NEWER}


_NEWER = ("squared_error", "d")  # fields of a step's record


@dataclass(frozen=True)
class ValidationRecord:
    """One row of `validation.jsonl`: an adapter scored on the held-out images at one step."""

    __pydantic_config__ = FINITE

    step: int  # 0 is the untouched base model
    loss: float  # as trained: under the adapter's own captions; under all caption sets where an earlier version began
    curve_loss: float  # the same over the curve's timesteps alone, on which every evaluation is scored
    timesteps: int  # on how many strata each image is scored
    images: int  # how many are held out
    caption_sets: dict[str, float]  # component, see `evaluation.components`, to the mean loss under its captions


@dataclass(frozen=True)
class SampleSetting:
    """How a sample is generated, whatever it shows."""

    __pydantic_config__ = FINITE

    width: int  # pixels
    height: int
    steps: int  # of denoising
    guidance: float
    negative: str  # prompt
    strength: float  # by which the adapter's update is multiplied


@dataclass(frozen=True)
class FileEntry:
    """A file of a checkpoint as its `COMMIT.json` lists it."""

    path: str  # relative to the checkpoint
    size: int  # bytes
    sha256: str
