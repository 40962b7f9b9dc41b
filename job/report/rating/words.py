"""What people's votes say, in sentences, and whether they agree with the measures of pictures and with the losses."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Literal

from job.report.agreement import better_pictures
from job.report.rating_schema import RatedPair, Ratings
from job.report.schema import Pair
from job.report.settings import listed
from job.report.table import percent
from lora_engine.evaluation.ratings.win_rate import FEWEST_PROMPTS, FEWEST_RATERS

METHOD = (
    "score interval; the variance of the share is that over prompts (jackknife, at most that of one vote a prompt) "
    f"and, with {FEWEST_RATERS} raters or more, what the choice of raters adds to it, each with its quantile of t"
)
Scarce = Literal["prompts", "raters"]  # of which a pair has too few to be told, rather than votes


def shown(contender: str) -> str:
    """What a contender is called."""
    return contender or "the base model"


def sentence(pair: RatedPair, scarce: Scarce) -> str:
    """What the votes on two contenders say.

    Args:
        pair: all of it but its sentences.
        scarce: for what the interval is wide.
    """
    a, b, rate = shown(pair.a), shown(pair.b), pair.win_rate
    if pair.prompts < FEWEST_PROMPTS:
        return f"{_prompts(pair)} too few to tell which of {a} and {b} is preferred: {FEWEST_PROMPTS} are needed."
    if pair.winner is not None:
        loser = b if pair.winner == pair.a else a
        prefer = "prefers" if pair.raters == 1 else "prefer"
        return f"{_who(pair)} {prefer} {shown(pair.winner)} to {loser}: {_numbers(pair, turned=pair.winner == pair.b)}."
    which = f"which of {a} and {b} {'people prefer' if pair.of_people else 'is preferred'}"
    return f"It cannot be told {which}: {_numbers(pair, turned=rate.mean < 0.5)}.{_what_would_tell(pair, scarce)}"


def _prompts(pair: RatedPair) -> str:
    return "1 prompt is" if pair.prompts == 1 else f"{pair.prompts} prompts are"


def _who(pair: RatedPair) -> str:
    if pair.of_people:
        return "People"
    return "This rater" if pair.raters == 1 else f"These {pair.raters} raters"


def _numbers(pair: RatedPair, *, turned: bool) -> str:
    """The win rate with its interval, of the one that has more votes.

    Args:
        turned: whether that is `b`.
    """
    mean, low, high = pair.win_rate.mean, pair.win_rate.low, pair.win_rate.high
    assert low is not None
    assert high is not None
    if turned:
        mean, low, high = 1 - mean, 1 - high, 1 - low
    votes = pair.better + pair.ties + pair.worse
    raters = "1 rater" if pair.raters == 1 else f"{pair.raters} raters"
    name = shown(pair.b if turned else pair.a)
    return (
        f"{percent(mean)} [{percent(low)}, {percent(high)}] of {votes} votes for {name}, ties counting half, on "
        f"{pair.prompts} prompts by {raters}"
    )


def _what_would_tell(pair: RatedPair, scarce: Scarce) -> str:
    if pair.votes_missing == 0 or pair.win_rate.mean in (0, 1):
        return f" More {scarce}, rather than more votes {'by' if scarce == 'raters' else 'on'} these, would tell."
    if pair.votes_missing is None:
        return ""
    whose = "prompts and raters in this ratio" if pair.of_people else "prompts"
    more = f"{pair.votes_missing} more such votes" if pair.votes_missing > 1 else "one more such vote"
    return f" About {more}, with more {whose}, would tell a difference as large as this one."


def headline(pairs: Sequence[RatedPair], raters: int, set_aside: int) -> str:
    """What all votes say, to somebody who has ten seconds.

    Args:
        raters: who looked and voted.
        set_aside: files of votes on other pictures.
    """
    if raters == 0:
        aside = (
            "the votes that were given are on other pictures than these"
            if set_aside
            else "there are none of a rater who looked"
        )
        return f"No vote counts: {aside}."
    told = [pair for pair in pairs if pair.winner is not None]
    names = dict.fromkeys(name for pair in pairs for name in (pair.a, pair.b))
    beaten = {name: [_other(p, name) for p in told if p.winner == name] for name in names}
    lost = {_other(pair, pair.winner) for pair in told if pair.winner is not None}
    most = max((len(beaten[name]) for name in names if name not in lost), default=0)
    if most == 0:
        whose = "1 rater" if raters == 1 else f"{raters} raters"
        return f"The votes of {whose} do not tell which pictures are preferred."
    best = sorted((name for name in names if name not in lost and len(beaten[name]) == most), key=beaten.__getitem__)
    least = min((pair for pair in told if pair.winner in best), key=lambda pair: (pair.of_people, pair.raters))
    verb = "prefers" if least.raters == 1 else "prefer"
    over = [
        f"those of {_listed(winners)} to those of {_listed(losers)}"
        for losers, winners in groupby(best, beaten.__getitem__)
    ]
    return f"{_who(least)} {verb} {listed(over).replace('those', 'the pictures', 1)}."


def given(ratings: Ratings, before: Sequence[str]) -> str:
    """What became of votes that were given, for whoever gave them.

    Args:
        before: the raters whose votes were there before.
    """
    counted = [rater.name for rater in ratings.raters if not rater.left_out]
    left_out = [f"{rater.name} ({rater.failed} of {rater.caught})" for rater in ratings.raters if rater.left_out]
    gone = sorted(set(before) - {rater.name for rater in ratings.raters})
    said = [f"Votes that count: {listed(counted)}." if counted else "No votes count."]
    said += [f"Left out for the catch trials that were failed: {listed(left_out)}."] if left_out else []
    said += [f"No longer there, since votes replace those given before: {listed(gone)}."] if gone else []
    return " ".join(said)


def _listed(contenders: Iterable[str]) -> str:
    return listed([shown(name) for name in contenders])


def _other(pair: RatedPair, name: str) -> str:
    return pair.b if name == pair.a else pair.a


def agreement(rated: RatedPair, rows: Sequence[Pair]) -> str:
    """Whether people, the measures of pictures and the losses say the same of a pair.

    Args:
        rows: of the report, of the same two: those that carry a verdict, at least one.
    """
    seen = {"the measures of pictures": _of_pictures(rows), "the losses": _of_losses(rows)}
    if rated.winner is not None and all(said == f"are for {rated.winner}" for said in seen.values()):
        return f"{_who(rated)}, the measures of pictures and the losses agree: all are for {rated.winner}."
    lead = f"{_who(rated)} cannot be said to prefer either of {rated.a} and {rated.b}"
    if rated.winner is not None:
        verb = "prefers" if rated.raters == 1 else "prefer"
        lead = f"{_who(rated)} {verb} the pictures of {rated.winner}"
    told = [f"{what} {_beside(said, rated)}" for what, said in seen.items()]
    return f"{lead}; {', and '.join(told)}."


def _beside(said: str, rated: RatedPair) -> str:
    """What something says, beside what people do."""
    if rated.winner is None or said not in (f"are for {rated.a}", f"are for {rated.b}"):
        return said
    return "agree" if said == f"are for {rated.winner}" else f"disagree and {said}"


def _of_losses(rows: Sequence[Pair]) -> str:
    winners = {row.verdict.winner for row in rows if row.verdict is not None}
    if len(winners) > 1:
        return "differ by seed"
    winner = winners.pop()
    return "do not name a better one" if winner is None else f"are for {winner}"


def _of_pictures(rows: Sequence[Pair]) -> str:
    """Which of the two the measures are for, of which it is known which way is better."""
    said = {tuple(name for name, better in better_pictures(row).items() if better) for row in rows}
    if not any(better_pictures(row) for row in rows):
        return "are missing"
    if len(said) > 1:
        return "differ by seed"
    found = said.pop()
    if not found:
        return "do not tell them apart"
    return f"are for {found[0]}" if len(found) == 1 else "are for the one in some things and for the other in others"


def people(rows: Sequence[Pair], ratings: Ratings | None) -> str | None:
    """What people say of the pair that the study's answer is about, or of others that they rated; None without votes.

    Args:
        rows: of that pair.
    """
    if ratings is None:
        return None
    for rated in ratings.pairs:
        if rows and {rated.a, rated.b} == {rows[0].a, rows[0].b} and rated.agreement is not None:
            return rated.agreement
    return ratings.headline
