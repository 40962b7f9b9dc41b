"""Whose captions adapters are scored under, and captions that are given to other images."""

from collections import Counter
from collections.abc import Mapping, Sequence
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_engine.config.captions import BlipCaptions, CaptionsConfig, ConstantCaptions, MixCaptions, MixPart
from lora_engine.dataset.randomness import validation_caption_uniform
from lora_engine.evaluation.components import (
    NO_PROMPT,
    Components,
    Condition,
    changed,
    components_of,
    earlier_components_of,
    shuffle,
)
from lora_engine.records import CaptionRecord

IDS = tuple(f"{at:064x}" for at in (11 << 240, 7 << 240, 5 << 240, 13 << 240))
BLIP = ("a cup", "a key", "a cup", "a bird")
EMPTY = ("",) * 4


def records(*parts: Sequence[str], ids: Sequence[str] = IDS) -> list[CaptionRecord]:
    """The captions of a set whose parts have these texts."""
    count = len(parts)
    rows = zip(ids, zip(*parts, strict=True), strict=True)
    return [CaptionRecord(image, texts, (None,) * count, (3,) * count, (False,) * count) for image, texts in rows]


def blip(dropout: float = 0) -> BlipCaptions:
    return BlipCaptions(strategy="blip", caption_dropout=dropout)


def constant(text: str, dropout: float = 0) -> ConstantCaptions:
    return ConstantCaptions(strategy="constant", text=text, caption_dropout=dropout)


def mix(*weights: float, dropout: float = 0) -> MixCaptions:
    parts = tuple(MixPart(weight=weight, captions=blip()) for weight in weights)
    return MixCaptions(strategy="mix", parts=parts, caption_dropout=dropout)


def study(**variants: tuple[CaptionsConfig, Sequence[Sequence[str]]]) -> Components:
    """The components of variants that have a caption set of their own name each."""
    captions = {name: records(*parts) for name, (_, parts) in variants.items()}
    configs = {name: config for name, (config, _) in variants.items()}
    return components_of(captions, {name: name for name in variants}, configs, IDS)


def test_a_plain_strategy_is_one_component_of_its_sets_name() -> None:
    found = components_of({"captions": records(BLIP)}, {"x": "captions"}, {"x": blip()}, IDS)
    assert found.own == {"x": {"captions": 1}}
    assert found.shuffled == {"captions": "captions shuffled"}
    assert found.texts == {"captions": BLIP, "captions shuffled": shuffle(BLIP, IDS), NO_PROMPT: EMPTY}


def test_texts_are_in_the_order_of_the_images_whatever_that_of_the_captions() -> None:
    captions = {"x": [*records(("unused",), ids=["f" * 64]), *reversed(records(BLIP))]}
    assert components_of(captions, {"x": "x"}, {"x": blip()}, IDS).texts["x"] == BLIP


def test_an_image_without_a_caption_or_a_part_is_an_error() -> None:
    with pytest.raises(KeyError):
        components_of({"x": records(BLIP)[1:]}, {"x": "x"}, {"x": blip()}, IDS)
    with pytest.raises(IndexError):
        components_of({"x": records(BLIP)}, {"x": "x"}, {"x": mix(1, 1)}, IDS)


def test_a_constant_is_a_component_that_cannot_be_shuffled() -> None:
    found = study(x=(constant("a drawing"), [("a drawing",) * 4]))
    assert (found.own, found.shuffled) == ({"x": {"x": 1}}, {})
    assert found.texts == {"x": ("a drawing",) * 4, NO_PROMPT: EMPTY}


def test_captions_that_are_dropped_are_the_empty_prompt_by_their_share() -> None:
    assert study(x=(blip(0.25), [BLIP])).own == {"x": {"x": 0.75, NO_PROMPT: 0.25}}


def test_a_strategy_that_says_nothing_is_the_empty_prompt() -> None:
    found = study(x=(constant("", 0.25), [EMPTY]), y=(constant(""), [EMPTY]))
    assert found.own == {"x": {NO_PROMPT: 1}, "y": {NO_PROMPT: 1}}
    assert found.texts == {NO_PROMPT: EMPTY}


def test_a_mix_is_a_component_a_part_by_its_weight() -> None:
    found = study(x=(mix(1, 3, dropout=0.2), [BLIP, ("word",) * 4]))
    assert list(found.own["x"]) == ["x part 1", "x part 2", NO_PROMPT]
    assert found.own["x"] == pytest.approx({"x part 1": 0.2, "x part 2": 0.6, NO_PROMPT: 0.2})
    assert (found.texts["x part 1"], found.texts["x part 2"]) == (BLIP, ("word",) * 4)
    assert found.shuffled == {"x part 1": "x part 1 shuffled"}


