"""Figures of caption sets counted by hand, and the warnings they deserve."""

from dataclasses import replace

from lora_engine.captions.lint import CaptionLint, lint
from lora_engine.records import CaptionRecord


def record(*texts: str, tokens: int = 5, truncated: bool = False) -> CaptionRecord:
    count = len(texts)
    return CaptionRecord("x", texts, (None,) * count, (tokens,) * count, (truncated, *[False] * (count - 1)))


def warnings(*texts: str) -> tuple[str, ...]:
    return lint([record(text) for text in texts]).warnings


def test_a_caption_set_is_counted() -> None:
    records = [
        record("a cat"),
        record("a cat"),
        record("", "a very long dog", tokens=9, truncated=True),
        record("moon"),
    ]
    assert lint(records) == CaptionLint(
        images=4,
        captions=5,
        unique_ratio=0.8,
        words_median=2.0,
        words_max=4,
        tokens_max=9,
        truncated=1,
        empty=1,
        lines_dropped=0,
        most_common=(("a cat", 2), ("", 1), ("a very long dog", 1), ("moon", 1)),
        warnings=(
            "1 of 5 captions were cut to 77 tokens or 2000 characters",
            "1 of 5 captions are empty",
        ),
    )


def test_lines_that_are_left_out_are_counted() -> None:
    records = [replace(record(f"a {at}"), unused=unused) for at, unused in enumerate((0, 2, 5))]
    found = lint(records)
    assert found.lines_dropped == 7
    assert found.warnings == ("2 of 3 images have more lines than are used, 7 in all (captions.lines)",)
    (one,) = lint(records[:2]).warnings
    assert one == "1 of 2 images has more lines than are used, 2 in all (captions.lines)"


def test_the_five_most_common_captions_are_shown() -> None:
    found = lint([record(text) for text in "f e e d d d c b a".split()]).most_common
    assert found == (("d", 3), ("e", 2), ("f", 1), ("c", 1), ("b", 1))


def test_the_median_of_an_even_number_lies_between() -> None:
    found = lint([record("a"), record("a b")]).words_median
    assert (found, type(found)) == (1.5, float)
    assert type(lint([record("a")]).words_median) is float


def test_one_caption_for_all_images_is_worth_a_warning() -> None:
    assert warnings("a tattoo", "a tattoo") == ('every caption is "a tattoo"',)
    assert warnings("a tattoo") == ()
    assert warnings("a tattoo", "a rose") == ()
    # even where it leaks into all of them
    assert warnings(*["a tattoo"] * 20) == ('every caption is "a tattoo"',)


def test_one_caption_that_is_meant_for_all_images_is_worth_none() -> None:
    assert lint([record("a tattoo"), record("a tattoo")], may_repeat=True).warnings == ()
    assert lint([record(""), record("")], may_repeat=True).warnings == ("2 of 2 captions are empty",)


def test_words_that_most_captions_share_are_worth_a_warning() -> None:
    eight = [f"Stencil of a line-drawn thing{at}, the stencil" for at in range(8)]
    assert warnings(*eight, "a rose", "a sun") == ("more than 80% of the captions say drawn, line, stencil",)
    assert warnings(*["two stencils"] * 9, "stencils") == ("more than 80% of the captions say stencils",)
    # "of", "the" and "a" are too short to count, "rose" and "sun" too rare
    assert warnings(*eight[:7], "a rose", "a sun", "a cup") == ()
    # of nine captions it is too early to say
    assert warnings(*eight, "a rose") == ()


def test_what_is_cut_or_empty_is_counted_over_all_texts() -> None:
    found = lint([record("a", "b", truncated=True), record("c", "", truncated=True), record("", "d")])
    assert (found.truncated, found.empty) == (2, 2)
    assert found.warnings == (
        "2 of 6 captions were cut to 77 tokens or 2000 characters",
        "2 of 6 captions are empty",
    )
