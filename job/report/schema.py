"""The schema of `report/comparison.json`, of which docstrings and descriptions, which explain the numbers, are part."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1
SKEW_GROUPS = 50  # with so many groups of images the mean is near enough to normal, however they are distributed
STRONG_SKEW = 1.0


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class DataCounts(_Part):
    """How many of the dataset's files were used, and how many were not."""

    files: int = Field(description="Files met that should be images.")
    train: int
    validation: int
    groups: int = Field(description="Groups of near-duplicates among the images used.")
    duplicates: int = Field(description="Files with the bytes of another one.")
    ignored: int = Field(description="Files that systems leave behind.")
    rejected: dict[str, int] = Field(description="Reason to number of files.")


class EvaluationPoint(_Part):
    """One evaluation on the held-out images."""

    step: int = Field(description="0 is the base model.")
    loss: float = Field(description="Primary: mean over all caption sets, images and timesteps of this evaluation.")
    curve_loss: float = Field(description="The same over the timesteps that every evaluation shares.")
    timesteps: int = Field(description="Per image.")
    caption_sets: dict[str, float] = Field(description="Mean loss under each set's captions; '' is the empty prompt.")


class TrainPoint(_Part):
    """Training loss around one step."""

    step: int = Field(description="Last step of the window.")
    loss: float | None = Field(description="Mean over the window's finite losses.")


class File(_Part):
    """A file and its content."""

    path: str
    size: int = Field(description="Bytes.")
    sha256: str


class Checkpoint(_Part):
    """A committed checkpoint."""

    step: int
    weights_sha256: str = Field(description="Of the fp32 adapter weights, whatever the file format.")
    files: list[File]


class Choice(_Part):
    """A checkpoint that was singled out."""

    step: int
    loss: float | None = Field(description="Null for the last one of an adapter that diverged: it was not scored.")
    checkpoint: str = Field(description="Folder below the member's.")
    sha256: str = Field(description="Of the kohya file.")
    diverged_at: int | None = None
    rule: str | None = None
    reason: str | None = None


class Fairness(_Part):
    """Hashes that must be equal for a comparison to be fair: SHA-256 over all steps, in order."""

    initial_weights_sha256: str
    order_sha256: str = Field(description="Of the ids of the images in the order in which they were seen.")
    timesteps_sha256: str
    noise_sha256: str


class SamplePoint(_Part):
    """The measures of the samples that an adapter generated at one step."""

    step: int = Field(description="0 is the base model.")
    images: int
    clip_score: float | None = Field(description="Mean of 100 * max(cosine of image and its own prompt, 0).")
    clip_retrieval: float | None = Field(
        description="Share of images that fit their own prompt best of all; null where there is one prompt only."
    )
    clip_sha256: str | None = Field(description="Of the CLIP model behind both figures.")
    line_art_distance: float = Field(description="Mean over the measures of their distance to the training images.")
    line_art: dict[str, float] = Field(
        description="Measure to the Wasserstein-1 distance of its distribution to that over the training images."
    )


class MemberReport(_Part):
    """One adapter: a variant trained with one seed."""

    variant: str
    seed: int
    pack: int
    caption_set: str
    steps: int
    skipped_steps: int = Field(description="Updates refused because a gradient was not finite.")
    diverged_at: int | None = Field(
        description="Step at which it was frozen, since too many of its numbers were not finite; null if it was not."
    )
    images_per_second: float | None = Field(description="Median over the steps, of the whole pack.")
    base_loss: float = Field(description="Primary loss of the base model, at step 0.")
    final_loss: float | None = Field(
        description="Primary loss at the last step: what variants are compared by. Null where it diverged."
    )
    validation: list[EvaluationPoint]
    train: list[TrainPoint]
    samples: list[SamplePoint]
    best: Choice | None = Field(description="Null where no checkpoint could be scored.")
    final: Choice
    checkpoints: list[Checkpoint]
    fairness: Fairness


class Difference(_Part):
    """Final primary loss of `a` less that of `b`, paired by held-out image. Below 0: `a` has the lower loss."""

    a: str
    b: str
    seed: int | None = Field(description="Null: over all seeds of both, which speaks of the strategies.")
    seeds: int = Field(description="How many it is the mean over.")
    mean: float
    low: float | None = Field(description="Of the interval; null where the data cannot tell.")
    high: float | None
    confidence: float = Field(
        description="Of this interval by itself: such that all those of single seeds hold together with 0.95, and all "
        "those over seeds do."
    )
    images: int
    groups: int
    method: str
    skew: float | None = Field(
        description="Skewness of the difference over groups of images; null where there is none. Above 1 or below -1 "
        f"and with fewer than {SKEW_GROUPS} groups, an interval of one seed may be too narrow."
    )
    like_for_like: bool = Field(description="Whether the two differ in nothing but their captions.")


class PackReport(_Part):
    """Adapters trained in lockstep."""

    index: int
    members: list[str]
    precision: str
    differs: list[str] = Field(description="Fields in which the pack is not like pack 0.")


class Comparison(_Part):
    """The comparison of a run's adapters."""

    schema_version: int = SCHEMA_VERSION
    name: str
    data: DataCounts
    data_sha256: str
    models: dict[str, Any]
    packs: list[PackReport]
    members: list[MemberReport]
    differences: list[Difference]
    fair: dict[str, bool] = Field(description="Per seed: whether all its members saw equal weights, order and noise.")
    captions: dict[str, dict[str, Any]] = Field(description="Lint of each caption set.")
    timing: dict[str, dict[str, float]] = Field(description="Unit to stage to seconds, of all attempts at it.")
    environment: dict[str, Any]
    notes: list[str] = Field(description="What to keep in mind when reading the numbers.")


def report_schema() -> dict[str, Any]:
    """The JSON Schema of `comparison.json`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Comparison.model_json_schema()
