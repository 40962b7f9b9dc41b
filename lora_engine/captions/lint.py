"""Finds what a reader of a caption set would object to."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from lora_engine.records import CaptionRecord

_COMMON_FRACTION = 0.8  # a word in this fraction of the captions, or more, may say what the adapter should learn
_ENOUGH = 10  # captions, below which no fraction of them means anything


@dataclass(frozen=True)
class CaptionLint:
    """Figures of a caption set, and warnings as phrases for a person."""

    images: int
    captions: int  # more than the images where a mix has several texts an image
    unique_ratio: float  # distinct captions over captions, in (0, 1]
    words_median: float
    words_max: int
    tokens_max: int
    truncated: int  # captions of which words were cut
    empty: int  # captions without text
    lines_dropped: int  # lines or rows that came with the images and are left out
    most_common: tuple[tuple[str, int], ...]  # the most frequent captions, and how often each stands
    warnings: tuple[str, ...]


def lint(records: Sequence[CaptionRecord], *, may_repeat: bool = False) -> CaptionLint:
    """Count and judge a caption set.

    Args:
        may_repeat: whether one caption for all images is meant, and nothing to warn of.

    Raises:
        ZeroDivisionError: the set is empty.
    """
    texts = [text for record in records for text in record.texts]
    # Style hints are meant to stand in every caption, so that only what stood there without them is told.
    plain = [
        text if raw is None else raw for record in records for text, raw in zip(record.texts, record.raw, strict=True)
    ]
    words = [len(text.split()) for text in texts]
    counts = Counter(texts)
    truncated = sum(flag for record in records for flag in record.truncated)
    empty = sum(not text for text in texts)
    dropped = [record.unused for record in records if record.unused]
    return CaptionLint(
        images=len(records),
        captions=len(texts),
        unique_ratio=len(counts) / len(texts),
        words_median=float(median(words)),
        words_max=max(words),
        tokens_max=max(count for record in records for count in record.tokens),
        truncated=truncated,
        empty=empty,
        lines_dropped=sum(dropped),
        most_common=tuple(counts.most_common(5)),
        warnings=(*_warnings(texts, plain, counts, truncated, empty, may_repeat), *_left_out(dropped, len(records))),
    )


def _left_out(dropped: Sequence[int], images: int) -> list[str]:
    """A warning of captions that came with the images and are not used, by how many each image has."""
    if not dropped:
        return []
    have = "has" if len(dropped) == 1 else "have"
    return [
        f"{len(dropped)} of {images} images {have} more lines than are used, {sum(dropped)} in all (captions.lines)"
    ]


def _warnings(
    texts: Sequence[str], plain: Sequence[str], counts: Counter[str], truncated: int, empty: int, may_repeat: bool
) -> list[str]:
    warnings = []
    if len(counts) == 1 and len(texts) > 1 and not may_repeat:
        warnings.append(f'every caption is "{texts[0]}"')
    if truncated:
        warnings.append(f"{truncated} of {len(texts)} captions were cut to 77 tokens or 2000 characters")
    if empty:
        warnings.append(f"{empty} of {len(texts)} captions are empty")
    if len(counts) > 1 and len(texts) >= _ENOUGH:
        frequency = Counter(word for text in plain for word in set(re.findall(r"\w+", text.lower())) if len(word) > 3)
        common = sorted(word for word, count in frequency.items() if count >= _COMMON_FRACTION * len(texts))
        if common:
            warnings.append(f"more than {_COMMON_FRACTION:.0%} of the captions say {', '.join(common)}")
    return warnings
