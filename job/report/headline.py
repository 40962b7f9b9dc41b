"""The answer of the study: one plain sentence, the whole verdict, what it rests on, and whether the pictures agree."""

from collections.abc import Sequence

from job.report import words
from job.report.picture_schema import PictureDifference
from job.report.schema import MemberReport, Pair, StudyVerdict
from lora_engine.evaluation import statistics

# Measures of pictures of which it is known which way is better: 1 where more is, and how the better ones are said.
_BETTER = {
    "clip_score": (1, "fit their prompts better"),
    "clip_retrieval": (1, "show what was asked for more often"),
    "line_art_distance": (-1, "are nearer to the held-out images in style"),
}


def study_verdict(pairs: Sequence[Pair], members: Sequence[MemberReport], groups: int, share: float) -> StudyVerdict:
    """The answer of the study: the first variant against the one that is lowest as trained, or against the next.

    Where no pair has the first variant, it is the one with the lowest adapter.

    Args:
        groups: independent groups of held-out images.
        share: the margin, as a share of the gain.
    """
    rows = _chosen(pairs, members)
    if not rows:
        alone = words.alone(members, groups)
        return StudyVerdict(headline=alone, sentence=alone, rests_on=_data(members, groups), pictures=None)
    told = [pair.verdict.sentence for pair in rows if pair.verdict is not None]
    disagree = len({(r.verdict.code, r.verdict.winner, _sign(r)) for r in rows if r.verdict is not None}) > 1
    return StudyVerdict(
        headline=f"The seeds disagree about {rows[0].a} and {rows[0].b}." if disagree else _headline(rows[0]),
        sentence=" ".join((["The seeds disagree."] if disagree else []) + told),
        rests_on=_rests_on(rows, members, groups, share),
        pictures=_pictures(rows[0]),
    )


def _chosen(pairs: Sequence[Pair], members: Sequence[MemberReport]) -> list[Pair]:
    """The rows of the pair that the study is about: one, or one a seed. None where no pair has a verdict."""
    first = members[0].variant
    verdicts = [pair for pair in pairs if pair.verdict is not None]
    of_first = [pair for pair in verdicts if first in (pair.a, pair.b)] or verdicts
    if not of_first:
        return []
    losses: dict[str, list[float]] = {}
    for member in members:
        losses.setdefault(member.variant, []).append(float("inf") if member.final_loss is None else member.final_loss)
    mean = {variant: sum(found) / len(found) for variant, found in losses.items()}
    chosen = min(of_first, key=lambda pair: min(mean[v] for v in (pair.a, pair.b) if v != first))
    return [pair for pair in of_first if (pair.a, pair.b) == (chosen.a, chosen.b)]


def _sign(pair: Pair) -> int:
    """1 or -1 where the difference as trained is told from 0, else 0."""
    return 0 if pair.cells is None else statistics.Interval(**pair.cells.as_trained.model_dump()).sign


def _headline(pair: Pair) -> str:
    """The verdict of a pair as one would say it to somebody who has ten seconds."""
    assert pair.verdict is not None, "only rows with a verdict are chosen"
    a, b = pair.a, pair.b
    lower, other = (a, b) if pair.cells is None or pair.cells.as_trained.mean <= 0 else (b, a)
    match pair.verdict.code:
        case "withheld":
            return f"{a} and {b} cannot be compared: they did not train alike."
        case "identical":
            return f"{a} and {b} are the same adapter."
        case "nothing_measurable":
            return f"Training changed nothing measurable in {a} or {b}."
        case "lower":
            return f"{lower} fits unseen images better than {other}, however they are prompted."
        case "lower_but_depends":
            return f"{lower} fits unseen images better than {other}, each prompted as it was trained."
        case "lower_by_captions":
            return f"{lower} fits unseen images better than {other}, but may owe that to its prompts alone."
        case "different_within_margin":
            return f"{lower} fits unseen images better than {other}, by too little to matter."
        case "equivalent":
            return f"It does not matter whether one takes {a} or {b}."
        case "equivalent_as_trained":
            return f"It does not matter whether one takes {a} or {b}, if each is prompted as it was trained."
    return f"Nobody can tell yet which of {a} and {b} is better."


def _data(members: Sequence[MemberReport], groups: int) -> str:
    seeds = len({member.seed for member in members})
    steps = sorted({member.steps for member in members})
    return (
        f"{groups} independent held-out {'image' if groups == 1 else 'images'}, {seeds} training "
        f"{'seed' if seeds == 1 else 'seeds'}, {' or '.join(map(str, steps))} steps"
    )


def _rests_on(rows: Sequence[Pair], members: Sequence[MemberReport], groups: int, share: float) -> str:
    """How much data the answer is told from, and which difference would not matter."""
    margins = [pair.margin for pair in rows if pair.margin is not None]
    if not margins:
        return f"{_data(members, groups)}."
    sizes = " or ".join(dict.fromkeys(f"{margin:.2g}" for margin in margins))
    return (
        f"{_data(members, groups)}. A difference below {sizes}, {share:.0%} of what training gained, does not matter."
    )


def _pictures(pair: Pair) -> str | None:
    """Whether pictures that were prompted as their adapters were trained agree; None where there are none."""
    drawn = pair.pictures.as_trained if pair.pictures else None
    measured = {name: drawn[name] for name in _BETTER if name in drawn} if drawn else {}
    if not measured:
        return None
    better: dict[str, list[str]] = {pair.a: [], pair.b: []}
    for name, difference in measured.items():
        sign = _told(difference) * _BETTER[name][0]
        if sign:
            better[pair.a if sign > 0 else pair.b].append(f"{_BETTER[name][1]} ({name})")
    found = [f"those of {variant} {' and '.join(how)}" for variant, how in better.items() if how]
    winner = pair.verdict.winner if pair.verdict else None
    if not found:
        return "Their pictures cannot be told apart by what was measured of them."
    if winner is None or len(found) > 1:
        return f"Their pictures differ: {', but '.join(found)}."
    return f"The pictures {'agree' if better[winner] else 'disagree'}: {found[0]}."


def _told(difference: PictureDifference) -> int:
    """1 or -1 where the difference is told from 0 even among all that were looked at, else 0."""
    low, high = difference.simultaneous_low, difference.simultaneous_high
    return 0 if low is None or high is None else (low > 0) - (high < 0)
