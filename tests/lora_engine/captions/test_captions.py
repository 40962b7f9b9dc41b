from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoTokenizer, GitConfig, GitForCausalLM, GitProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from lora_engine.captions.lint import lint
from lora_engine.captions.rules import TOKEN_LIMIT, clean
from lora_engine.captions.strategies import caption_record
from lora_engine.config.captions import (
    CAPTIONER,
    BlipCaptions,
    CleaningConfig,
    ConstantCaptions,
    ExistingCaptions,
    MixCaptions,
    MixPart,
    OwnCleaningConfig,
)
from lora_engine.config.models import CaptionerConfig
from lora_engine.errors import DataError, ModelError
from lora_engine.images.squares import write_square
from lora_engine.models.captioner import captioner_key, captioner_precision, load_captioner
from lora_engine.models.files import LocalModel
from tests.lora_engine.captions.test_rules import fit

ALL = CleaningConfig(stop_words=False)
CPU = torch.device("cpu")

TOKENS = "a cat Cat , with the word x on it arafed of".split()
LONG = " ".join(f"word{i}" for i in range(90))


def words(text: str) -> int:
    return len(text.replace(",", " ").split()) + 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("arafed image of a snake", "image of a snake"),
        ("there is a araffe dagger on a table", "there is a dagger on a table"),
        ("A Black  Rose", "a black rose"),
        ("a bald bald bald eagle", "a bald eagle"),
        ("a rose and a rose and a rose and a skull", "a rose and a skull"),
        ('a skull with the words "memento mori" on it', "a skull"),
        ("a heart with the word mom on it", "a heart"),
        ("a banner that says 'love'", "a banner"),
        ("a moth, a moon, a moth", "a moth, a moon"),
        ("a  star ,, a moon,", "a star, a moon"),
        ("a\tsnake\nand\u200b a dagger", "a snake and a dagger"),
        ("", ""),
        (" , ", ""),
        ("cafe\u0301", "caf\u00e9"),
        ("a moth with wings", "a moth with wings"),
        ("a sword with a handle", "a sword with a handle"),
        ("long hair, hair ornament", "long hair, hair ornament"),
        ("red, red, red rose", "red, red rose"),
        ("a cat cat-like creature", "a cat cat-like creature"),
        ("a poster with a quote that reads live laugh love, a cat", "a poster, a cat"),
        ("a poster with a quote that reads, 'don't panic', on a wall", "a poster, on a wall"),
        ("a mug that says 'best mom'", "a mug"),
        ("a heart with a banner that says mom on it", "a heart with a banner"),
        ('a heart with the words "love" and "hate" on it', "a heart"),
        ("a skull with the words rest in peace on it", "a skull"),
        ("a skull with the word death written on its forehead and a rose", "a skull and a rose"),
        ("a card with the words i love you", "a card"),
        ("a card with the words love in black ink", "a card in black ink"),
        ("a tattoo of the word 'mom' on an arm", "a tattoo on an arm"),
        ("a cup with the name john on it", "a cup"),
    ],
)
def test_cleaning(text: str, expected: str) -> None:
    assert clean(text, ALL).text == expected


@pytest.mark.parametrize(
    "text",
    [
        "a woman reading a book",
        "a girl who reads books",
        "a man is writing a letter",
        "a text message on a phone",
        "a name tag on a shirt",
        "a drawing of a letter opener",
        "a woman with a name tag on her shirt",
        "a man with a letter reading a book",
        "a man with words written on his back",
        "a box with writing on it",
        "a sign with letters in red",
        "a block with the letter a",
        "a book with the words of a poet",
        "a sign that says stop",
        "a dog's bowl and two cats' beds",
    ],
)
def test_reading_writing_and_letters_may_be_described(text: str) -> None:
    assert clean(text, ALL).text == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tat\u00adtoo", "tattoo"),
        ("\ufeffa\u200bb\u2060c \u200ed", "abc d"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"),
        ("\u0915\u094d\u200d\u0937", "\u0915\u094d\u200d\u0937"),
        ("\U0001f469\u200d\U0001f680", "\U0001f469\u200d\U0001f680"),
        ("e\u00ad\u0301", "\u00e9"),
        ("\u200d, \u200c", ""),
    ],
)
def test_invisible_characters_part_no_word(text: str, expected: str) -> None:
    off = dict.fromkeys(CleaningConfig.model_fields, False)
    assert clean(text, CleaningConfig(**off | {"artefact_words": True})).text == expected


