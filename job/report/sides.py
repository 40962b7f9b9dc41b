"""What the two of a pair are called in sentences, and under which prompts a report shows them."""

from dataclasses import dataclass

from job.report.factors import CAPTIONS, SEED_OFFSET
from job.report.schema import Pair
from job.report.settings import setting_words

_BEATS = {
    "loser_own": "under its own captions",
    "loser_same": "under {lower}'s captions",
    "loser_none": "without a prompt",
}
_CELLS = {
    "as_trained": "as each was trained",
    "under_a": "under {a}'s captions",
    "under_b": "under {b}'s captions",
    "no_prompt": "without a prompt",
}


@dataclass(frozen=True)
class Side:
    """One of a pair. By its setting where that is all that the two differ in, else by its variant's name."""

    short: str  # rank 16
    full: str  # rank 16 (blip-r16)


def sides(pair: Pair) -> tuple[Side, Side]:
    """What `a` and `b` are called."""
    key = pair.factor[0] if len(pair.factor) == 1 else ""
    if key not in pair.values or is_of_seeds(pair):
        return Side(pair.a, pair.a), Side(pair.b, pair.b)
    words = [setting_words(key, value) for value in pair.values[key]]
    a, b = (Side(short, f"{short} ({name})") for short, name in zip(words, (pair.a, pair.b), strict=True))
    return a, b


def share_captions(pair: Pair) -> bool:
    """Whether both have equal captions: then what is under those of either is as trained."""
    return CAPTIONS not in pair.factor


def is_one_question(pair: Pair) -> bool:
    """Whether the two differ in one thing, or in none, so that it is known what makes a difference."""
    return len(pair.factor) < 2


def is_of_seeds(pair: Pair) -> bool:
    """Whether the two differ in their training seeds alone."""
    return pair.factor == [SEED_OFFSET]


def cells_of(pair: Pair) -> dict[str, str]:
    """The cells of a pair that are not another one again, each with the prompts that it is of, in words."""
    return {
        name: words.format(a=pair.a, b=pair.b)
        for name, words in _CELLS.items()
        if not (share_captions(pair) and name in ("under_a", "under_b"))
    }


def beats_of(pair: Pair, lower: str) -> dict[str, str]:
    """The same of the ways to prompt the one that is not lower as trained.

    Args:
        lower: what the other one is called.
    """
    return {
        name: words.format(lower=lower)
        for name, words in _BEATS.items()
        if not (share_captions(pair) and name == "loser_same")
    }
