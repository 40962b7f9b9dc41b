"""A sweep makes variants: their names, their settings, and what is said of one that cannot be used."""

import json
import math
import re
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from job.cli.plan import render_plan
from job.manifest.load import load_manifest
from job.manifest.names import variant_name
from job.manifest.overrides import schemas_of_keys
from job.manifest.packs import resolve_variants
from job.manifest.problems import ManifestError
from job.manifest.schema import Manifest, manifest_schema
from job.plan import make_plan
from job.run.identity import identity

HEAD = """\
apiVersion: lora-job/v1
name: study
base_model: {source: models/sd}
dataset: {source: s3://b/images.zip}
training: {steps: 20}
output: {destination: runs}
variants:
  - name: own
    captions: {strategy: existing}
"""
SWEPT = f"""{HEAD}\
  - name: blip
    captions: {{strategy: existing, style_hints: ink}}
    lora: {{alpha: 4}}
    sweep:
      training.optimizer.learning_rate: [1e-4, 2e-4]
      lora.rank: [8, 16]
"""
BY_HAND = f"""{HEAD}\
  - {{name: blip-lr1e-4-r8, captions: {{strategy: existing, style_hints: ink}}, lora: {{alpha: 4}}}}
  - name: blip-lr1e-4-r16
    captions: {{strategy: existing, style_hints: ink}}
    lora: {{alpha: 4, rank: 16}}
  - name: blip-lr2e-4-r8
    captions: {{strategy: existing, style_hints: ink}}
    lora: {{alpha: 4}}
    training: {{optimizer: {{learning_rate: 2e-4}}}}
  - name: blip-lr2e-4-r16
    captions: {{strategy: existing, style_hints: ink}}
    lora: {{alpha: 4, rank: 16}}
    training: {{optimizer: {{learning_rate: 2e-4}}}}
"""
NAMES = ["own", "blip-lr1e-4-r8", "blip-lr1e-4-r16", "blip-lr2e-4-r8", "blip-lr2e-4-r16"]


def load(*sets: str, text: str = SWEPT) -> Manifest:
    return load_manifest(text, "m.yaml", sets)


def problems(*sets: str, text: str = SWEPT) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load(*sets, text=text)
    return [str(problem) for problem in caught.value.problems]


def swept(**values: list[Any]) -> list[str]:
    """The names that a sweep of these makes of `v`; a key's dots are written as two underscores."""
    sweep = {key.replace("__", "."): each for key, each in values.items()}
    variants = [{"name": "v", "captions": {"strategy": "existing"}, "sweep": sweep}]
    made = load(f"variants={json.dumps(variants)}")
    return [variant.name for variant in made.variants]


def test_a_sweep_is_the_study_that_one_would_write_by_hand() -> None:
    made, by_hand = load(), load(text=BY_HAND)
    assert [variant.name for variant in made.variants] == NAMES
    assert resolve_variants(made) == resolve_variants(by_hand)
    models = {"base": "0" * 64}
    assert identity(made, data_sha256="0", models=models) == identity(by_hand, data_sha256="0", models=models)


def test_what_a_run_stores_is_what_was_made_of_it() -> None:
    """So that versions that know of no sweep read it, and the made variants are the run's whatever names they get."""
    made = load()
    stored = yaml.safe_dump(made.model_dump(mode="json"), sort_keys=False)
    assert "sweep" not in stored
    assert load(text=stored).model_dump() == made.model_dump()


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"lora__rank": [8], "lora__alpha": [4, 0.5, 8.0]}, ["v-r8-a4", "v-r8-a0_5", "v-r8-a8"]),
        ({"training__optimizer__learning_rate": [0.00015, 0.01]}, ["v-lr1_5e-4", "v-lr0_01"]),
        ({"training__optimizer__weight_decay": [0, 1e-05]}, ["v-wd0", "v-wd1e-5"]),
        ({"training__steps": [500], "training__random_flip": [True]}, ["v-steps500-random_flip-on"]),
        ({"training__max_grad_norm": [None, 1.0]}, ["v-max_grad_norm-none", "v-max_grad_norm1"]),
        ({"training__schedule__name": ["constant", "cosine"]}, ["v-schedule-constant", "v-schedule-cosine"]),
        ({"training__schedule": [{"name": "cosine", "warmup_steps": 5}]}, ["v-schedule-cosine-warmup_steps5"]),
        ({"training__schedule__warmup_steps": [0, 5]}, ["v-warmup_steps0", "v-warmup_steps5"]),
        ({"lora__target_modules": [["to_q", "to_out.0"]]}, ["v-target_modules-to_q_to_out_0"]),
    ],
)  # fmt: skip
def test_names_are_short_and_follow_the_values_as_written(values: dict[str, list[Any]], names: list[str]) -> None:
    assert swept(**values) == names