def test_parts_with_equal_texts_are_one_component() -> None:
    found = study(x=(mix(1, 2, 1, dropout=0.5), [BLIP, EMPTY, BLIP]))
    assert found.own["x"] == pytest.approx({"x part 1": 0.25, NO_PROMPT: 0.75})
    assert set(found.texts) == {"x part 1", "x part 1 shuffled", NO_PROMPT}


def test_captions_that_are_equal_under_two_names_are_one_component_named_after_the_first() -> None:
    found = study(x=(blip(), [BLIP]), y=(blip(), [BLIP]), z=(mix(1, 1), [("word",) * 4, BLIP]))
    assert found.own == {"x": {"x": 1}, "y": {"x": 1}, "z": {"z part 1": 0.5, "x": 0.5}}
    assert set(found.texts) == {"x", "x shuffled", "z part 1", NO_PROMPT}


def test_variants_may_share_a_set() -> None:
    configs = {"x": blip(), "y": blip(0.1)}
    found = components_of({"captions": records(BLIP)}, dict.fromkeys(configs, "captions"), configs, IDS)
    assert found.own == {"x": {"captions": 1}, "y": {"captions": 0.9, NO_PROMPT: 0.1}}


def test_shuffled_captions_that_are_another_strategys_are_that_component() -> None:
    other = shuffle(BLIP, IDS)
    found = study(x=(blip(), [BLIP]), y=(blip(), [other]))
    assert found.shuffled["x"] == "y"
    assert found.texts["y"] == other
    assert len(set(found.texts.values())) == len(found.texts)


WEIGHTS = st.lists(st.floats(0.01, 100), min_size=2, max_size=5)
TEXTS = st.lists(st.sampled_from(["", "a", "b"]), min_size=4, max_size=4)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(WEIGHTS, st.floats(0, 0.99), st.lists(TEXTS, min_size=5, max_size=5)), min_size=1, max_size=3)
)
def test_the_shares_of_a_strategy_sum_to_1_and_every_component_has_texts_of_its_own(
    mixes: list[tuple[list[float], float, list[list[str]]]],
) -> None:
    variants = {f"v{at}": (mix(*w, dropout=d), parts[: len(w)]) for at, (w, d, parts) in enumerate(mixes)}
    found = study(**variants)
    assert all(sum(weights.values()) == pytest.approx(1) for weights in found.own.values())
    assert all(weights.keys() <= found.texts.keys() for weights in found.own.values())
    assert len(set(found.texts.values())) == len(found.texts)
    assert found.shuffled.keys() <= found.texts.keys()
    assert set(found.shuffled.values()) <= found.texts.keys()
    for name, texts in found.texts.items():
        assert (name in found.shuffled) == (len(set(texts)) > 1 and not name.endswith(" shuffled"))


THREE = study(
    x=(mix(1, 1, dropout=0.5), [BLIP, ("word",) * 4]),
    y=(constant("a drawing"), [("a drawing",) * 4]),
    z=(blip(), [BLIP]),
)


def names(conditions: Sequence[Condition], *, whole: bool) -> list[str]:
    assert len({each.component for each in conditions}) == len(conditions), "none is scored twice"
    assert {each.component for each in conditions} <= THREE.texts.keys()
    return [each.component for each in conditions if each.whole == whole]


def test_on_its_way_an_adapter_is_scored_as_it_is_trained() -> None:
    assert names(THREE.on_curve("x"), whole=False) == ["x part 1", "x part 2", NO_PROMPT]
    assert names(THREE.on_curve("x"), whole=True) == []
    assert THREE.on_curve("z") == (Condition("x part 1", whole=False),)
    assert THREE.summed("x") == THREE.own["x"]


def test_the_base_is_scored_under_all_there_is() -> None:
    found = THREE.of_base()
    assert names(found, whole=True) == ["x part 1", "x part 2", NO_PROMPT, "y"]
    assert names(found, whole=False) == ["x part 1 shuffled"]
    undropped = study(x=(blip(), [BLIP]), y=(blip(), [tuple("abcd")]))
    assert undropped.of_base() == (
        Condition("x", whole=True),
        Condition("y", whole=True),
        Condition(NO_PROMPT, whole=False),
        Condition("x shuffled", whole=False),
        Condition("y shuffled", whole=False),
    )


def test_at_the_end_an_adapter_is_scored_as_it_was_trained_and_as_those_that_it_is_compared_with() -> None:
    of_x = THREE.at_end("x", ["y", "z"], "x part 1")
    assert names(of_x, whole=True) == ["x part 1", "x part 2", NO_PROMPT]
    assert names(of_x, whole=False) == ["y", "x part 1 shuffled"]
    of_y = THREE.at_end("y", ["x", "z"], "x part 1")
    assert names(of_y, whole=True) == ["y"]
    assert names(of_y, whole=False) == ["x part 1", "x part 2", NO_PROMPT, "x part 1 shuffled"]
    of_z = THREE.at_end("z", ["y"], None)
    assert names(of_z, whole=True) == ["x part 1"]
    assert names(of_z, whole=False) == ["y", NO_PROMPT]
    assert names(THREE.at_end("y", [], "x part 1"), whole=False) == [NO_PROMPT, "x part 1", "x part 1 shuffled"]


