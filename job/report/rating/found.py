"""What the votes say, in numbers: raters who looked, win rates, strengths, and whether raters agree."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from job.report import rating_schema as schema
from job.report.parts import Interval
from job.report.rating import words
from job.report.rating.given import Sheet, Vote
from job.report.rating.kept import Kept
from job.report.schema import Pair
from lora_engine.evaluation.ratings.agreement import agreement
from lora_engine.evaluation.ratings.catch import Answer, Caught, caught
from lora_engine.evaluation.ratings.comparisons import Comparisons, outcomes
from lora_engine.evaluation.ratings.power import wanted_votes
from lora_engine.evaluation.ratings.strengths import Counts, Strengths, strengths
from lora_engine.evaluation.ratings.trials import Trials
from lora_engine.evaluation.ratings.win_rate import WinRate, win_rate
from lora_engine.evaluation.statistics import simultaneous


@dataclass(frozen=True)
class _Heard:
    """A rater's votes."""

    sheet: Sheet
    caught: Caught
    plain: tuple[Vote, ...]  # in trials that are no catch trials

    @classmethod
    def of(cls, sheet: Sheet, trials: Trials) -> "_Heard":
        plain = tuple(vote for vote in sheet.votes if trials.trials[vote.trial].kind == "plain")
        return cls(sheet, caught_in(sheet, trials), plain)


def caught_in(sheet: Sheet, trials: Trials) -> Caught:
    """How a rater did in the catch trials that were answered; a repeated one counts if it was answered twice."""
    answers = {vote.trial: Answer(vote.pictures, vote.best, vote.worst) for vote in sheet.votes}
    repeats, twins = [], []
    for place, answer in answers.items():
        trial = trials.trials[place]
        if trial.kind == "identical":
            twins.append(answer)
        elif trial.of is not None and trial.of in answers:
            repeats.append((answers[trial.of], answer))
    return caught(repeats, twins)


def find(kept: Kept, trials: Trials, variants: Sequence[str], pairs: Sequence[Pair]) -> schema.Ratings:
    """All that is found of the votes on those trials.

    Args:
        variants: those of the run, in their order.
        pairs: of the report.
    """
    heard = [_Heard.of(sheet, trials) for sheet in kept.sheets]
    counted = [each for each in heard if not each.caught.is_careless]
    shown = {picture.contender for trial in trials.trials for picture in trial.pictures}
    names = [name for name in [*variants, ""] if name in shown]
    votes = Comparisons.of(_comparisons(counted, trials, names))
    found = strengths(Counts.of(votes, len(names)))
    compared = votes.pairs()
    confidence = simultaneous(max(1, len(compared)))
    rated = [_pair(names[a], names[b], win_rate(votes.pair(a, b)), confidence, pairs) for a, b in compared]
    shared = agreement(votes)
    return schema.Ratings(
        question=trials.question,
        page_sha256=trials.page_sha256,
        trials=len(trials.trials),
        raters=[_rater(each) for each in heard],
        contenders=_contenders(names, found),
        tie=None if found is None else found.tie,
        pairs=rated,
        agreement=shared and schema.Agreement(pairs=shared.units, share=shared.share, alpha=shared.alpha),
        set_aside=kept.set_aside,
        headline=words.headline(rated, sum(bool(each.plain) for each in counted), kept.set_aside),
        method=words.METHOD,
    )


def _comparisons(
    counted: Sequence[_Heard], trials: Trials, names: Sequence[str]
) -> Iterator[tuple[int, int, float, int, int, int]]:
    """The comparisons of two contenders' pictures in all plain trials: contenders, score, prompt, rater, trial."""
    place_of = {name: place for place, name in enumerate(names)}
    for rater, each in enumerate(counted):
        for vote in each.plain:
            trial = trials.trials[vote.trial]
            drew = [place_of[picture.contender] for picture in trial.pictures]
            for a, b, score in outcomes(len(drew), vote.best, vote.worst):
                yield drew[a], drew[b], score, trial.prompt, rater, vote.trial


def _rater(heard: _Heard) -> schema.Rater:
    return schema.Rater(
        name=heard.sheet.rater,
        votes=len(heard.plain),
        caught=heard.caught.answered,
        failed=heard.caught.failed,
        left_out=heard.caught.is_careless,
    )


def _contenders(names: Sequence[str], found: Strengths | None) -> list[schema.Contender]:
    if found is None:
        return [schema.Contender(name=name, strength=None) for name in names]
    ordered = sorted(zip(names, found.strengths, strict=True), key=lambda pair: -pair[1])
    return [schema.Contender(name=name, strength=strength) for name, strength in ordered]


def _pair(a: str, b: str, found: WinRate, confidence: float, pairs: Sequence[Pair]) -> schema.RatedPair:
    """A pair with its sentences."""
    interval = found.interval(confidence)
    told = interval.low is not None and interval.high is not None and not interval.low <= 0.5 <= interval.high
    wanted = None
    if found.design_effect is not None:
        wanted = wanted_votes(found.mean, confidence, found.design_effect)
    missing = None if wanted is None else max(0, wanted - found.votes)
    scarce: words.Scarce = "raters" if found.lacks_raters(confidence) else "prompts"
    pair = schema.RatedPair(
        a=a,
        b=b,
        better=found.wins,
        ties=found.ties,
        worse=found.losses,
        prompts=found.prompts,
        raters=found.raters,
        win_rate=Interval.of(interval),
        of_people=found.is_of_people,
        winner=(a if found.mean > 0.5 else b) if told else None,
        design_effect=found.design_effect,
        votes_wanted=wanted,
        votes_missing=0 if told else missing,
        sentence="",
        agreement=None,
    )
    rows = [row for row in pairs if {row.a, row.b} == {a, b} and row.verdict is not None]
    said = words.agreement(pair, rows) if rows else None
    return pair.model_copy(update={"sentence": words.sentence(pair, scarce), "agreement": said})
