"""Captions of an image against what each strategy is to say of it."""

from typing import Any

import pytest

from lora_engine.captions.strategies import (
    NO_CAPTION_REMEDY,
    bare,
    caption_record,
    captioners_of,
    lacks_missing,
    needs_sidecars,
    text_weights,
)
from lora_engine.config.captions import (
    CAPTIONER,
    BlipCaptions,
    CaptionsConfig,
    ConstantCaptions,
    ExistingCaptions,
    MixCaptions,
    MixPart,
)
from lora_engine.errors import DataError
from lora_engine.records import CaptionRecord

CONSTANT = ConstantCaptions(strategy="constant", text="A  Tattoo, a Tattoo")
BLIP = BlipCaptions(strategy="blip", style_hints="Line Art")
EXISTING = ExistingCaptions(strategy="existing", missing=None)
LONG = " ".join(f"w{at}" for at in range(90))


def words(text: str) -> int:
    """A token a word, and start and end."""
    return len(text.replace(",", " ").split()) + 2


def record(config: CaptionsConfig, generated: str | None = None, *existing: str) -> CaptionRecord:
    by_name = {} if generated is None else {CAPTIONER: generated}
    return caption_record("7f", "a.png", config, generated=by_name, existing=existing, count_tokens=words)


def mix(*captions: Any) -> MixCaptions:
    return MixCaptions(strategy="mix", parts=tuple(MixPart(captions=one) for one in captions))


def test_a_constant_caption_is_what_the_manifest_says_uncleaned() -> None:
    expected = CaptionRecord("7f", ("A  Tattoo, a Tattoo",), (None,), (6,), (False,))
    assert record(CONSTANT, "generated", "existing") == expected


def test_a_generated_caption_is_cleaned_and_gets_the_hints() -> None:
    expected = CaptionRecord("7f", ("a rose, Line Art",), ("arafed A Rose",), (6,), (False,))
    assert record(BLIP, "arafed A Rose", "existing") == expected
    first = BLIP.model_copy(update={"hints_position": "first"})
    assert record(first, "A Rose").texts == ("Line Art, a rose",)
    assert record(BLIP, "").texts == ("Line Art",)


def test_a_trigger_stands_first_of_all() -> None:
    for position, expected in (("first", "xyz, Line Art, a rose"), ("last", "xyz, a rose, Line Art")):
        triggered = BLIP.model_copy(update={"hints_position": position, "trigger": "xyz"})
        assert record(triggered, "A Rose").texts == (expected,)
        assert record(triggered, "A Rose").raw == ("A Rose",)
        assert record(triggered, "").texts == ("xyz, Line Art",)
    assert record(CONSTANT.model_copy(update={"trigger": "xyz"})).texts == ("xyz, A  Tattoo, a Tattoo",)
    mixed = mix(CONSTANT, BLIP, EXISTING).model_copy(update={"trigger": "xyz"})
    assert record(mixed, "A Rose", "a moth").texts == (
        "xyz, A  Tattoo, a Tattoo",
        "xyz, a rose, Line Art",
        "xyz, a moth",
    )


def test_a_trigger_is_never_what_is_cut() -> None:
    found = record(BLIP.model_copy(update={"trigger": "x y z"}), LONG)
    kept = ", ".join(["x y z", " ".join(LONG.split()[:70]), "Line Art"])
    assert (found.texts, found.tokens, found.truncated) == ((kept,), (77,), (True,))
    with pytest.raises(DataError) as caught:
        record(BLIP.model_copy(update={"trigger": LONG}), "a cat")
    assert caught.value.cause == "trigger and style_hints are 94 tokens; the text encoder reads 77."
    assert caught.value.remedy == "Shorten trigger and style_hints."


def test_a_caption_is_bare_without_trigger_and_hints() -> None:
    part = BLIP.model_copy(update={"trigger": "xyz"})
    assert bare(part, "arafed A Rose") == "a rose"
    assert bare(part, LONG) == LONG  # of any length
    assert bare(EXISTING, "A Rose") == "A Rose"
    assert bare(CONSTANT, None) == "A  Tattoo, a Tattoo"
    assert bare(part, None) == ""


def test_an_existing_caption_is_kept_as_it_is_unless_cleaning_is_asked_for() -> None:
    expected = CaptionRecord("7f", ("arafed A Rose",), ("arafed A Rose",), (5,), (False,))
    assert record(EXISTING, "generated", "arafed A Rose") == expected
    asked = ExistingCaptions.model_validate(
        {"strategy": "existing", "cleaning": {"artefact_words": True}, "style_hints": "Line Art"}
    )
    assert record(asked, None, "arafed A Rose, A Rose :3").texts == ("A Rose, A Rose :3, Line Art",)


def test_an_image_without_a_caption_gets_the_missing_one_or_is_an_error() -> None:
    with_missing = EXISTING.model_copy(update={"missing": "a Thing"})
    assert record(with_missing).texts == ("a Thing",)
    assert record(with_missing).raw == ("a Thing",)
    assert record(with_missing, None, "a rose").raw == ("a rose",)
    with pytest.raises(DataError) as caught:
        record(EXISTING)
    assert caught.value.cause == "The image a.png has no caption of its own."
    assert caught.value.remedy == NO_CAPTION_REMEDY
    assert lacks_missing([with_missing, mix(CONSTANT, EXISTING)])
    assert not lacks_missing([with_missing, BLIP])