@pytest.mark.parametrize("rule", ["lowercase", "artefact_words", "invented_writing", "repeated_words", "duplicates"])
def test_every_rule_can_be_switched_off(rule: str) -> None:
    text = 'Arafed cat cat with the words "x" on it, A Moon, star, a moon'
    assert clean(text, ALL.model_copy(update={rule: False})).text != clean(text, ALL).text


@pytest.mark.parametrize("stop_words", [False, True])
def test_tags_are_told_apart_and_numbers_are_not(stop_words: bool) -> None:
    config = CleaningConfig(stop_words=stop_words)
    assert clean("1,000 birds,moon,7, moon,8,9", config).text == "1,000 birds, moon, 7, 8,9"


def test_stop_words_are_a_rule_of_their_own() -> None:
    assert clean("a snake and the dagger, of a moon", CleaningConfig(stop_words=True)).text == "snake dagger, moon"


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.lists(st.sampled_from(TOKENS)).map(" ".join))
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    config = CleaningConfig(stop_words=True)
    once = clean(text, config).text
    assert clean(once, config).text == once


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 120), st.integers(0, 60), st.sampled_from(["first", "last"]))
def test_hints_are_never_cut(caption: int, hints: int, position: str) -> None:
    hint = " ".join(f"h{i}" for i in range(hints))
    found = fit(" ".join(f"w{i}" for i in range(caption)), hint, position, words)  # type: ignore[arg-type]
    assert hint in found.text
    assert found.tokens == words(found.text) <= TOKEN_LIMIT
    assert found.truncated == (caption + hints + 2 > TOKEN_LIMIT)
    if caption and hints and found.text != hint:
        assert found.text.startswith("h") == (position == "first")


@pytest.mark.parametrize("hints", ["", "ink", "h" * 70])
def test_a_text_without_spaces_is_cut_between_characters(hints: str) -> None:
    def pieces(text: str) -> int:
        return len(text) + 2

    whole = "\u9f99" * 90
    found = fit(whole, hints, "last", pieces)
    assert (found.tokens, found.truncated) == (TOKEN_LIMIT, True)
    assert found.text == ", ".join(part for part in ("\u9f99" * (75 - len(hints) - 2 * bool(hints)), hints) if part)
    assert fit(f"a rose {whole}", "", "last", pieces).text == "a rose " + "\u9f99" * 68
    assert fit("rose " * 20, "", "last", pieces).text == " ".join(["rose"] * 15)
    assert fit("\u0915\u093f" * 50, "", "last", pieces).text == "\u0915\u093f" * 37


def record(config, *, generated: str | None = None, existing: str | None = None):
    own = () if existing is None else (existing,)
    by_name = {} if generated is None else {CAPTIONER: generated}
    return caption_record("id", "a.png", config, generated=by_name, existing=own, count_tokens=words)


def test_strategies() -> None:
    constant = ConstantCaptions(strategy="constant", text="A Tattoo")
    assert record(constant).texts == ("A Tattoo",)
    blip = BlipCaptions(strategy="blip", style_hints="clean line, stencil")
    assert record(blip, generated="arafed Rose").texts == ("rose, clean line, stencil",)
    assert record(blip, generated="").texts == ("clean line, stencil",)
    existing = ExistingCaptions(strategy="existing")
    assert record(existing, existing="A Rose").texts == ("A Rose",)
    with pytest.raises(DataError, match=r"a\.png has no caption"):
        record(existing)
    assert record(existing.model_copy(update={"missing": "x"})).texts == ("x",)
    mix = MixCaptions(strategy="mix", parts=(MixPart(captions=constant), MixPart(captions=blip)))
    assert record(mix, generated="moon").texts == ("A Tattoo", "moon, clean line, stencil")
    with pytest.raises(DataError, match="style_hints"):
        record(blip.model_copy(update={"style_hints": "h " * 90}), generated="x")


