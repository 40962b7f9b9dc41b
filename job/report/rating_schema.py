"""The parts of the report that are about votes; docstrings and descriptions are part of the published schema."""

from pydantic import Field

from job.report.parts import Interval, Part
from lora_engine.evaluation.ratings.catch import FEWEST_CAUGHT, MAX_FAILED_SHARE
from lora_engine.evaluation.ratings.win_rate import FEWEST_PROMPTS, FEWEST_RATERS


class Rater(Part):
    """One who voted."""

    name: str = Field(description="As the rater wrote it.")
    votes: int = Field(description="Trials that were answered, but for catch trials.")
    caught: int = Field(description="Catch trials that were answered: a trial again, or one picture twice.")
    failed: int = Field(description="Of these, those that were turned around, or in which twins were told apart.")
    left_out: bool = Field(
        description=f"From all other numbers: more than {MAX_FAILED_SHARE:.0%} of {FEWEST_CAUGHT} or more catch trials "
        "were failed."
    )


class Contender(Part):
    """A variant, or the base model, whose pictures were shown."""

    name: str = Field(description="Of the variant; empty for the untouched base model.")
    strength: float | None = Field(
        description="Natural logarithm of its worth in Davidson's model of votes with ties, of mean 0. Null where the "
        "votes do not say: as where one never lost. Describes; what is told is told by pairs."
    )


class RatedPair(Part):
    """Two contenders whose pictures were compared directly."""

    a: str = Field(description="Empty for the base model.")
    b: str
    better: int = Field(description="Votes for `a`.")
    ties: int
    worse: int = Field(description="Votes for `b`.")
    prompts: int
    raters: int
    win_rate: Interval = Field(
        description="The share of votes for `a`, ties counting half. The interval is over the choice of prompts and, "
        f"with {FEWEST_RATERS} raters or more, of raters; all pairs' hold together with 0.95. Without ends where "
        f"fewer than {FEWEST_PROMPTS} prompts were rated."
    )
    of_people: bool = Field(
        description=f"Whether the interval covers the choice of raters: they say as much as {FEWEST_RATERS} who voted "
        "equally often. Else it is about these raters."
    )
    winner: str | None = Field(description="Whose interval lies above a half. Null where none does.")
    design_effect: float | None = Field(
        description="How many such votes say as much as one independent vote without a tie. Null with too few prompts, "
        "and where all votes are alike."
    )
    votes_wanted: int | None = Field(
        description="With which such a study tells a difference as large as the one found in 80 of 100 cases. Null "
        "where that cannot be told, as at a half or where all votes are alike."
    )
    votes_missing: int | None = Field(description="votes_wanted less those given; 0 where the difference is told.")
    sentence: str
    agreement: str | None = Field(
        description="Whether people, measures of pictures and losses agree. Null where no row of `pairs` compares the "
        "two with a verdict."
    )


class Agreement(Part):
    """Whether raters say the same of the same two pictures."""

    pairs: int = Field(description="Two pictures of a trial that at least two raters compared.")
    share: float = Field(description="Of all two votes on the same two pictures, those that are equal.")
    alpha: float | None = Field(
        description="Krippendorff's, nominal: 1 is full agreement, 0 that of chance. Null where all votes are alike."
    )


class Ratings(Part):
    """What people chose who did not know which variant drew which picture."""

    question: str
    page_sha256: str = Field(description="Of what report/rate.html shows.")
    trials: int = Field(description="Of the page, catch trials among them.")
    raters: list[Rater]
    contenders: list[Contender] = Field(description="The strongest first, as far as that is known.")
    tie: float | None = Field(
        description="Of Davidson's model: of the votes on two of equal strength, tie / (2 + tie) are ties."
    )
    pairs: list[RatedPair] = Field(description="Of single pictures of a trial; in the order of the variants.")
    agreement: Agreement | None = Field(description="Null where no two raters judged the same.")
    set_aside: int = Field(
        description="Raters whose votes are about other pictures than are shown now, and do not count."
    )
    headline: str = Field(description="In one plain sentence.")
    method: str = Field(description="How the intervals are computed.")
