"""Votes as comparisons of two: an array for each thing that is known of them. Shape legend: V comparisons."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

WIN, TIE, LOSS = 1.0, 0.5, 0.0  # the score of the first of the two


@dataclass(frozen=True)
class Comparisons:
    """Comparisons of two contenders each, all numbers being places in lists that the caller keeps."""

    first: Places  # [V], the contender of the two that has the smaller number
    second: Places  # [V]
    scores: Floats  # [V], of the first: `WIN`, `TIE` or `LOSS`
    prompts: Places  # [V]
    raters: Places  # [V]
    trials: Places  # [V]

    @classmethod
    def of(cls, rows: Iterable[tuple[int, int, float, int, int, int]]) -> "Comparisons":
        """From rows of (first, second, score, prompt, rater, trial); the two may come in either order."""
        ordered = [row if row[0] < row[1] else (row[1], row[0], 1 - row[2], *row[3:]) for row in rows]
        table_V6 = np.array(ordered, dtype=np.float64).reshape(-1, 6)
        first, second, _, prompts, raters, trials = table_V6.T.astype(np.int64)
        return cls(first, second, table_V6[:, 2].copy(), prompts, raters, trials)

    def take(self, chosen: npt.NDArray[np.bool_]) -> "Comparisons":
        """Those that are chosen, [V]."""
        return Comparisons(
            self.first[chosen],
            self.second[chosen],
            self.scores[chosen],
            self.prompts[chosen],
            self.raters[chosen],
            self.trials[chosen],
        )

    def pair(self, first: int, second: int) -> "Comparisons":
        """Those of two contenders, of which `first` is the smaller number."""
        return self.take((self.first == first) & (self.second == second))

    def pairs(self) -> list[tuple[int, int]]:
        """The pairs of contenders that were compared, ascending."""
        return sorted(set(zip(self.first.tolist(), self.second.tolist(), strict=True)))


def outcomes(count: int, best: int | None, worst: int | None) -> Iterator[tuple[int, int, float]]:
    """What a vote says of each two of the things shown, as (first, second, score of the first).

    The best is better than every other, every other is better than the worst, and what is neither ties.

    Args:
        count: of the things shown.
        best: the place of the best; None where none was named.
        worst: likewise.
    """
    rank = [2 if place == best else 0 if place == worst else 1 for place in range(count)]
    for a, b in combinations(range(count), 2):
        yield a, b, WIN if rank[a] > rank[b] else LOSS if rank[a] < rank[b] else TIE