def test_set_reaches_the_variant_as_it_is_written_and_its_sweep() -> None:
    made = load(
        "variants.blip.lora.alpha=2", "variants.blip.sweep.lora.rank=[4]", "evaluation.pairs=[[own, blip-lr1e-4-r4]]"
    )
    assert [(v.name, v.lora) for v in made.variants[1:]] == [
        ("blip-lr1e-4-r4", {"alpha": 2, "rank": 4}),
        ("blip-lr2e-4-r4", {"alpha": 2, "rank": 4}),
    ]
    (found,) = problems("variants.blip-lr1e-4-r8.lora.alpha=2")
    assert "a place from 0 to 1 or a name of own, blip" in found
    assert 'Did you mean "blip"?' in found
    (found,) = problems("evaluation.pairs=[[own, blip]]")
    assert "two names of variants: blip-lr1e-4-r16, blip-lr1e-4-r8, blip-lr2e-4-r16, blip-lr2e-4-r8, own" in found


WRONG = {  # what the sweep is set to, and the problem that is said of it, after its line
    "a value": ("{lora.rank: [8, 0]}", "lora.rank[1]: found 0; allowed: greater than or equal to 1."),
    "a type": ("{lora.rank: [8, x]}", 'lora.rank[1]: found "x"; allowed: a whole number.'),
    "a name": (
        "{training.schedule.name: [cosine, constnat]}",
        'training.schedule.name[1]: found "constnat"; allowed: constant, linear, cosine, cosine_restarts, '
        'polynomial, inverse_sqrt. Did you mean "constant"?',
    ),
    "a key within a value": (
        "{training.schedule: [{name: cosine, warmup_step: 5}]}",
        "training.schedule[0].warmup_step: found an unknown key; allowed: *",
    ),
    "a key": ("{lora.rnak: [8]}", 'lora.rnak: found an unknown key; allowed: *. Did you mean "lora.rank"?'),
    "a key alone": ("{rank: [8]}", 'rank: found an unknown key; allowed: *. Did you mean "lora.rank"?'),
    "another trainer's key": (
        "{unet_lr: [1.0]}",
        'unet_lr: found an unknown key; allowed: *. Did you mean "training.optimizer.learning_rate"?',
    ),
    "another key of a variant": ("{seed_offset: [1]}", "seed_offset: found an unknown key; allowed: *"),
    "nested": ("{lora: {rank: [8]}}", "lora: found an unknown key; allowed: *"),
    "a caption's key": (
        "{captions.caption_dropout: [0]}",
        "captions.caption_dropout: found an unknown key; allowed: a dotted key of lora or training, such as lora.rank.",
    ),
    "a key of another member": (
        "{training.weighting.gamma: [1]}",
        "training.weighting.gamma[0]: found an unknown key; allowed: name. It is a key of name: min_snr or "
        "soft_min_snr.",
    ),
    "no list": ("{lora.rank: 8}", "lora.rank: found 8; allowed: a list of values under a dotted key, *"),
    "no mapping": ("[8]", ": found [8]; allowed: a mapping: *"),
    "nothing": ("null", ": found nothing (null); allowed: a mapping: *"),
    "an empty list": ("{lora.rank: []}", "lora.rank: found 0 items; allowed: at least 1."),
    "a value twice": ("{lora.rank: [8, 4, 8]}", "lora.rank[2]: found 8, which is called '8' as 8 is; *"),
    "a number twice": ("{lora.alpha: [8, 8.0]}", "lora.alpha[1]: found 8.0, which is called '8' as 8 is; *"),
    "values of one name": (
        "{lora.target_modules: [[to_q, to_k], [to_q_to_k]]}",
        "lora.target_modules[1]: found *, which is called 'to_q_to_k' as * is; allowed: *, and no two of one name.",
    ),
    "a key within a swept one": (
        "{training.schedule: [{name: linear}], training.schedule.warmup_steps: [5]}",
        "training.schedule.warmup_steps: found a key within training.schedule, which is swept, too; *",
    ),
    "too many": (
        f"{{lora.rank: {list(range(1, 11))}, training.steps: {list(range(1, 11))}}}",
        ": found 100 variants, 101 with the others; allowed: at most 64 in all.",
    ),
    "far too many": (
        f"{{lora.rank: {list(range(1, 400))}, training.steps: {list(range(1, 400))}}}",
        ": found 159201 variants, 159202 with the others; *",
    ),
    "a long name": (
        f"{{lora.target_modules: [[{'x' * 60}]]}}",
        ": found a variant that would be named 'blip-target_modules-x*', of 80 characters; allowed: at most 63; *",
    ),
}


