"""How a prompt becomes a text like those that an adapter was trained on, and which captions become prompts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from pydantic import TypeAdapter

from lora_engine import miniature
from lora_engine.captions.prompts import HELD_OUT_PROMPTS, as_trained, held_out_prompts, template_as_trained
from lora_engine.captions.rules import TOKEN_LIMIT, Fitted
from lora_engine.captions.strategies import caption_record
from lora_engine.config.captions import CAPTIONER, CaptionsConfig
from lora_engine.models import stable_diffusion
from lora_engine.models.files import LocalModel
from lora_engine.records import CaptionRecord

_CAPTIONS: TypeAdapter[CaptionsConfig] = TypeAdapter(CaptionsConfig)
LONG = " ".join(f"word{at}" for at in range(90))


def captions(**settings: Any) -> CaptionsConfig:
    return _CAPTIONS.validate_python(settings)


def constant(text: str, **more: Any) -> CaptionsConfig:
    return captions(strategy="constant", text=text, **more)


def blip(**more: Any) -> CaptionsConfig:
    return captions(strategy="blip", **more)


def mix(*weighted: tuple[float, CaptionsConfig], **more: Any) -> CaptionsConfig:
    return captions(strategy="mix", parts=tuple({"weight": w, "captions": part} for w, part in weighted), **more)


def words(text: str) -> int:
    """A token a word, and start and end."""
    return len(text.replace(",", " ").split()) + 2


@pytest.fixture(scope="module")
def tokens() -> Callable[[str], int]:
    """Counts as the miniature's text encoder does."""
    tokenizer = stable_diffusion.load_tokenizer(LocalModel(miniature.folder("stable-diffusion")))
    return lambda text: len(tokenizer(text).input_ids)


def text(config: CaptionsConfig, template: str | None = None, prompt: str = "a moth") -> str:
    return as_trained(prompt, config, template, words).text


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (constant("a tattoo"), "a tattoo, a moth"),
        (constant("a tattoo", trigger="xyz"), "xyz, a tattoo, a moth"),
        (constant("", trigger="xyz"), "xyz, a moth"),
        (constant(""), "a moth"),
        (blip(), "a moth"),
        (blip(trigger="xyz"), "xyz, a moth"),
        (blip(style_hints="line art, stencil"), "a moth, line art, stencil"),
        (blip(style_hints="line art", hints_position="first"), "line art, a moth"),
        (blip(style_hints="line art", trigger="xyz"), "xyz, a moth, line art"),
        (blip(style_hints="line art", hints_position="first", trigger="xyz"), "xyz, line art, a moth"),
        (captions(strategy="existing"), "a moth"),
        (captions(strategy="existing", style_hints="ink", trigger="xyz", missing="no"), "xyz, a moth, ink"),
    ],
)
def test_by_default_a_prompt_stands_where_captions_stood(config: CaptionsConfig, expected: str) -> None:
    assert text(config) == expected
    assert template_as_trained(config, None) == expected.replace("a moth", "{prompt}")


@pytest.mark.parametrize("config", [blip(style_hints="ink"), blip(style_hints="ink", trigger="xyz"), blip()])
def test_a_caption_as_a_prompt_gives_the_text_that_was_trained_on(config: CaptionsConfig) -> None:
    trained = caption_record("7f", "a.png", config, generated={CAPTIONER: "a moth"}, existing=None, count_tokens=words)
    assert text(config) == trained.texts[0]


def test_a_constant_text_is_not_said_twice() -> None:
    assert text(constant("a tattoo"), prompt="a tattoo") == "a tattoo"
    assert text(constant("a tattoo", trigger="xyz"), prompt="a tattoo") == "xyz, a tattoo"


def test_the_empty_prompt_leaves_what_stood_around_it() -> None:
    for config, expected in (
        (constant("a tattoo"), "a tattoo"),
        (blip(style_hints="ink", trigger="xyz"), "xyz, ink"),
        (blip(), ""),
    ):
        assert text(config, prompt="") == expected


