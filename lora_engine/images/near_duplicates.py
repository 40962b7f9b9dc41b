"""Groups pictures that show the same: copies in another size, format or compression, mirrored, or with another border.

Shape legend: N pictures, L looks of a hash (the page's waves above and below, then the figure's), W words of 64 bits,
P pairs.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lora_engine.images.perceptual_hash import HASH_BYTES

_Places = npt.NDArray[np.intp]
_Bools = npt.NDArray[np.bool_]
_Words = npt.NDArray[np.uint64]

_LOOKS = 4
_PAGE, _FIGURE = slice(0, 2), slice(2, 4)  # the looks of the waves above and below
_AT_ONCE = 128  # pictures that are compared with all others, so that memory does not grow with the square of N
_PAIRS_AT_ONCE = 2**17  # of them that are looked at closely
# Waves of a page that stand clear, from which on it tells by itself what is on it. A small or faint figure leaves
# fewer: then two figures must not be plainly different.
_TELLING = 128
# Correlations of the figures' waves, in [-1, 1]: below the first they are plainly different, from the second on the
# same. A simple figure has few waves, of which others have most.
_NOT_ANOTHER = 0.5
_THE_SAME = 0.9
# A mirror image has the same waves, but that those of odd frequency across turn over.
_EVEN, _ODD = np.uint64(0xAAAAAAAAAAAAAAAA), np.uint64(0x5555555555555555)


def group_alike(hashes: Sequence[bytes], distance: int) -> _Places:
    """Number the groups of pictures that show the same, and give each picture's, [N]. What links two, links all.

    Two show the same where their pages, or that of one and the other's mirror image, differ in at most `distance` of
    256 bits, and, if one has too few waves to tell, their figures are not plainly different; or where their figures
    differ in so few and have nearly the same waves.

    Args:
        hashes: as `perceptual_hash` makes them.
        distance: bits.
    """
    number = len(hashes)
    looks_NLW = np.frombuffer(b"".join(hashes), dtype=np.uint64).reshape(number, _LOOKS, HASH_BYTES // (8 * _LOOKS))
    groups: _Places = np.arange(number)
    for start in range(0, number, _AT_ONCE):
        block, rest = looks_NLW[start : start + _AT_ONCE], looks_NLW[start:]
        for others in (rest, _mirrored(rest)):
            for look, are_near in ((_PAGE, _same_page), (_FIGURE, _same_figure)):
                for at, to in _candidates(block[:, look], others[:, look], distance):
                    # Of pictures that are in one group already, nothing more needs to be known.
                    apart = groups[start + at] != groups[start + to]
                    a, b = at[apart], to[apart]
                    near = are_near(block[a], others[b], distance)
                    groups = _joined(groups, start + a[near], start + b[near])
    return groups


def _mirrored(looks_NLW: _Words) -> _Words:
    """The hashes of the pictures' mirror images."""
    return looks_NLW & _EVEN | looks_NLW[:, [1, 0, 3, 2]] & _ODD


def _candidates(block_BLW: _Words, others_NLW: _Words, distance: int) -> Iterator[tuple[_Places, _Places]]:
    """The places of pairs that differ in few enough of the first 64 bits, some at a time: most others do not."""
    first = np.bitwise_count(block_BLW[:, np.newaxis, 0, 0] ^ others_NLW[np.newaxis, :, 0, 0])
    near_a, near_b = np.nonzero(first <= distance)
    for start in range(0, len(near_a), _PAIRS_AT_ONCE):
        yield near_a[start : start + _PAIRS_AT_ONCE], near_b[start : start + _PAIRS_AT_ONCE]


def _same_page(a_PLW: _Words, b_PLW: _Words, distance: int) -> _Bools:
    """Whether the pages of each pair are alike, and the figures not plainly different where pages do not tell."""
    tells = np.minimum(_bits(a_PLW[:, _PAGE]), _bits(b_PLW[:, _PAGE])) >= _TELLING
    found: _Bools = _within(a_PLW[:, _PAGE], b_PLW[:, _PAGE], distance)
    return found & (tells | _correlated(a_PLW[:, _FIGURE], b_PLW[:, _FIGURE], _NOT_ANOTHER))


def _same_figure(a_PLW: _Words, b_PLW: _Words, distance: int) -> _Bools:
    """Whether the figures of each pair are the same."""
    found: _Bools = _within(a_PLW[:, _FIGURE], b_PLW[:, _FIGURE], distance)
    return found & _correlated(a_PLW[:, _FIGURE], b_PLW[:, _FIGURE], _THE_SAME)


def _within(a_PLW: _Words, b_PLW: _Words, distance: int) -> _Bools:
    """Whether the waves above differ in at most so many bits."""
    found: _Bools = _bits(a_PLW[:, :1] ^ b_PLW[:, :1]) <= distance
    return found


def _correlated(a_PLW: _Words, b_PLW: _Words, least: float) -> _Bools:
    """Whether the waves correlate by so much. Nothing on a page is like nothing on another, and like nothing else."""
    agree = _bits(a_PLW & b_PLW) - _bits(a_PLW & b_PLW[:, ::-1])
    a, b = _bits(a_PLW), _bits(b_PLW)
    found: _Bools = (a + b == 0) | (a * b > 0) & (agree >= least * np.sqrt(a * b))
    return found


def _bits(words_PLW: _Words) -> npt.NDArray[np.int64]:
    """How many bits are set, [P]."""
    found: npt.NDArray[np.int64] = np.bitwise_count(words_PLW).sum(axis=(1, 2), dtype=np.int64)
    return found


def _joined(groups: _Places, a: _Places, b: _Places) -> _Places:
    """The groups once those of each pair are one."""
    if not len(a):
        return groups
    links = coo_array((np.ones(len(a), dtype=bool), (groups[a], groups[b])), shape=(len(groups), len(groups)))
    _, merged = connected_components(links, directed=False)
    found: _Places = merged[groups].astype(np.intp)
    return found
