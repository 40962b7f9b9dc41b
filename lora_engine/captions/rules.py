"""Cleans captions by rules in a fixed order, and fits them to the text encoder. Pure functions of text."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from lora_engine.config.captions import CleaningConfig

TOKEN_LIMIT = 77  # tokens that CLIP's text encoder reads, start and end included
_LONGEST = 2000  # characters, several times what the text encoder reads; cleaning may take the square of their number
_JOINERS = "\u200c\u200d"  # invisible characters that are kept: they shape Persian and Hindi words, and emoji
_DANGLING = f" ,;:-{_JOINERS}"  # characters that no caption begins or ends with

_ARTEFACTS = re.compile(r"\b(?:arafed|araffed|araffe|araffes|arafes|arafled|arrafe|arafe)\b", re.IGNORECASE)
# An apostrophe within a word does not end a quotation.
_QUOTE = r"""(?:"[^"]*"|\u201c[^\u201d]*\u201d|'(?:[^']|(?<=\w)'(?=\w))*'(?!\w)"""
_QUOTE += r"|\u2018(?:[^\u2019]|(?<=\w)\u2019(?=\w))*\u2019(?!\w))"
_QUOTED = rf"{_QUOTE}(?:(?:,|\s+and)\s+{_QUOTE})*"
_LEAD = r"(?:with|and|featuring|bearing|having|(?:(?:that|which)\s+)?ha(?:s|ve))\s+"
_NOUN = r"(?:words?|phrase|text|letters?|lettering|name|caption|writing|inscription|quotes?|slogan|message|saying)"
_PLACE = r"(?:on|in|above|below|under|over|across)"
_MADE = r"(?:written|printed|painted|tattooed)"
_ON_IT = rf"\s+{_PLACE}\s+(?:it|them)\b"
_WHERE = rf"(?:\s+{_MADE}\s+{_PLACE}\s+(?:(?:the|an?|his|her|its|their)\s+)?\w+|{_ON_IT})"
# Writing that is given without quotes: its end must be guessed, and whatever may be a description stays.
_WORD = rf"(?!(?:and|with|{_MADE})\b)[\w'-]+"
_SAID = rf"(?!(?:{_PLACE}|at|of|from|for|to|by|that|which|is|are)\b){_WORD}(?:\s+{_WORD}){{0,11}}?"
_END = rf"(?=\s*(?:[,.;:!?)]|$)|\s+(?:{_PLACE}|at|of|against|next|and|with)\b)"
# The bare `reading a book`, `writing a letter` and `a name tag` are descriptions, so those words alone are no clause.
_WRITING = re.compile(
    r",?\s*\b(?:"
    rf"(?:{_LEAD}|of\s+)(?:the\s+|an?\s+)?{_NOUN}[:,]?\s+"
    rf"(?:(?:(?:that|which)\s+)?(?:says?|reads?|saying|reading)[:,]?\s+)?{_QUOTED}{_WHERE}?"
    rf"|(?:(?:that|which|who|and)\s+)?(?:says|reads|saying|reading)[:,]?\s+{_QUOTED}{_WHERE}?"
    rf"|{_LEAD}(?:the\s+|an?\s+)?{_NOUN}\s+(?:(?:that|which)\s+(?:says?|reads?)|saying)[:,]?\s+{_SAID}(?:{_WHERE}|{_END})"
    rf"|(?:that|which)\s+says\s+{_SAID}{_ON_IT}"
    rf"|{_LEAD}the\s+{_NOUN}\s+{_SAID}{_WHERE}"
    rf"|{_LEAD}the\s+(?:words?|phrase)\s+{_SAID}{_END}"
    r")",
    re.IGNORECASE,
)
# A repetition begins and ends where a word does. Were it sought within words too, x-x-x-... would take the square of
# its length.
_REPEAT = re.compile(rf"(?<![\w'-])((?:[\w'-]+\s+){{0,3}}[\w'-]+)(?:\s+\1(?![\w'{_JOINERS}-]))+", re.IGNORECASE)
_BETWEEN_PHRASES = re.compile(r",(?!(?<=\d,)\d)")  # any comma but that of a number, as in 1,000
_STOP_WORDS = frozenset(
    "a an the of on in at to with and or is are was were be been it its this that these those there some any by for "
    "from as into onto over under very".split()
)


@dataclass(frozen=True)
class Cleaned:
    """A text after every rule that is switched on."""

    text: str
    truncated: bool  # it was longer than 2000 characters, of which the rest is not read