@pytest.mark.parametrize(("count", "truncated"), [(300, False), (500, True)])
def test_what_is_not_read_of_a_long_text_is_cut(count: int, truncated: bool) -> None:
    config = ExistingCaptions(strategy="existing", cleaning=OwnCleaningConfig(duplicates=True))
    found = record(config, existing="cat, " * count + "dog")
    assert (found.texts, found.truncated) == (("cat" if truncated else "cat, dog",), (truncated,))
    assert record(config, existing="cat" + ", " * 2000).truncated == (False,)


def test_lint_counts_and_warns() -> None:
    same = lint([record(ConstantCaptions(strategy="constant", text="a tattoo"))] * 20)
    assert (same.unique_ratio, same.images, same.tokens_max) == (1 / 20, 20, 4)
    assert any("every caption" in warning for warning in same.warnings)
    config = BlipCaptions(strategy="blip", style_hints="stencil")
    varied = lint([record(config, generated=LONG if i == 0 else f"thing{i}") for i in range(12)])
    assert varied.truncated == 1
    assert not any("stencil" in warning for warning in varied.warnings)  # which is meant to stand in all of them


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("pictures")
    result = []
    for at in range(7):
        path = folder / f"{at}.ppm"
        write_square(Image.effect_noise((64, 64), 20 + 30 * at).convert("RGB"), path)
        result.append((f"{at}", path))
    return result


@pytest.mark.parametrize("beams", [1, 3])
def test_captions_do_not_depend_on_order_or_company(
    miniature: Path, pictures: list[tuple[str, Path]], beams: int
) -> None:
    config = CaptionerConfig(source="x", batch_size=4, max_new_tokens=6, beams=beams)
    captioner = load_captioner(LocalModel(miniature / "blip"), config, CPU)
    found = dict(captioner.caption(pictures))
    assert list(found) == [name for name, _ in pictures]
    assert dict(captioner.caption(reversed(pictures))) == found
    assert (
        dict(load_captioner(LocalModel(miniature / "blip"), config, CPU).caption(pictures[:2])).items() <= found.items()
    )
    assert any(found.values())


def test_a_pickled_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"pickles.*pytorch_model\.bin"):
        load_captioner(LocalModel(tmp_path), CaptionerConfig(source="x"), CPU)


def test_another_kind_of_model_is_a_change_of_source(
    miniature: Path, tmp_path: Path, pictures: list[tuple[str, Path]]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(miniature / "blip")
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GitConfig(vision_config=size | {"image_size": 32, "patch_size": 16}, vocab_size=len(tokenizer), **size)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 2, 3, 0
    GitForCausalLM(config).save_pretrained(tmp_path)
    images = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    GitProcessor(images, tokenizer).save_pretrained(tmp_path)
    captioner = load_captioner(LocalModel(tmp_path), CaptionerConfig(source="x", max_new_tokens=4), CPU)
    assert len(list(captioner.caption(pictures))) == len(pictures)


def test_the_cache_key_knows_all_that_changes_a_caption() -> None:
    config = CaptionerConfig(source="x")
    keys = {
        captioner_key(model, config.model_copy(update=update), precision, preprocess)
        for model, update, precision, preprocess in [
            ("m", {}, "fp32", "p"),
            ("n", {}, "fp32", "p"),
            ("m", {"beams": 2}, "fp32", "p"),
            ("m", {"prompt": "a"}, "fp32", "p"),
            ("m", {}, "bf16", "p"),
            ("m", {}, "fp32", "q"),
        ]
    }
    assert len(keys) == 6
    same = config.model_copy(update={"source": "y", "precision": "fp32"})
    assert captioner_key("m", same, captioner_precision(same, CPU), "p") in keys
