"""The schema of `report/comparison.json`, of which docstrings and descriptions, which explain the numbers, are part."""

from typing import Any

from pydantic import Field

from job.report.parts import Interval, Part
from job.report.picture_schema import LikenessCutoff, MemorisedReport, PairPictures, SamplePoint, VariantPictures
from job.report.rating_schema import Ratings
from job.run.own_captions import OwnCaptionFacts
from lora_engine.evaluation.statistics import SKEW_GROUPS, STRONG_SKEW
from lora_engine.evaluation.verdicts import Code

SCHEMA_VERSION = 2


class DataCounts(Part):
    """How many of the dataset's files were used, and how many were not."""

    files: int = Field(description="Files met, but those that hold captions of images.")
    train: int
    validation: int
    groups: int = Field(description="Groups of near-duplicates among the images used.")
    near_duplicate_groups: int = Field(default=0, description="Those of more than one image.")
    duplicates: int = Field(description="Files with the bytes of another one.")
    ignored: int = Field(description="Files that never claimed to be an image to train on.")
    ignored_because: dict[str, int] = Field(default={}, description="Reason to number of files.")
    rejected: dict[str, int] = Field(description="Reason to number of files.")
    uniform: int = Field(default=0, description="Images used that are all of one colour.")
    enlarged: int = Field(default=0, description="Images used that are smaller than the resolution.")


class EvaluationPoint(Part):
    """One evaluation on the held-out images."""

    step: int = Field(description="0 is the base model.")
    loss: float = Field(description="As trained: under the adapter's own captions, at this evaluation's timesteps.")
    curve_loss: float = Field(description="The same at the timesteps that every evaluation shares.")
    change: Interval | None = Field(
        description="curve_loss less the base model's, over the choice of images (groups of near-duplicates), at 0.95. "
        "Null at step 0."
    )
    timesteps: int = Field(description="Per image.")
    caption_sets: dict[str, float] = Field(
        description="Mean loss by whose captions were shown, at the timesteps at which they were; '' is the empty "
        "prompt, '... shuffled' gives each image another one's."
    )


class SetLoss(Part):
    """The last checkpoint under one set of captions, at the curve's timesteps. Descriptive: everyone wins at home."""

    loss: Interval = Field(description="Over the choice of images, at 0.95.")
    change: Interval = Field(description="Loss less the base model's under the same captions, at 0.95.")


class TimestepLoss(Part):
    """The loss as trained in one range of timesteps."""

    first: int = Field(description="Smallest timestep that was scored; low ones have little noise.")
    last: int = Field(description="Largest timestep that was scored.")
    base: float
    final: float


class ListeningReport(Part):
    """What another image's caption costs: whether the adapter reads its prompt."""

    set: str = Field(description="The captions that were shuffled: those to which the base model listens most.")
    images: int = Field(description="That can be given another text than their own.")
    mean: float = Field(description="Loss under another image's caption less that under the own one.")
    low: float | None
    high: float | None
    confidence: float = Field(description="All members' intervals hold together with 0.95.")
    base: float = Field(description="The same of the base model.")
    flagged: bool = Field(
        description="It stopped: the interval of (its listening - a quarter of the base's) is below 0."
    )


class TrainPoint(Part):
    """Training loss around one step."""

    step: int = Field(description="Last step of the window.")
    loss: float | None = Field(description="Mean over the window's finite losses.")


class File(Part):
    """A file and its content."""

    path: str
    size: int = Field(description="Bytes.")
    sha256: str


class Checkpoint(Part):
    """A committed checkpoint."""

    step: int
    weights_sha256: str = Field(description="Of the fp32 adapter weights, whatever the file format.")
    files: list[File]


class Choice(Part):
    """A checkpoint that was singled out."""

    step: int
    loss: float | None = Field(description="Null for the last one of an adapter that diverged: it was not scored.")
    checkpoint: str = Field(description="Folder below the member's.")
    sha256: str = Field(description="Of the kohya file.")
    diverged_at: int | None = None
    rule: str | None = None
    reason: str | None = None


class Fairness(Part):
    """Hashes that must be equal for a comparison to be fair: SHA-256 over all steps, in order."""

    initial_weights_sha256: str
    order_sha256: str = Field(description="Of the ids of the images in the order in which they were seen.")
    timesteps_sha256: str
    noise_sha256: str