def test_whatever_an_adapter_is_scored_under_the_base_is_scored_under_too() -> None:
    base = {each.component for each in THREE.of_base()}
    whole = set(names(THREE.of_base(), whole=True))
    for variant in "xyz":
        for conditions in (THREE.on_curve(variant), THREE.at_end(variant, "xyz", "x part 1")):
            assert {each.component for each in conditions} <= base
            assert {each.component for each in conditions if each.whole} <= whole


def test_earlier_versions_scored_one_text_of_a_mix_by_the_images_own_draw() -> None:
    weights = (0.5, 0.2, 0.3)
    parts = [tuple(f"{part} of {at}" for at in range(4)) for part in range(3)]
    captions = {"x": records(*parts), "y": records(BLIP)}
    configs: Mapping[str, CaptionsConfig] = {"x": mix(*(10 * w for w in weights), dropout=0.25), "y": blip()}
    found = earlier_components_of(captions, {"x": "x", "y": "y"}, configs, IDS)
    draws = [validation_caption_uniform(image) for image in IDS]
    chosen = [0 if draw < 0.5 else 1 if draw < 0.7 else 2 for draw in draws]
    assert found.texts == {
        "x": tuple(parts[part][at] for at, part in enumerate(chosen)),
        "y": BLIP,
        NO_PROMPT: EMPTY,
    }
    assert len(set(chosen)) > 1
    assert (found.own, found.shuffled) == ({"x": {"x": 0.75, NO_PROMPT: 0.25}, "y": {"y": 1}}, {})


def test_earlier_versions_scored_all_under_all_sets() -> None:
    captions = {"x": records(BLIP), "y": records(BLIP)}
    found = earlier_components_of(captions, {"x": "x", "y": "y"}, {"x": blip(0.5), "y": blip()}, IDS)
    everywhere = (Condition("x", whole=True), Condition("y", whole=True))
    for variant in "xy":
        assert found.summed(variant) == {"x": 0.5, "y": 0.5}
        assert found.on_curve(variant) == everywhere
        assert found.at_end(variant, ["x", "y"], "x") == (*everywhere, Condition(NO_PROMPT, whole=True))
    assert found.of_base() == (*everywhere, Condition(NO_PROMPT, whole=True))


def test_shuffling_moves_the_sorted_captions_on_by_as_many_as_the_commonest_has() -> None:
    ids = ("5", "4", "3", "2", "1")
    # sorted by text and image: cup of 3, cup of 5, key of 1, key of 2, pan of 4
    assert shuffle(("cup", "pan", "cup", "key", "key"), ids) == ("key", "cup", "key", "cup", "pan")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=14), st.randoms(use_true_random=False))
def test_no_image_keeps_its_caption_where_that_can_be(texts: list[str], dice: Random) -> None:
    ids = [f"{at}" for at in range(len(texts))]
    found = shuffle(texts, ids)
    assert Counter(found) == Counter(texts)
    commonest = max(Counter(texts).values())
    kept = max(0, 2 * commonest - len(texts))  # by the images that show the commonest, for lack of other captions
    assert (~changed(texts, found)).sum() == kept

    order = list(range(len(texts)))
    dice.shuffle(order)
    again = shuffle([texts[at] for at in order], [ids[at] for at in order])
    assert again == tuple(found[at] for at in order), "the order of the images decides nothing"


def test_changed_says_which_texts_are_others() -> None:
    found = changed(("a", "b", "c"), ("a", "c", "c"))
    assert found.tolist() == [False, True, False]
    assert found.dtype == np.bool_
    with pytest.raises(ValueError, match="shorter"):
        changed(("a", "b"), ("a",))


def test_of_several_lines_an_image_is_scored_under_one_that_chance_chose_once() -> None:
    """The second part of the mix has as many lines an image as the image's place; a line is chosen by its uniform."""
    rows = []
    for at, image in enumerate(IDS, 1):
        texts = ("a cup", *(f"{at}, line {line}" for line in range(at)))
        rows.append(
            CaptionRecord(image, texts, (None,) * (at + 1), (3,) * (at + 1), (False,) * (at + 1), lines=(1, at))
        )
    found = components_of({"own": rows}, {"x": "own"}, {"x": mix(1, 3)}, IDS)
    uniform = [validation_caption_uniform(image) for image in IDS]
    assert found.texts["own part 1"] == ("a cup",) * 4
    chosen = tuple(f"{at}, line {int(draw * at)}" for at, draw in enumerate(uniform, 1))
    assert found.texts["own part 2"] == chosen
    assert found.own == {"x": {"own part 1": 0.25, "own part 2": 0.75}}
    assert len({text.split()[-1] for text in chosen}) > 1
