"""The parts of the report that are about samples; docstrings and descriptions are part of the published schema."""

from pydantic import Field

from job.report.parts import Interval, Part


class PictureMeasures(Part):
    """What pictures measure. An interval covers the choice of prompts, and of seeds where there are several."""

    images: int = Field(description="Pictures that are measured.")
    measures: dict[str, Interval] = Field(description="Measure, see docs/reading-the-report.md, to its mean, at 0.95.")
    change: dict[str, Interval] = Field(
        description="The same less the base model's, with the same texts and noise, at 0.95. Empty at step 0."
    )
    unmeasured: dict[str, str] = Field(description="Measure to the reason why there is none.")
    line_art: dict[str, dict[str, Interval]] = Field(
        description="Line-art measure to the distances, at 0.95, of its distribution to that over the `held_out` and "
        "over the `training` images: those that the line-art distances are the means of."
    )


class PicturePoint(PictureMeasures):
    """The pictures that an adapter generated at one step, prompted in one way."""

    not_finite: int = Field(description="Samples that came out without finite pixels, and so without a picture.")
    copies: int | None = Field(description="Of training images. Null where that cannot be told.")


class SamplePoint(Part):
    """The samples of an adapter at one step."""

    step: int = Field(description="0 is the base model.")
    bare: PicturePoint = Field(description="Prompted as the manifest says.")
    as_trained: PicturePoint | None = Field(
        description="Prompted as the adapter was trained. Null where an earlier version drew."
    )


class Copy(Part):
    """A picture that is a copy of a training image."""

    member: str
    step: int
    file: str = Field(description="Within the run.")
    prompt: str = Field(description="Bare.")
    seed: int
    image: str = Field(description="The training image's id.")
    source: str = Field(description="Its file in the dataset.")
    likeness: float = Field(description="Of the picture and the part of the image that it shows; 1 is the same.")
    mirrored: bool
    crop: list[float] | None = Field(description="The part: left, top, side, of the image's side. Null for all of it.")
    embedding: float | None = Field(description="Largest cosine of CLIP embeddings to a training image.")


class Memorised(Part):
    """How many of an adapter's last pictures are copies of training images."""

    pictures: int
    share: Interval | None = Field(
        description="At 0.95. All pictures of one prompt count as one. Null where there is no picture."
    )
    copies: list[Copy]


class MemorisedReport(Part):
    """Whether an adapter draws what it was trained on."""

    bare: Memorised
    as_trained: Memorised | None


class LikenessCutoff(Part):
    """Beyond which likeness a picture is a copy: what held-out images, on which nothing was trained, do not reach."""

    likeness: float | None = Field(description="Null where it cannot be told.")
    reason: str | None = Field(description="Why it cannot.")
    images: int = Field(description="Independent held-out images, from which it is told.")
    twins: int = Field(description="Of them that are themselves like a training image, such as its mirror image.")
    held_out_embedding: float | None = Field(
        description="Largest cosine of a held-out image's CLIP embedding to a training image; it decides nothing."
    )


class VariantPictures(Part):
    """The last pictures of a variant, over all its seeds."""

    variant: str
    seeds: int
    bare: PictureMeasures
    as_trained: PictureMeasures | None
    memorised: MemorisedReport | None


class PictureDifference(Part):
    """A measure of the pictures of `a` less that of the pictures of `b`, with the same prompts and noise."""

    mean: float
    low: float | None
    high: float | None
    confidence: float = Field(description="Of this interval by itself.")
    simultaneous_low: float | None = Field(
        description="All such intervals of the study, over seeds or else of single ones, hold together with 0.95."
    )
    simultaneous_high: float | None


class PairPictures(Part):
    """How the last pictures of a pair differ, by measure."""

    bare: dict[str, PictureDifference]
    as_trained: dict[str, PictureDifference] | None


class SampledMember(Part):
    """One adapter's samples of a set."""

    variant: str
    seed: int
    samples: list[SamplePoint]
    memorised: MemorisedReport | None


class SampledPair(Part):
    """Two variants' samples of a set, compared over all seeds."""

    a: str
    b: str
    seeds: int
    pictures: PairPictures


class SampledSet(Part):
    """`measures.json`: the measures of a set of samples that are not the study's own."""

    name: str
    clip_sha256: str | None = Field(description="Of the CLIP model behind the measures.")
    likeness: LikenessCutoff | None
    members: list[SampledMember]
    variants: list[VariantPictures]
    pairs: list[SampledPair]