def clean(text: str, config: CleaningConfig) -> Cleaned:
    """Apply the rules until nothing changes, so that cleaning a cleaned caption changes nothing.

    With every rule off a line is kept to the letter, but for white space at its ends and control characters, which
    become spaces; several lines become one.
    """
    rules = _rules(config)
    if not rules:
        line = _without_control_characters(" ".join(filter(None, map(str.strip, re.split(r"[\r\n]+", text))))).strip()
        return Cleaned(line[:_LONGEST].rstrip(), len(line) > _LONGEST)
    cleaned, truncated = _cut(_normalise(text))
    for _ in range(len(text) + 1):  # every round but the last takes something away
        before = cleaned
        for rule in rules:
            cleaned, cut = _cut(_normalise(rule(cleaned)))
            truncated |= cut
        if cleaned == before:
            break
    return Cleaned(cleaned, truncated)


def _rules(config: CleaningConfig) -> list[Callable[[str], str]]:
    """The rules that are switched on, in the order in which they apply."""
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
    """The text in NFC, without control or invisible characters, doubled spaces or commas, or dangling punctuation."""
    # Invisible characters are taken out, since they stand within words, as soft hyphens do; control characters part
    # words, so each becomes a space.
    text = "".join(c for c in text if unicodedata.category(c) != "Cf" or c in _JOINERS)
    text = _without_control_characters(unicodedata.normalize("NFC", text))
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s*,(?:\s*,)+", ",", re.sub(r"\s+,", ",", text))
    return text.strip(_DANGLING)


def _without_control_characters(text: str) -> str:
    return "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") else c for c in text)


def _cut(text: str) -> tuple[str, bool]:
    """The part of a text that is read, and whether that is less than all of it."""
    return text[:_LONGEST].strip(_DANGLING), len(text) > _LONGEST


def _without_duplicates(text: str) -> str:
    """The text with each comma-separated phrase once, whatever its case."""
    first: dict[str, str] = {}
    for phrase in (phrase.strip() for phrase in _BETWEEN_PHRASES.split(text)):
        if phrase:
            first.setdefault(phrase.casefold(), phrase)
    return ", ".join(first.values())


def _without_stop_words(text: str) -> str:
    """The text without stop words, and without the phrases that consist of them."""
    phrases = (" ".join(w for w in p.split() if w.casefold() not in _STOP_WORDS) for p in _BETWEEN_PHRASES.split(text))
    return ", ".join(phrase for phrase in phrases if phrase)


@dataclass(frozen=True)
class Fitted:
    """A caption, with what stands around it, that the text encoder reads to its end."""

    text: str
    tokens: int  # start and end included
    truncated: bool  # words of the caption were cut


def fit(caption: str, joined: Callable[[str], str], count_tokens: Callable[[str], int]) -> Fitted:
    """Put a caption between what stands around it; where both exceed 77 tokens, words at the caption's end are cut.

    Where commas part the caption, it is cut at one, unless less than half of what fits were left. A word that is too
    long even by itself, as a text without spaces is, is cut within.

    Args:
        joined: gives the whole text for what is kept of the caption, which may be nothing.
        count_tokens: counts a text's tokens, start and end included.

    Raises:
        ValueError: what stands around the caption is too long by itself.
    """

    def fits(kept: str) -> bool:
        return count_tokens(joined(kept)) <= TOKEN_LIMIT

    if fits(caption):
        return Fitted(joined(caption), count_tokens(joined(caption)), truncated=False)
    if not fits(""):
        raise ValueError(f"{count_tokens(joined(''))} tokens; the text encoder reads {TOKEN_LIMIT}")
    text = " ".join(caption.split())

    def last(ends: Sequence[int]) -> int:
        """The place of the last of `ends` at which the text fits, where it does at the first and not at the last."""
        low, high = 0, len(ends) - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(text[: ends[middle]].rstrip(_DANGLING)) else (low, middle)
        return low

    ends = [0, *(space.start() for space in re.finditer(" ", text)), len(text)]
    at = last(ends)
    end, following = ends[at : at + 2]
    if not fits(text[end:following].strip()):
        within = [end, *_between_characters(text, end + 1, following), following]
        end = within[last(within)]
    end = _comma_before(text, end) or end
    kept = joined(text[:end].rstrip(_DANGLING))
    return Fitted(kept, count_tokens(kept), truncated=True)


def _comma_before(text: str, end: int) -> int | None:
    """The place of the last comma between phrases up to `end`; None where it is in the first half, or there is none."""
    commas = [match.start() for match in _BETWEEN_PHRASES.finditer(text) if end <= 2 * match.start() <= 2 * end]
    return commas[-1] if commas else None


def _between_characters(text: str, first: int, end: int) -> Iterator[int]:
    """Places from `first` to before `end` where a cut parts no accent from its letter and no joined characters."""
    for at in range(first, end):
        joined = text[at] in _JOINERS or text[at - 1] == "\u200d" or unicodedata.category(text[at]).startswith("M")
        if not joined:
            yield at
