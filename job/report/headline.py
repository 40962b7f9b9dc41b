"""The answer of the study: one plain sentence, the whole verdict, what it rests on, and whether the pictures agree."""

from collections.abc import Sequence

from job.report import words
from job.report.agreement import agreement
from job.report.rating.words import people
from job.report.rating_schema import Ratings
from job.report.schema import MemberReport, Pair, Recommended, StudyVerdict
from job.report.sides import is_of_seeds, is_one_question, share_captions, sides
from job.report.words import unlike
from lora_engine.evaluation import statistics
from lora_engine.evaluation.statistics import FEWEST_GROUPS


def study_verdict(
    pairs: Sequence[Pair],
    members: Sequence[MemberReport],
    groups: int,
    share: float,
    ratings: Ratings | None = None,
) -> StudyVerdict:
    """The answer of the study: the first variant against the one that is lowest as trained, or against the next.

    Where some differ from the first in one thing alone, and not in training seeds, it is against the lowest of those:
    what made the difference is then known. The adapter to begin with is the lowest's in any case. Where no pair has the
    first variant, the answer is of the pair with the lowest adapter.

    Args:
        groups: independent groups of held-out images.
        share: the margin, as a share of the gain.
        ratings: people's votes; None where there are none.
    """
    candidates = _candidates(pairs, members)
    asked = [pair for pair in candidates if is_one_question(pair) and not is_of_seeds(pair)]
    rows = _of_lowest(asked or candidates, members)
    if not rows:
        return StudyVerdict(
            headline=_alone(members, groups),
            sentence=words.alone(members, groups),
            rests_on=_data(members, groups),
            pictures=None,
            people=people(rows, ratings),
            others=[],
            recommended=_recommended(members, None),
        )
    others = [pair for pair in pairs if pair.verdict is not None and pair not in rows]
    others.sort(key=lambda pair: not is_one_question(pair))
    told = [pair.verdict.sentence for pair in rows if pair.verdict is not None]
    disagree = _disagree(rows)
    lowest = _of_lowest(candidates, members)
    winner = lowest[0].verdict.winner if lowest[0].verdict and not _disagree(lowest) else None
    return StudyVerdict(
        headline=f"The seeds disagree about {rows[0].a} and {rows[0].b}." if disagree else _headline(rows),
        sentence=" ".join((["The seeds disagree."] if disagree else []) + told),
        rests_on=_rests_on(rows, members, groups, share),
        pictures=agreement(rows),
        people=people(rows, ratings),
        others=[_headline([pair]) for pair in others],
        recommended=_recommended(members, winner),
    )


def _candidates(pairs: Sequence[Pair], members: Sequence[MemberReport]) -> list[Pair]:
    """The rows of the pairs that the study may be about: those that have the first variant, or else all."""
    first = members[0].variant
    verdicts = [pair for pair in pairs if pair.verdict is not None]
    return [pair for pair in verdicts if first in (pair.a, pair.b)] or verdicts


def _of_lowest(candidates: Sequence[Pair], members: Sequence[MemberReport]) -> list[Pair]:
    """The rows, one or one a seed, of the pair whose variant beside the first has the lowest loss; none of none."""
    if not candidates:
        return []
    first = members[0].variant
    losses: dict[str, list[float]] = {}
    for member in members:
        losses.setdefault(member.variant, []).append(_loss(member))
    mean = {variant: sum(found) / len(found) for variant, found in losses.items()}
    chosen = min(candidates, key=lambda pair: min(mean[v] for v in (pair.a, pair.b) if v != first))
    return [pair for pair in candidates if (pair.a, pair.b) == (chosen.a, chosen.b)]


def _disagree(rows: Sequence[Pair]) -> bool:
    """Whether the rows of a pair, one a seed, do not say the same."""
    return len({(row.verdict.code, row.verdict.winner, _sign(row)) for row in rows if row.verdict is not None}) > 1


def _loss(member: MemberReport) -> float:
    return float("inf") if member.final_loss is None else member.final_loss