def test_of_a_mix_it_is_the_part_with_the_greatest_weight() -> None:
    ink, tattoo = blip(style_hints="ink"), constant("a tattoo")
    assert text(mix((1, tattoo), (2, ink))) == "a moth, ink"
    assert text(mix((2.5, tattoo), (2, ink))) == "a tattoo, a moth"
    assert text(mix((1, ink), (1, tattoo))) == "a moth, ink"  # the first of equals
    assert text(mix((1, tattoo), (2, ink), trigger="xyz")) == "xyz, a moth, ink"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{prompt}", "a moth"),
        ("{prompt}, clean line tattoo", "a moth, clean line tattoo"),
        ("{trigger}: {prompt} in {trigger} style", "xyz: a moth in xyz style"),
        ("tattoo of {prompt}!", "tattoo of a moth!"),
    ],
)
@pytest.mark.parametrize(
    "config",
    [
        constant("a tattoo", trigger="xyz"),
        blip(style_hints="ink", trigger="xyz"),
        mix((1, constant("a")), (2, blip()), trigger="xyz"),
    ],
)
def test_a_template_says_all_that_stands_around_a_prompt(config: CaptionsConfig, template: str, expected: str) -> None:
    assert text(config, template) == expected
    assert template_as_trained(config, template) == expected.replace("a moth", "{prompt}")


def test_what_stands_in_a_prompt_or_trigger_is_no_placeholder() -> None:
    assert text(blip(trigger="{prompt}"), "{trigger}, {prompt}") == "{prompt}, a moth"
    assert text(blip(trigger="xyz"), "{prompt} {trigger}", prompt="{trigger} {prompt}") == "{trigger} {prompt} xyz"


@pytest.mark.parametrize(
    ("config", "template", "start", "end"),
    [
        (
            blip(trigger="xyz", style_hints="clean line tattoo, stencil"),
            None,
            "xyz, word0",
            ", clean line tattoo, stencil",
        ),
        (blip(style_hints="clean line", hints_position="first", trigger="xyz"), None, "xyz, clean line, word0", ""),
        (constant("a tattoo design", trigger="xyz"), None, "xyz, a tattoo design, word0", ""),
        (blip(trigger="xyz"), "{trigger} {prompt}, clean line tattoo!", "xyz word0", ", clean line tattoo!"),
    ],
)
def test_of_a_long_prompt_the_end_is_cut_and_nothing_else(
    tokens: Callable[[str], int], config: CaptionsConfig, template: str | None, start: str, end: str
) -> None:
    found = as_trained(LONG, config, template, tokens)
    assert found.truncated
    assert found.text.startswith(start)
    assert found.text.endswith(end)
    assert found.tokens == tokens(found.text) <= TOKEN_LIMIT
    kept = found.text.removeprefix(start.removesuffix("word0")).removesuffix(end)
    assert LONG.startswith(f"{kept} ")
    following = LONG.removeprefix(f"{kept} ").split()[0]
    assert tokens(found.text.replace(kept, f"{kept} {following}")) > TOKEN_LIMIT
    assert not as_trained("a moth", config, template, tokens).truncated


def test_what_leaves_a_prompt_no_room_is_refused(tokens: Callable[[str], int]) -> None:
    too_long = [
        (blip(trigger=LONG), None),
        (blip(style_hints=LONG), None),
        (blip(), f"{{prompt}}, {LONG}"),
        (blip(trigger=LONG), "{trigger}, {prompt}"),
    ]
    for config, template in too_long:
        with pytest.raises(ValueError, match=r"^\d+ tokens; the text encoder reads 77$"):
            as_trained("a moth", config, template, tokens)


def test_a_constant_text_that_was_cut_in_training_is_cut_alike(tokens: Callable[[str], int]) -> None:
    """Nothing of the prompt is left, as the adapter was trained on as many tokens as the text encoder reads."""
    config = constant(LONG, trigger="xyz")
    trained = caption_record("7f", "a.png", config, generated={}, existing=None, count_tokens=tokens)
    assert trained.truncated == (True,)
    assert as_trained("a moth", config, None, tokens).text == trained.texts[0]
    assert as_trained(LONG, config, None, tokens).text == trained.texts[0]


# Which captions become prompts.

IDS = [f"{number:02x}" for number in range(40)]


