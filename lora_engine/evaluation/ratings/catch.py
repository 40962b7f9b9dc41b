"""Trials whose answer is known, and how many of them a rater may get wrong."""

from collections.abc import Sequence
from dataclasses import dataclass

# Who votes at random fails half of the repeated trials, and a third or more of those with twins. Of three of each, more
# than a quarter are failed by 80 in 100 of such raters, and by 3 in 100 of those who slip in one trial of twenty.
MAX_FAILED_SHARE = 0.25
FEWEST_CAUGHT = 4  # catch trials that are answered; with fewer, nobody is left out


@dataclass(frozen=True)
class Answer:
    """What was said of the things that were shown, by their names. Twins have one name."""

    shown: tuple[str, ...]
    best: int | None  # its place among those shown
    worst: int | None

    def named(self, place: int | None) -> str | None:
        """What is at that place."""
        return None if place is None else self.shown[place]


@dataclass(frozen=True)
class Caught:
    """How a rater did."""

    answered: int
    failed: int

    @property
    def is_careless(self) -> bool:
        """Whether the rater's votes are left out."""
        return self.answered >= FEWEST_CAUGHT and self.failed > MAX_FAILED_SHARE * self.answered


def contradicts(first: Answer, again: Answer) -> bool:
    """Whether two answers to the same trial, its things in any order, turn it around: the best is now the worst.

    Of two things shown, also where the other one is now the best.
    """
    if len(first.shown) == 2:
        both = (first.named(first.best), again.named(again.best))
        return None not in both and both[0] != both[1]
    best, worst = first.named(first.best), first.named(first.worst)
    return (best is not None and best == again.named(again.worst)) or (
        worst is not None and worst == again.named(again.best)
    )


def tells_twins_apart(answer: Answer) -> bool:
    """Whether one of two equal things is called the best and the other the worst; of two things, either the best."""
    if len(answer.shown) == 2:
        return answer.best is not None or answer.worst is not None
    best = answer.named(answer.best)
    return best is not None and best == answer.named(answer.worst)


def caught(repeats: Sequence[tuple[Answer, Answer]], twins: Sequence[Answer]) -> Caught:
    """How a rater did in catch trials: those that were shown twice, with both answers, and those with twins."""
    failed = sum(contradicts(*both) for both in repeats) + sum(map(tells_twins_apart, twins))
    return Caught(len(repeats) + len(twins), failed)
