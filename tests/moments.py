"""Moments at which something was heard of, judged so that a busy machine changes nothing."""

from collections.abc import Sequence
from itertools import pairwise


def all_the_time(moments: Sequence[float]) -> bool:
    """Whether moments are spread over the time from the first to the last, of which a busy machine may take two parts
    away: what comes in one burst is not.
    """
    gaps = sorted(later - earlier for earlier, later in pairwise(moments))
    return sum(gaps[:-2]) > sum(gaps) / 4