class AdapterNorms(Part):
    """How large that is which the last checkpoint adds to the base model's weights: Frobenius norms of the updates.

    Of DoRA it is what is added before outputs are scaled to their magnitudes.
    """

    whole: float = Field(description="Of all layers together.")
    blocks: dict[str, float] = Field(description="By the part of the model: down_blocks.0, mid_block, text_encoder.")


class StartReport(Part):
    """The file that an adapter started from, scored before the first update, as trained at the curve's timesteps."""

    source: str
    sha256: str = Field(description="Of the file.")
    curve_loss: float = Field(description="Where the adapter's curve begins.")
    change: Interval = Field(description="curve_loss less the base model's, over the choice of images, at 0.95.")
    gain: Interval | None = Field(
        description="curve_loss less that of the last step: what this training gained. Null where it diverged."
    )


class MemberReport(Part):
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
    trained_with: str | None = Field(
        default=None,
        description="What of its training was not plain MSE on plain noise, by which all losses here are scored.",
    )
    start: StartReport | None = Field(
        default=None, description="Null where it started from the base model, with an update of zero."
    )
    base_loss: float = Field(description="As trained, of the base model, at the final timesteps.")
    curve_base_loss: float | None = Field(
        description="The same at the curve's timesteps, where the curve begins. Null where an earlier version did not "
        "score it."
    )
    best_loss: float | None = Field(description="As trained, of the best checkpoint, at the curve's timesteps.")
    final_loss: float | None = Field(
        description="As trained, of the last checkpoint, at the final timesteps. Null where it diverged."
    )
    final_loss_interval: Interval | None = Field(description="final_loss over the choice of images, at 0.95.")
    gain: Interval | None = Field(description="base_loss less final_loss, over the choice of images, at 0.95.")
    min_snr_base_loss: float | None = Field(
        description="base_loss with timesteps weighted by min-SNR (gamma 5). Null where an earlier version scored it."
    )
    min_snr_final_loss: float | None
    listening: ListeningReport | None = Field(
        description="Null where captions are constant, the base model does not read them, or they were not scored."
    )
    caption_sets: dict[str, SetLoss] = Field(description="By whose captions were shown; '' is the empty prompt.")
    timesteps: list[TimestepLoss] = Field(description="Final timesteps, from little noise to much.")
    validation: list[EvaluationPoint]
    train: list[TrainPoint]
    samples: list[SamplePoint]
    memorised: MemorisedReport | None = Field(description="Null where that cannot be told; `likeness` says why.")
    best: Choice | None = Field(description="Null where no checkpoint could be scored.")
    final: Choice
    norms: AdapterNorms | None = Field(
        default=None, description="Null where an earlier version made the report, or layers are unknown."
    )
    checkpoints: list[Checkpoint]
    fairness: Fairness


class Cells(Part):
    """Loss of `a` less that of `b`. Below 0: `a` has the lower loss."""

    as_trained: Interval = Field(description="Each under its own captions, at the final timesteps.")
    under_a: Interval = Field(
        description="Both under a's captions, at the curve's timesteps as all that follow. Where a's and b's are "
        "equal, this and under_b are as_trained."
    )
    under_b: Interval
    no_prompt: Interval


class Beats(Part):
    """Loss of the one that is lower as trained, under its own captions, less that of the other, prompted each way."""

    loser_own: Interval = Field(description="Under the other's own captions.")
    loser_same: Interval = Field(description="Under the captions of the one that is lower.")
    loser_none: Interval = Field(description="Without a prompt.")


class Verdict(Part):
    """What can be said of a pair."""

    code: Code
    winner: str | None = Field(description="Of `lower` and `lower_but_depends` alone.")
    sentence: str
    more_images: int | None = Field(
        description="Further independent held-out images with which it would detect a difference of the margin."
    )
    more_seeds: int | None = Field(description="Further seeds, where no number of images would do alone.")


