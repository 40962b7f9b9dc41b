"""Cleaning and cutting against captions written down by hand, each rule alone."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import pytest

from lora_engine.captions import rules
from lora_engine.captions.rules import Cleaned, Fitted, clean
from lora_engine.captions.strategies import with_surroundings
from lora_engine.config.captions import BlipCaptions, CleaningConfig

OFF = CleaningConfig(
    lowercase=False,
    artefact_words=False,
    invented_writing=False,
    repeated_words=False,
    duplicates=False,
    stop_words=False,
)


def by(rule: str, text: str) -> str:
    """The text after this rule alone."""
    return clean(text, OFF.model_copy(update={rule: True})).text


TIDY = OFF.model_copy(update={"artefact_words": True})


def plain(text: str) -> str:
    """The text after a rule that finds nothing to take away."""
    return clean(text, TIDY).text


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        ("lowercase", "A Rose, a ROSE", "a rose, a rose"),
        ("lowercase", "A", "a"),
        ("artefact_words", "Arafed moth, araffe and Arrafe", "moth, and"),
        ("invented_writing", 'A skull With The Words "memento mori" on it', "A skull"),
        ("repeated_words", "a bald Bald BALD eagle", "a bald eagle"),
        ("repeated_words", "a rose and a rose and a skull", "a rose and a skull"),
        ("repeated_words", "one two three four one two three four five", "one two three four five"),
        ("repeated_words", "one two three four five one two three four five", "one two three four five " * 2),
        ("duplicates", "a Moth, a moon ,A MOTH,a moth, 1,000", "a Moth, a moon, 1,000"),
        ("duplicates", "stra\u00dfe, STRASSE", "stra\u00dfe"),
        ("stop_words", "The snake and THE dagger, of a, moon of 1,000", "snake dagger, moon 1,000"),
        ("stop_words", "of the", ""),
    ],
)
def test_each_rule_alone(rule: str, text: str, expected: str) -> None:
    assert by(rule, text) == expected.strip()
    assert clean(text, OFF).text == text


def test_all_words_of_the_lists_are_removed() -> None:
    stop = "a an the of on in at to with and or is are was were be been it its this that these those there some any by "
    stop += "for from as into onto over under very"
    for word in stop.split():
        assert by("stop_words", f"{word} moth {word.upper()}") == "moth"
    assert by("artefact_words", "arafedly moth") == "arafedly moth"
    for word in "arafed araffed araffe araffes arafes arafled arrafe arafe".split():
        assert by("artefact_words", f"{word} moth {word.upper()}") == "moth"


def test_rules_apply_one_after_the_other_and_again_until_nothing_changes() -> None:
    all_rules = CleaningConfig(stop_words=True)
    assert clean("A Moth, arafed a moth", all_rules).text == "moth"
    # without its stop words the caption repeats itself, and without the repetition it has a duplicate
    assert clean("Red the red rose, Red rose", all_rules).text == "red rose"
    # each pass uncovers one more word
    assert clean("a arafed a arafed a cat", CleaningConfig()).text == "a cat"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("tat\u00adtoo\u200b", "tattoo"),
        ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"),
        ("a\tb\nc\rd\x00e", "a b c d e"),
        ("a\u2028b\u2029c\ud800d", "a b c d"),
        ("a \u3000 b", "a b"),
        ("a , b,,c , , d", "a, b,c, d"),
        (" ,;:-a b-:;, ", "a b"),
        ("\u200d\u200ca\u200c", "a"),
        ("-a-b-", "a-b"),
    ],
)
def test_every_text_is_tidied(text: str, expected: str) -> None:
    assert plain(text) == expected


@pytest.mark.parametrize(
    "text", [":d, cup, smile;), dagger, -_-", "1girl,  solo,", "-a  b, ,c -", "e\u0301, tat\u00adtoo"]
)
def test_with_every_rule_off_a_caption_is_kept_to_the_letter(text: str) -> None:
    assert clean(text, OFF) == Cleaned(text, truncated=False)
    assert clean(f" \n{text}\u3000\r\n", OFF) == Cleaned(text, truncated=False)
    assert clean(f"{text} \r\n\n x", OFF) == Cleaned(f"{text} x", truncated=False)
    assert clean(f"\x1b{text}\t\x00\u2028\ud800x", OFF) == Cleaned(f"{text}    x", truncated=False)


def test_two_thousand_characters_are_read() -> None:
    for config in (OFF, TIDY):
        assert clean("a" * 2000, config) == Cleaned("a" * 2000, truncated=False)
        assert clean("a" * 2001, config) == Cleaned("a" * 2000, truncated=True)
    assert clean("a" * 1999 + "  b", OFF) == Cleaned("a" * 1999, truncated=True)
    assert clean("a" * 1998 + ", b", TIDY) == Cleaned("a" * 1998, truncated=True)
    # what dangles is no part of it
    assert clean("a" * 2000 + " -", TIDY) == Cleaned("a" * 2000, truncated=False)
    # what makes a text longer than is read counts as well
    assert clean("\u0130" * 1500, OFF.model_copy(update={"lowercase": True})).truncated
    # and what a later rule takes away was cut all the same
    assert clean("a " * 1500, CleaningConfig()) == Cleaned("a", truncated=True)


def fit(caption: str, hints: str, position: Literal["first", "last"], count_tokens: Callable[[str], int]) -> Fitted:
    """A caption and style hints, as captions are joined with these."""
    part = BlipCaptions(strategy="blip", style_hints=hints, hints_position=position)
    return rules.fit(caption, partial(with_surroundings, part, ""), count_tokens)


def words(text: str) -> int:
    """A token a word, and start and end."""
    return len(text.replace(",", " ").split()) + 2


def characters(text: str) -> int:
    """A token a character that is not a space, and start and end."""
    return len(text.replace(" ", "")) + 2


def numbered(count: int, letter: str = "w") -> str:
    return " ".join(f"{letter}{at}" for at in range(count))


def fitted(caption: str, hints: str = "", position: Literal["first", "last"] = "last") -> Fitted:
    return fit(caption, hints, position, words)


def test_what_fits_is_joined_and_counted() -> None:
    assert fitted("a cat", "line art") == Fitted("a cat, line art", 6, truncated=False)
    assert fitted("a cat", "line art", "first") == Fitted("line art, a cat", 6, truncated=False)
    assert fitted("a  cat") == Fitted("a  cat", 4, truncated=False)
    assert fitted("", "line art") == Fitted("line art", 4, truncated=False)
    assert fitted("") == Fitted("", 2, truncated=False)
    assert fitted(numbered(75)) == Fitted(numbered(75), 77, truncated=False)
    assert fitted("", numbered(75, "h")) == Fitted(numbered(75, "h"), 77, truncated=False)


@pytest.mark.parametrize("count", [76, 77, 100, 127, 128, 129, 1000])
@pytest.mark.parametrize("hints", [0, 1, 40, 74])
def test_words_at_the_end_of_the_caption_are_cut_until_it_fits(count: int, hints: int) -> None:
    kept, hint = numbered(75 - hints), numbered(hints, "h")
    last = fitted(numbered(count), hint)
    assert last == Fitted(", ".join(part for part in (kept, hint) if part), 77, truncated=True)
    first = fitted(numbered(count), hint, "first")
    assert first == Fitted(", ".join(part for part in (hint, kept) if part), 77, truncated=True)


def test_a_caption_is_cut_within_any_text() -> None:
    def within(around: str) -> Callable[[str], str]:
        before, after = around.split("|")
        return lambda kept: before + kept + after

    assert rules.fit(numbered(80, "w"), within("<| a b>"), words) == Fitted(f"<{numbered(73, 'w')} a b>", 77, True)
    with pytest.raises(ValueError, match=r"^78 tokens; the text encoder reads 77$"):
        rules.fit("a cat", within(f"<{numbered(76, 'h')}|>"), words)


def test_hints_may_leave_the_caption_no_room() -> None:
    assert fitted("a cat", numbered(75, "h")) == Fitted(numbered(75, "h"), 77, truncated=True)
    with pytest.raises(ValueError, match=r"^78 tokens; the text encoder reads 77$"):
        fitted("a cat", numbered(76, "h"))


def test_no_comma_dangles_where_a_caption_was_cut() -> None:
    caption = ", ".join(f"w{at}" for at in range(90))
    kept = ", ".join(f"w{at}" for at in range(75))
    assert fitted(caption) == Fitted(kept, 77, truncated=True)
    dashed = " - ".join(f"w{at}" for at in range(90))  # the dash is a word to the counter
    assert fitted(dashed) == Fitted(" - ".join(f"w{at}" for at in range(38)), 77, truncated=True)


def test_a_cut_falls_between_tags() -> None:
    tags = ", ".join(f"long w{at}" for at in range(45))  # the 38th tag fits in part
    assert fitted(tags) == Fitted(", ".join(f"long w{at}" for at in range(37)), 76, truncated=True)
    assert fitted(tags, "ink") == Fitted(", ".join([*(f"long w{at}" for at in range(37)), "ink"]), 77, truncated=True)
    # of a sentence no more than half of what fits is given up
    assert fitted(numbered(90).replace("w50 ", "w50, ")).text == numbered(51)
    assert fitted(numbered(90).replace("w20 ", "w20, ")).text == numbered(75).replace("w20 ", "w20, ")
    assert fitted("1,000 " * 90).text == ("1,000 " * 37).strip()  # the comma of a number parts nothing


def test_spaces_between_kept_words_are_single() -> None:
    assert fitted("  ".join(f"w{at}" for at in range(90))).text == numbered(75)


def test_a_word_that_is_too_long_by_itself_is_cut_within() -> None:
    assert fit("x" * 90, "", "last", characters) == Fitted("x" * 75, 77, truncated=True)
    assert fit("ab " + "x" * 90, "", "last", characters) == Fitted("ab " + "x" * 73, 77, truncated=True)
    # one that is long but would fit alone is not
    assert fit("ab " + "x" * 75, "", "last", characters) == Fitted("ab", 4, truncated=True)
    assert fit("ab " + "x" * 76 + " cd", "", "last", characters) == Fitted("ab " + "x" * 73, 77, truncated=True)
    assert fit("x" * 90, "h" * 73, "last", characters) == Fitted("x, " + "h" * 73, 77, truncated=True)
    assert fit("x" * 90, "h" * 74, "last", characters) == Fitted("h" * 74, 76, truncated=True)


@pytest.mark.parametrize(
    ("group", "kept"),
    [
        ("e\u0301", 37),  # an accent stays with its letter
        ("\u0915\u094d\u200d\u0937", 18),  # what a joiner joins stays joined
        ("a\u200c", 38),  # the last joiner joins nothing and goes
        ("ab", 37.5),
    ],
)
def test_a_cut_parts_no_accent_from_its_letter_and_no_joined_characters(group: str, kept: float) -> None:
    text = group * 60
    expected = text[: int(kept * len(group))]
    assert fit(text, "", "last", characters).text == expected.rstrip("\u200c")