@pytest.mark.parametrize(("sweep", "says"), WRONG.values(), ids=WRONG)
def test_a_sweep_that_cannot_be_used_is_named_with_its_place(sweep: str, says: str) -> None:
    text = f"{HEAD}  - name: blip\n    captions: {{strategy: existing, style_hints: ink}}\n    sweep: {sweep}\n"
    pattern = re.escape(f"variants[1].sweep{'' if says.startswith(':') else '.'}{says}").replace(r"\*", ".*")
    (found,) = problems(text=text)
    assert re.fullmatch(f"m.yaml:{text.count(chr(10))}: {pattern}", found), found
    option = f"variants.blip.sweep={sweep}"
    (found,) = problems(option, text=text.replace(sweep, "{lora.rank: [8]}"))
    assert found.startswith(f"--set {option}"[:80])
    assert re.search(f": {pattern}$", found), found


def test_all_problems_are_told_at_once() -> None:
    found = problems("variants.blip.lora={}", "variants.blip.sweep={lora.rank: [0, x], lora.alpha: [0, 1]}")
    assert [each.partition("sweep.")[2].partition(";")[0] for each in map(str.strip, found)] == [
        "lora.rank[0]: found 0",
        "lora.alpha[0]: found 0",
        'lora.rank[1]: found "x"',
    ]


def test_what_the_variant_sets_itself_is_not_swept() -> None:
    (found,) = problems("variants.blip.lora.rank=4")
    assert found.startswith(
        "--set variants.blip.lora.rank=4: variants[1].lora.rank: found a key that the variant's sweep sets, too; "
    )


def test_a_problem_that_several_make_together_says_in_which_of_them() -> None:
    text = SWEPT.replace("{alpha: 4}", "{alpha: 0}")
    assert problems(text=text) == [
        "m.yaml:12: variants[1].lora.alpha: found 0; allowed: greater than 0. It is so in blip-lr1e-4-r8."
    ]


def test_names_that_are_there_already() -> None:
    (found,) = problems("variants.own.name=blip-lr2e-4-r8")
    assert "variants[1].sweep: found a variant that it names 'blip-lr2e-4-r8', as variants[0] is named" in found
    again = SWEPT + SWEPT.removeprefix(HEAD)
    found = problems(text=again)[0]
    assert "variants[2].sweep: found a variant that it names 'blip-lr1e-4-r8', as variants[1] names one" in found
    (found,) = problems("variants.blip.name=../blip")
    assert 'variants[1].name: found "../blip"; allowed: 1 to 63 lower-case' in found


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ("ink", 'variants[2]: found "ink"; allowed: a mapping *'),
        ("null", "variants[2]: found nothing (null); allowed: a mapping *"),
        ("{name: 12, captions: {strategy: existing}, sweep: {lora.rank: [4]}}", "variants[2].name: found 12; *"),
        ("{captions: {strategy: existing}, sweep: {lora.rank: [4]}}", "variants[2].name: found nothing; *"),
    ],
)
def test_what_is_no_variant_beside_one_that_is_swept(other: str, says: str) -> None:
    (found,) = problems(text=f"{SWEPT}  - {other}\n")
    assert re.search(re.escape(says).replace(r"\*", ".*"), found), found


def test_the_schema_for_editors_knows_what_may_be_swept() -> None:
    schema = jsonschema.Draft202012Validator(manifest_schema())
    assert schema.is_valid(yaml.safe_load(SWEPT.replace("1e-4, 2e-4", "0.1, 0.2")))
    for sweep in ({"lora.rnak": [1]}, {"lora.rank": 8}, {"lora.rank": []}, {"lora.rank": [0]}, {"lora.rank": [8, 8]}):
        data = yaml.safe_load(SWEPT)
        data["variants"][1]["sweep"] = sweep
        assert not schema.is_valid(data), sweep


def test_the_plan_shows_what_is_made() -> None:
    lines = render_plan(make_plan(load())).splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("variants (5)      own: "))
    rank_and_rate = [line.split(":", 1) for line in lines[start + 1 : start + 5]]
    assert [name.strip() for name, _ in rank_and_rate] == NAMES[1:]
    assert rank_and_rate[-1][1] == " lora.rank 16, lora.alpha 4.0, training.optimizer.learning_rate 0.0002"


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
VALUES = st.recursive(
    SCALARS,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=5), each, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(sorted(schemas_of_keys())) | st.text(max_size=12)


@given(st.dictionaries(KEYS, st.lists(VALUES, max_size=4) | VALUES, max_size=3))
def test_any_sweep_makes_variants_of_different_names_or_is_refused(sweep: dict[str, Any]) -> None:
    data = yaml.safe_load(HEAD)
    data["variants"].append({"name": "v", "captions": {"strategy": "existing"}, "sweep": sweep})
    try:
        made = load(text=json.dumps(data))
    except ManifestError:
        return
    names = [variant.name for variant in made.variants]
    assert len(set(names)) == len(names) == 1 + math.prod(map(len, sweep.values()))
    assert {variant_name(name) for name in names} == set(names)
