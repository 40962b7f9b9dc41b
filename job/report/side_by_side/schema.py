"""The schema of `side-by-side.json`; docstrings and descriptions are part of it."""

from typing import Any

from pydantic import Field

from job.report.parts import Interval, Part
from job.report.picture_schema import PictureMeasures

SCHEMA_VERSION = 1


class RunPart(Part):
    """One of the runs, which other parts name by their places in this list."""

    label: str = Field(description="Its name; with its folder where two runs have one name.")
    name: str
    folder: str
    sentence: str = Field(description="The answer of its study by itself.")


class Setting(Part):
    """A setting that is not the same in all runs."""

    key: str = Field(
        description="Dotted, as in resolved.json's identity. What all variants of a run have in common stands without "
        "them; a variant that some runs lack stands as a whole, with its captions."
    )
    values: list[str | None] = Field(description="Of each run, as JSON. Null where it has no such key.")


class Unlike(Part):
    """Two runs that cannot be compared in something."""

    runs: list[int]
    reasons: list[str]


class Alike(Part):
    """Which runs can be compared in something: those of one group."""

    groups: list[list[int]]
    unlike: list[Unlike] = Field(description="Of each two groups, the first runs, and why these are not alike.")


class MemberLosses(Part):
    """The losses of one adapter, as its run's comparison.json has them."""

    seed: int
    steps: int
    best_step: int | None
    base_loss: float = Field(description="As trained, of the base model: equal in runs that are like for like.")
    final_loss: float | None = Field(description="As trained, of the last checkpoint. Null where it diverged.")
    gain: Interval | None


class RunLosses(Part):
    """The losses of a variant's adapters in one run."""

    run: int
    members: list[MemberLosses]


class VariantLosses(Part):
    """The losses of a variant in the runs that have it."""

    variant: str
    alike: Alike
    runs: list[RunLosses] = Field(description="Only of runs that are like for like with another: others are withheld.")


class Copies(Part):
    """Pictures that are copies of training images."""

    pictures: int
    copies: int
    share: Interval | None


class RunPictures(Part):
    """The last pictures of a variant in one run, over its seeds."""

    run: int
    seeds: int
    bare: PictureMeasures
    as_trained: PictureMeasures | None
    copies_bare: Copies | None = Field(description="Null where that cannot be told.")
    copies_as_trained: Copies | None


class BesidePictures(Part):
    """The last pictures of a variant in the runs that have some."""

    variant: str
    runs: list[RunPictures]


class SideBySide(Part):
    """Several runs beside each other."""

    schema_version: int = SCHEMA_VERSION
    sentence: str
    runs: list[RunPart]
    settings: list[Setting]
    losses: list[VariantLosses]
    pictures: list[BesidePictures]
    measures: dict[str, Alike] = Field(
        description="Measure of pictures, `copies` among them, to the runs in which it can be compared. Runs without "
        "pictures are in no group."
    )
    notes: list[str]


def side_by_side_schema() -> dict[str, Any]:
    """The JSON Schema of `side-by-side.json`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | SideBySide.model_json_schema()
