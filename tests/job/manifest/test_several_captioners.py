"""Manifests with more than one captioner: which names there are, and what is wrong with a name."""

import json

import pytest
import yaml

from job.manifest.packs import caption_sets, set_of_variant
from tests.code_blocks import code_blocks
from tests.job.manifest.test_manifest import SMALL, load, problems
from tests.lora_job import ROOT

BLIP = "captioner={source: models/blip}"
JOY = "captioners={joy: {source: models/joy, allow_pickle: true}, git: {source: models/git}}"
ASKING = "variants.two.captions={strategy: captioner, captioner: joy}"


def test_captioners_stand_beside_each_other() -> None:
    manifest = load(SMALL, BLIP, JOY, ASKING)
    assert list(manifest.named_captioners()) == ["captioner", "joy", "git"]
    assert [(model.key, model.source, model.allow_pickle) for model in manifest.models()][1:] == [
        ("captioner.source", "models/blip", False),
        ("captioners.joy.source", "models/joy", True),
        ("captioners.git.source", "models/git", False),
    ]
    assert load(SMALL, JOY, ASKING, "captioners.joy.prompt=what?").captioners["joy"].prompt == "what?"
    only = load(SMALL, "captioners={captioner: {source: models/blip}}", "variants.two.captions={strategy: blip}")
    assert [model.key for model in only.models()][1:] == ["captioners.captioner.source"]


def test_the_study_of_the_page_is_one() -> None:
    (block,) = code_blocks(ROOT / "docs" / "captioners.md")
    manifest = load(SMALL, *(f"{key}={json.dumps(value)}" for key, value in yaml.safe_load(block.text).items()))
    assert list(manifest.named_captioners()) == ["captioner", "qwen", "terse"]
    assert len(caption_sets(manifest)) == 5


def test_both_words_for_a_strategy_are_one_set_of_captions() -> None:
    variants = (
        "variants=[{name: one, captions: {strategy: blip}}, {name: two, captions: {strategy: captioner}}, "
        "{name: three, captions: {strategy: blip, captioner: joy}}, "
        "{name: four, captions: {strategy: captioner, captioner: joy, caption_dropout: 0.1}}]"
    )
    manifest = load(SMALL, BLIP, JOY, variants)
    assert set_of_variant(manifest) == {"one": "one", "two": "one", "three": "three", "four": "three"}
    assert list(caption_sets(manifest)) == ["one", "three"]


@pytest.mark.parametrize(
    ("sets", "path", "phrase"),
    [
        ((BLIP, "captioners={captioner: {source: x}}"), "captioners", "the name of what stands under captioner"),
        ((BLIP, ASKING), "variants", "'two' asks the captioner 'joy', but there is no such one (there are captioner)"),
        ((ASKING,), "variants", "write captioners: {joy: {source: ...}}"),
        (("variants.two.captions={strategy: blip}",), "variants", "write captioner: {source: ...}"),
        ((JOY, "variants.two.captions={strategy: captioner}"), "variants", "(there are joy, git)"),
        (
            (JOY, "variants.two.captions={strategy: mix, parts: [{captions: {strategy: existing}}, "
             "{captions: {strategy: captioner, captioner: jo}}]}"),
            "variants",
            "'two' asks the captioner 'jo'",
        ),
        (("captioners={Joy Caption: {source: x}}",), "captioners.Joy Caption", "lower-case"),
        (("captioners={joy: {sorce: x}}",), "captioners.joy.sorce", 'Did you mean "source"'),
        (("captioners={joy: {}}",), "captioners.joy.source", "required"),
        (("captioners={joy: models/joy}",), "captioners.joy", "mapping"),
        (("captioners=[{name: joy}]",), "captioners", "mapping"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_captioner_is_told(sets: tuple[str, ...], path: str, phrase: str) -> None:
    found = problems(SMALL, *sets)
    assert [problem for problem in found if f": {path}: " in problem and phrase in problem], found