def lines(choice: str, **settings: Any) -> ExistingCaptions:
    return EXISTING.model_copy(update={"lines": choice, **settings})


def test_of_several_lines_the_first_is_taken_or_all_are_joined() -> None:
    own = (":d, cup", "a moth", "a rose")
    assert ExistingCaptions(strategy="existing").lines == "first"
    assert record(EXISTING, None, *own) == CaptionRecord("7f", own[:1], own[:1], (4,), (False,), (), 2)
    joined = ":d, cup a moth a rose"
    assert record(lines("join"), None, *own) == CaptionRecord("7f", (joined,), (joined,), (8,), (False,))


def test_of_lines_to_choose_among_every_one_is_a_text() -> None:
    own = ("a moth", "Rose", LONG)
    hinted = lines("random", style_hints="ink")
    found = record(mix(CONSTANT, hinted, BLIP), "A Moon", *own)
    kept = " ".join(f"w{at}" for at in range(74))
    assert found.texts == ("A  Tattoo, a Tattoo", "a moth, ink", "Rose, ink", f"{kept}, ink", "a moon, Line Art")
    assert found.raw == (None, *own, "A Moon")
    assert found.truncated == (False, False, False, True, False)
    assert (found.lines, found.unused) == ((1, 3, 1), 0)
    assert found.places == (range(1), range(1, 4), range(4, 5))
    weighted = MixCaptions(
        strategy="mix", parts=(MixPart(weight=3, captions=CONSTANT), MixPart(captions=lines("random")))
    )
    assert text_weights(weighted, record(weighted, None, "a", "b")) == (0.75, 0.125, 0.125)
    assert text_weights(weighted, record(weighted, None, "a")) == (0.75, 0.25)
    assert record(lines("random"), None, "a").lines == ()


def test_no_more_lines_than_can_be_learnt_are_chosen_among() -> None:
    found = record(lines("random"), None, *map(str, range(70)))
    assert (len(found.texts), found.lines, found.unused) == (64, (64,), 6)


def test_a_comma_at_the_end_of_a_caption_is_not_said_twice() -> None:
    assert record(EXISTING, None, "1girl, solo,").texts == ("1girl, solo,",)
    hinted = EXISTING.model_copy(update={"style_hints": "ink", "trigger": "xyz"})
    assert record(hinted, None, ",1girl, solo, ").texts == ("xyz, 1girl, solo, ink",)


def test_lines_of_other_parts_than_there_are_are_refused() -> None:
    for wrong in ((1,), (3,), (2, 0), (3, -1)):
        with pytest.raises(ValueError, match="of no part"):
            CaptionRecord("7f", ("a", "b"), (None, None), (3, 3), (False, False), lines=wrong)


def test_a_mix_has_a_text_of_each_part() -> None:
    found = record(mix(CONSTANT, EXISTING, BLIP), "A Moon", LONG)
    kept = " ".join(f"w{at}" for at in range(75))
    assert found == CaptionRecord(
        id="7f",
        texts=("A  Tattoo, a Tattoo", kept, "a moon, Line Art"),
        raw=(None, LONG, "A Moon"),
        tokens=(6, 77, 6),
        truncated=(False, True, False),
    )


def test_what_cleaning_or_fitting_cut_is_truncated() -> None:
    assert record(BLIP, LONG).truncated == (True,)
    # more characters than are read, of which cleaning leaves one word
    assert record(BLIP, "cat, " * 500).truncated == (True,)
    assert record(BLIP, "cat, " * 500).texts == ("cat, Line Art",)
    assert record(BLIP, "cat").truncated == (False,)
    constant = ConstantCaptions(strategy="constant", text=LONG)
    assert record(constant).truncated == (True,)
    assert record(constant).tokens == (77,)


def test_hints_that_leave_no_room_are_an_error_of_the_manifest() -> None:
    with pytest.raises(DataError) as caught:
        record(BLIP.model_copy(update={"style_hints": LONG}), "a cat")
    assert caught.value.cause == "style_hints are 92 tokens; the text encoder reads 77."
    assert caught.value.remedy == "Shorten style_hints."


def test_a_captioner_must_have_been_asked() -> None:
    with pytest.raises(AssertionError, match=r"^every image is captioned where a strategy needs it$"):
        record(BLIP)


def test_a_study_needs_what_any_part_of_its_strategies_needs() -> None:
    joy = BlipCaptions(strategy="captioner", captioner="joy")
    assert captioners_of([CONSTANT, BLIP, joy, BLIP]) == (CAPTIONER, "joy")
    assert captioners_of([mix(CONSTANT, joy, BLIP)]) == ("joy", CAPTIONER)
    assert captioners_of([CONSTANT, EXISTING, mix(CONSTANT, EXISTING)]) == ()
    assert needs_sidecars([CONSTANT, EXISTING])
    assert needs_sidecars([mix(CONSTANT, EXISTING)])
    assert not needs_sidecars([CONSTANT, BLIP, mix(CONSTANT, BLIP)])