def records(
    config: CaptionsConfig, generated: Callable[[int], str], existing: Callable[[int], str] = "own {}".format
) -> list[CaptionRecord]:
    return [
        caption_record(
            image,
            f"{image}.png",
            config,
            generated={CAPTIONER: generated(at)},
            existing=(existing(at),),
            count_tokens=words,
        )
        for at, image in enumerate(IDS)
    ]


def chosen(
    configs: Mapping[str, CaptionsConfig],
    held_out: Sequence[str] = IDS[:10],
    seed: int = 0,
    generated: Callable[[int], str] = "thing {}".format,
) -> tuple[str, ...]:
    sets = {name: records(config, generated) for name, config in configs.items()}
    return held_out_prompts(sets, configs, held_out, seed)


def test_prompts_are_the_captioners_of_held_out_images_alone() -> None:
    configs = {"own": captions(strategy="existing"), "blip": blip(), "vanilla": constant("a tattoo")}
    assert sorted(chosen(configs)) == sorted(f"thing {number}" for number in range(10))
    assert sorted(chosen(configs, IDS[30:])) == sorted(f"thing {number}" for number in range(30, 40))


def test_they_are_bare_as_the_first_set_that_is_generated_has_them() -> None:
    first = blip(style_hints="ink", trigger="xyz", cleaning={"lowercase": False, "stop_words": True})
    configs = {"vanilla": constant("a tattoo"), "first": first, "second": blip(style_hints="stencil")}
    found = chosen(configs, generated="arafed The Thing {} on a table".format)
    assert sorted(found) == sorted(f"Thing {number} table" for number in range(10))


def test_equal_captions_are_one_prompt_and_empty_ones_none() -> None:
    configs = {"blip": blip()}
    assert sorted(chosen(configs, generated=lambda at: f"Thing {at % 3}")) == ["thing 0", "thing 1", "thing 2"]
    assert chosen(configs, generated=lambda at: "arafed" if at else "a moth") == ("a moth",)


def test_there_are_24_at_most_and_the_seed_chooses() -> None:
    configs = {"blip": blip()}
    found = {seed: chosen(configs, IDS, seed) for seed in range(5)}
    for prompts in found.values():
        assert len(prompts) == len(set(prompts)) == HELD_OUT_PROMPTS == 24
        assert set(prompts) <= {f"thing {number}" for number in range(40)}
    assert len({frozenset(prompts) for prompts in found.values()}) == 5
    assert chosen(configs, IDS[::-1], 3) == found[3]  # whatever the order of the images
    # a text keeps its place whatever other texts there are, so that an image more changes little
    assert [text for text in found[3] if text in chosen(configs, IDS[:30], 3)] == [
        text for text in chosen(configs, IDS[:30], 3) if text in found[3]
    ]


def test_a_part_of_a_mix_that_is_generated_counts() -> None:
    config = mix((3, constant("a tattoo")), (1, blip(style_hints="ink")), (1, captions(strategy="existing")))
    assert sorted(chosen({"mixed": config, "own": captions(strategy="existing")})) == sorted(
        f"thing {number}" for number in range(10)
    )


def test_without_a_captioner_they_are_those_that_came_with_the_images() -> None:
    own = captions(strategy="existing", style_hints="ink")
    other = captions(strategy="existing", cleaning={"stop_words": True})
    found = chosen({"vanilla": constant("a tattoo"), "own": own, "other": other})
    assert sorted(found) == sorted(f"own {number}" for number in range(10))


def test_without_any_captions_they_are_the_constant_texts() -> None:
    configs = {"one": constant("a tattoo"), "two": constant("a drawing", trigger="xyz"), "same": constant("a tattoo")}
    assert sorted(chosen(configs)) == ["a drawing", "a tattoo"]
    assert chosen({"one": constant("")}) == ("",)


def test_where_the_captioner_says_nothing_of_any_image_other_captions_are_taken() -> None:
    configs = {"blip": blip(), "own": captions(strategy="existing")}
    assert sorted(chosen(configs, generated=lambda _: "arafed")) == sorted(f"own {number}" for number in range(10))


def test_a_prompt_that_fits_is_left_as_it_is() -> None:
    expected = Fitted("a  moth ,ink", 5, truncated=False)
    assert as_trained("a  moth ", blip(), "{prompt},ink", words) == expected