class Pair(Part):
    """Two variants, compared on the same images: with one seed, or over all seeds."""

    a: str
    b: str
    seed: int | None = Field(description="Null: over all seeds of both, which speaks of the strategies.")
    seeds: int = Field(description="How many it is the mean over.")
    factor: list[str] = Field(description="What the two differ in: captions, and dotted keys of the manifest.")
    values: dict[str, tuple[Any, Any]] = Field(default={}, description="Of each such key, a's value and b's.")
    like_for_like: bool = Field(description="Whether their hashes differ in nothing that the factor does not explain.")
    withheld: list[str] = Field(description="The hashes that do.")
    images: int
    groups: int = Field(description="Of near-duplicates: independent images.")
    cells: Cells | None = Field(description="Null where one of the two diverged.")
    base_as_trained: Interval | None = Field(description="The untouched base's as_trained: what the captions alone do.")
    beats: Beats | None
    best_as_trained: Interval | None = Field(
        description="Best against best at the curve's timesteps, cross-fitted: chosen on half of the groups, scored on "
        "the other, and back."
    )
    gain: Interval | None = Field(
        description="Loss of the base model, prompted its best of a's captions, b's and none, less the mean of both."
    )
    margin: float | None = Field(
        description="The largest difference that does not matter. Null where the two together are not found to be "
        "better than the base model, prompted well."
    )
    minimum_detectable: float | None = Field(
        description="The smallest difference as trained that 80 of 100 such studies find."
    )
    method: str = Field(description="How the intervals are computed.")
    skew: float | None = Field(
        description=f"Skewness of as_trained over groups of images; null where there is none. Beyond {STRONG_SKEW:g} "
        f"and with fewer than {SKEW_GROUPS} groups, an interval of one seed may be too narrow."
    )
    pictures: PairPictures | None = Field(description="Null where one of the two has no samples of its last step.")
    verdict: Verdict | None = Field(description="Null for a single seed where there are enough for the row over seeds.")


class Recommended(Part):
    """The adapter to begin with."""

    variant: str
    seed: int


class StudyVerdict(Part):
    """The answer of the study."""

    headline: str = Field(description="In one plain sentence.")
    sentence: str = Field(description="The verdict of the pair that it is about, with its numbers.")
    rests_on: str = Field(description="How much data, and which difference does not matter.")
    pictures: str | None = Field(description="Whether pictures agree, prompted as trained. Null where there are none.")
    people: str | None = Field(
        default=None, description="What people prefer, and whether pictures and losses agree. Null without votes."
    )
    others: list[str] = Field(
        description="The same of each other pair that has a verdict, first of those that differ in one thing."
    )
    recommended: Recommended = Field(
        description="The one with the lowest loss as trained: of the winner's adapters where the first variant and the "
        "lowest one have a winner, else of all."
    )


class PackReport(Part):
    """Adapters trained in lockstep."""

    index: int
    members: list[str]
    precision: str
    differs: list[str] = Field(description="Fields in which the pack is not like pack 0.")


class Comparison(Part):
    """The comparison of a run's adapters."""

    schema_version: int = SCHEMA_VERSION
    name: str
    verdict: StudyVerdict
    scoring: int = Field(
        description="2: on the way under its own captions. 1: as an earlier version did, under all caption sets."
    )
    curve_timesteps: int = Field(description="Per image, at every evaluation.")
    data: DataCounts
    data_sha256: str
    models: dict[str, Any]
    packs: list[PackReport]
    members: list[MemberReport]
    variants: list[VariantPictures] = Field(description="Empty where there are no samples.")
    pairs: list[Pair]
    clip_sha256: str | None = Field(description="Of the CLIP model behind the measures of pictures.")
    likeness: LikenessCutoff | None = Field(description="Null where there are no samples.")
    ratings: Ratings | None = Field(default=None, description="People's votes. Null where none were given.")
    fair: dict[str, bool] = Field(description="Per seed: whether all its pairs are like for like.")
    captions: dict[str, dict[str, Any]] = Field(description="Lint of each caption set.")
    own_captions: OwnCaptionFacts | None = Field(
        default=None, description="Null where no strategy reads them, or an earlier version did."
    )
    timing: dict[str, dict[str, float]] = Field(description="Unit to stage to seconds, of all attempts at it.")
    environment: dict[str, Any]
    notes: list[str] = Field(description="What to keep in mind when reading the numbers.")


def report_schema() -> dict[str, Any]:
    """The JSON Schema of `comparison.json`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Comparison.model_json_schema()
