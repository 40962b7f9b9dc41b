"""Cleaning rules: pure functions of text, applied in a fixed order."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lora_engine.config.captions import CleaningConfig

TOKEN_LIMIT = 77  # of CLIP's text encoder, start and end included
_LONGEST = 2000  # characters, several times what the text encoder reads; cleaning may take the square of it

_ARTEFACTS = re.compile(r"\b(?:arafed|araffed|araffe|araffes|arafes|arafled|arrafe|arafe)\b", re.IGNORECASE)
_QUOTED = r"""(?:"[^"]*"|'[^']*'|\u201c[^\u201d]*\u201d|\u2018[^\u2019]*\u2019)"""
_WRITING = re.compile(
    r",?\s*\b(?:with|and|that\s+has|featuring)?\s*(?:the\s+|a\s+)?"
    r"(?:words?|text|letters?|name|caption|writing|inscription|lettering)\s+"
    rf"(?:(?:that\s+)?(?:says?|reads?|saying|reading)\s+)?(?:{_QUOTED}|[\w'-]+)(?:\s+(?:written\s+)?(?:on|in|above|below|under|over)\s+(?:it|them))?"
    rf"|,?\s*\b(?:that|which|and)?\s*(?:says|reads|saying|reading)\s+(?:{_QUOTED}|[\w'-]+)(?:\s+on\s+it)?",
    re.IGNORECASE,
)
# begins where a word does, not within: x-x-x-... would take the square of its length
_REPEAT = re.compile(r"(?<![\w'-])((?:[\w'-]+\s+){0,3}[\w'-]+)(?:\s*,?\s+\1\b)+", re.IGNORECASE)
_BETWEEN_PHRASES = re.compile(r",(?!(?<=\d,)\d)")  # not the comma of 1,000
_STOP_WORDS = frozenset(
    "a an the of on in at to with and or is are was were be been it its this that these those there some any by for "
    "from as into onto over under very".split()
)


def clean(text: str, config: CleaningConfig) -> str:
    """The text after every rule that is switched on, repeated until nothing changes: twice is as good as once."""
    cleaned = _normalise(text)
    rules = _rules(config)
    for _ in range(len(text) + 1):  # every pass but the last takes something away
        before = cleaned
        for rule in rules:
            cleaned = _normalise(rule(cleaned))
        if cleaned == before:
            break
    return cleaned


def _rules(config: CleaningConfig) -> list[Callable[[str], str]]:
    rules: list[tuple[bool, Callable[[str], str]]] = [
        (config.lowercase, str.lower),
        (config.artefact_words, lambda text: _ARTEFACTS.sub("", text)),
        (config.invented_writing, lambda text: _WRITING.sub("", text)),
        (config.repeated_words, lambda text: _REPEAT.sub(r"\1", text)),
        (config.duplicates, _without_duplicates),
        (config.stop_words, _without_stop_words),
    ]
    return [rule for switched_on, rule in rules if switched_on]


def _normalise(text: str) -> str:
    """NFC, cut, no control characters, single spaces, no stray commas, no punctuation dangling at the ends."""
    text = unicodedata.normalize("NFC", text)
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs") else c for c in text)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s*,(?:\s*,)+", ",", re.sub(r"\s+,", ",", text))
    return text[:_LONGEST].strip(" ,;:-")


def _without_duplicates(text: str) -> str:
    first: dict[str, str] = {}
    for phrase in (phrase.strip() for phrase in _BETWEEN_PHRASES.split(text)):
        if phrase:
            first.setdefault(phrase.casefold(), phrase)
    return ", ".join(first.values())


def _without_stop_words(text: str) -> str:
    phrases = (" ".join(w for w in p.split() if w.casefold() not in _STOP_WORDS) for p in _BETWEEN_PHRASES.split(text))
    return ", ".join(phrase for phrase in phrases if phrase)


@dataclass(frozen=True)
class Fitted:
    """A caption that the text encoder reads to its end."""

    text: str
    tokens: int  # start and end included
    truncated: bool  # words of the caption were cut


def fit(caption: str, hints: str, position: Literal["first", "last"], count_tokens: Callable[[str], int]) -> Fitted:
    """Join caption and style hints; where both exceed 77 tokens, words at the caption's end are cut, never the hints.

    Raises:
        ValueError: the hints alone are too long.
    """
    words = caption.split()

    def joined(count: int) -> str:
        kept = caption if count == len(words) else " ".join(words[:count]).rstrip(" ,;:-")
        parts = (kept, hints) if position == "last" else (hints, kept)
        return ", ".join(part for part in parts if part)

    if count_tokens(joined(len(words))) <= TOKEN_LIMIT:
        return Fitted(joined(len(words)), count_tokens(joined(len(words))), truncated=False)
    if count_tokens(hints) > TOKEN_LIMIT:
        raise ValueError(f"style_hints are {count_tokens(hints)} tokens; the text encoder reads {TOKEN_LIMIT}")
    low, high = 0, len(words)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count_tokens(joined(middle)) <= TOKEN_LIMIT else (low, middle)
    return Fitted(joined(low), count_tokens(joined(low)), truncated=True)