def _recommended(members: Sequence[MemberReport], winner: str | None) -> Recommended:
    """The adapter with the lowest loss as trained, of the winner's or else of all."""
    best = min((m for m in members if winner in (None, m.variant)), key=_loss)
    return Recommended(variant=best.variant, seed=best.seed)


def _sign(pair: Pair) -> int:
    """1 or -1 where the difference as trained is told from 0, else 0."""
    return 0 if pair.cells is None else statistics.Interval(**pair.cells.as_trained.model_dump()).sign


def _headline(rows: Sequence[Pair]) -> str:
    """The verdict of a pair as one would say it to somebody who has ten seconds."""
    pair = rows[0]
    told = _of_code(pair)
    if pair.verdict is None or pair.verdict.code in ("withheld", "identical"):
        return told
    if pair.seed is not None and len(rows) == 1:
        return f"Of these adapters, {told}"
    return f"Over {len(rows) if pair.seed is not None else pair.seeds} seeds, {told}"


def _of_code(pair: Pair) -> str:
    a, b = (side.full for side in sides(pair))
    lower, other = (a, b) if pair.cells is None or pair.cells.as_trained.mean <= 0 else (b, a)
    better = f"{lower} fits unseen images better than {other}"
    told = _of_measured(pair, a, b, better)
    if told.startswith(better) and not is_one_question(pair):
        return f"{told[:-1]}; they differ in {unlike(pair)}, so what made it cannot be told."
    return told


def _of_measured(pair: Pair, a: str, b: str, better: str) -> str:
    assert pair.verdict is not None, "only rows with a verdict are chosen"
    match pair.verdict.code:
        case "withheld":
            return f"{pair.a} and {pair.b} cannot be compared: they did not train alike."
        case "identical":
            return f"{a} and {b} are the same adapter."
        case "nothing_measurable":
            return f"training changed nothing measurable in {a} or {b}."
        case "lower":
            return f"{better}, however they are prompted."
        case "lower_but_depends":
            return f"{better}, each prompted as it was trained."
        case "lower_by_captions":
            if not share_captions(pair):
                return f"{better}, but may owe that to its prompts alone."
            return f"{better}, but is not found to do so without a prompt."
        case "different_within_margin":
            return f"{better}, each prompted as it was trained, by too little to matter."
        case "equivalent":
            return f"{a} and {b} fit unseen images equally well, however they are prompted."
        case "equivalent_as_trained":
            return f"{a} and {b} fit unseen images equally well, each prompted as it was trained."
    return f"it cannot be told yet which of {a} and {b} fits unseen images better."


def _alone(members: Sequence[MemberReport], groups: int) -> str:
    """The answer of a study that compares nothing."""
    names = " and ".join(dict.fromkeys(member.variant for member in members))
    done = {_what_training_did(member, groups) for member in members}
    if len(done) > 1:
        return f"Training did not do the same to the loss of every adapter of {names}."
    return f"Training {done.pop()} the loss of {names} on unseen images."


def _what_training_did(member: MemberReport, groups: int) -> str:
    gain = member.gain
    if gain is None:
        return "diverged, which says nothing of"
    if groups < FEWEST_GROUPS or gain.low is None or gain.high is None:
        return "may have changed, which so few images cannot tell,"
    return "lowered" if gain.low > 0 else "raised" if gain.high < 0 else "did not measurably change"


def _data(members: Sequence[MemberReport], groups: int) -> str:
    seeds = len({member.seed for member in members})
    steps = sorted({member.steps for member in members})
    return (
        f"{groups} independent held-out {'image' if groups == 1 else 'images'}, {seeds} training "
        f"{'seed' if seeds == 1 else 'seeds'}, {' or '.join(map(str, steps))} steps."
    )


def _rests_on(rows: Sequence[Pair], members: Sequence[MemberReport], groups: int, share: float) -> str:
    """How much data the answer is told from, and which difference would not matter."""
    margins = [pair.margin for pair in rows if pair.margin is not None]
    if not margins:
        return _data(members, groups)
    sizes = " or ".join(dict.fromkeys(f"{margin:.2g}" for margin in margins))
    return f"{_data(members, groups)} A difference below {sizes}, {share:.0%} of what training gained, does not matter."
