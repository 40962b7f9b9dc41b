"""What makes a run the same run, beyond what a manifest's options say: models, data, and values of other versions."""

from pathlib import Path
from typing import Any

import pytest

from job.manifest.load import load_manifest
from job.run.identity import Identity, differences, has_more_steps, identity, identity_conflicts, way_on
from job.run.resolved import Resolved
from tests.job.manifest.test_manifest import SMALL, load

EARLIER = Path(__file__).resolve().parents[1] / "earlier_run"
BLIP = (
    "captioner={source: models/blip}",
    "variants=[{name: one, captions: {strategy: blip}}]",
)


def identity_of(*sets: str, data: str = "d", **models: str) -> Identity:
    return identity(load(SMALL, *sets), data_sha256=data, models={"base": "b", "captioner": "c"} | models)


@pytest.mark.parametrize(
    ("changed", "conflicts"),
    [
        ({"base": "other"}, ("base_model",)),
        ({"captioner": "other"}, ("captioner.sha256",)),
        ({"data": "other"}, ("data",)),
    ],
)
def test_other_bytes_are_another_run(changed: dict[str, Any], conflicts: tuple[str, ...]) -> None:
    assert identity_conflicts(identity_of(*BLIP), identity_of(*BLIP, **changed)) == conflicts


@pytest.mark.parametrize(
    ("option", "conflicts"),
    [
        ("captioner.prompt=a drawing of", ("captioner.prompt",)),
        ("captioner.source=elsewhere", ()),
        ("evaluation.timesteps=2", ("evaluation.timesteps",)),
        ("evaluation.every=3", ("evaluation.every",)),
        ("evaluation.batch_size=3", ("evaluation.batch_size",)),
        ("evaluation.pairs=with_first", ("evaluation.pairs",)),
        ("evaluation.equivalence_margin=0.2", ("evaluation.equivalence_margin",)),
        ("variants.one.seed_offset=100", ("variants.one.seed_offset",)),
        ("dataset.validation_fraction=0.2", ("split.validation_fraction",)),
        ("dataset.validation_min=3", ("split.validation_min",)),
        ("training.schedule={name: constant}", ("variants.one.training.schedule.name",)),
    ],
)
def test_values_that_decide_what_is_found_belong_to_it(option: str, conflicts: tuple[str, ...]) -> None:
    linear = "training.schedule={name: linear}"
    assert identity_conflicts(identity_of(*BLIP, linear), identity_of(*BLIP, linear, option)) == conflicts


USE = ("base_model.prediction_type=v_prediction", "base_model.zero_terminal_snr=true", "base_model.clip_skip=2")
VAE = "base_model.vae=models/vae"


@pytest.mark.parametrize(
    ("options", "conflict"),
    [
        (USE[:1], "base_model_as.prediction_type"),
        (("base_model.zero_terminal_snr=false",), "base_model_as.zero_terminal_snr"),
        (USE[2:], "base_model_as.clip_skip"),
        ((VAE,), "base_model_as.vae"),
    ],
)
def test_how_the_base_model_is_used_belongs_to_it(options: tuple[str, ...], conflict: str) -> None:
    plain, other = identity_of(), identity_of(*options, vae="v")
    assert identity_conflicts(plain, other) == identity_conflicts(other, plain) == (conflict,)
    assert identity_conflicts(other, identity_of(*options, vae="v")) == ()


def test_an_identity_is_written_as_before_where_the_base_model_is_used_as_its_files_say() -> None:
    said = ("base_model.prediction_type=auto", "base_model.zero_terminal_snr=auto", "base_model.clip_skip=1")
    assert identity_of(*said).model_dump() == identity_of().model_dump()
    assert "base_model_as" not in identity_of().model_dump()
    written = identity_of(*USE, VAE, vae="v").model_dump()["base_model_as"]
    assert written == {"prediction_type": "v_prediction", "zero_terminal_snr": True, "clip_skip": 2, "vae": "v"}
    assert identity_conflicts(identity_of(VAE, vae="v"), identity_of(VAE, vae="w")) == ("base_model_as.vae",)


MERGE = "base_model.merge=[{source: a.safetensors, strength: 0.5}, {source: b.safetensors}]"
COSINE = "training.schedule={name: cosine}"
START = "variants=[{name: one, captions: {strategy: existing}, lora: {init_from: a.safetensors}}]"


def test_what_is_merged_belongs_to_it_by_its_bytes_and_strength_and_not_by_its_place() -> None:
    merged = {"merge.0": "x", "merge.1": "y"}
    stored = identity_of(MERGE, **merged)
    assert stored.model_dump()["base_model_as"]["merge"] == [
        {"sha256": "x", "strength": 0.5},
        {"sha256": "y", "strength": 1.0},
    ]
    assert identity_conflicts(stored, identity_of(MERGE.replace("a.saf", "c.saf"), **merged)) == ()
    for other in (
        identity_of(),
        identity_of(MERGE, **merged | {"merge.1": "z"}),
        identity_of(MERGE.replace("0.5", "0.6"), **merged),
    ):
        assert identity_conflicts(stored, other) == identity_conflicts(other, stored) == ("base_model_as.merge",)


def test_what_an_adapter_starts_from_belongs_to_its_variant_by_its_bytes_and_what_they_say() -> None:
    def started(*sets: str, sha256: str = "x", rank: int = 4) -> Identity:
        manifest = load(SMALL, START, *sets)
        read = {"rank": rank, "alpha": 2.0, "conv_rank": None, "target_modules": "kohya", "text_encoder": None}
        models = {"base": "b", "start.one": sha256}
        return identity(manifest, data_sha256="d", models=models, starts={"one": read})

    stored = started()
    lora = stored.variants["one"].lora
    assert (lora["init_from"], lora["rank"], lora["alpha"], lora["target_modules"]) == ("x", 4, 2.0, "kohya")
    assert identity_conflicts(stored, started("variants.one.lora.init_from=b.safetensors")) == ()
    assert identity_conflicts(stored, started("variants.one.lora.rank=4", "lora.target_modules=kohya")) == ()
    assert identity_conflicts(stored, started(sha256="y")) == ("variants.one.lora.init_from",)
    assert identity_conflicts(stored, started("lora.rank=8")) == ("variants.one.lora.rank",)
    assert "variants.one.lora.init_from" in identity_conflicts(stored, identity_of())


@pytest.mark.parametrize(
    ("option", "is_longer"),
    [("training.steps=99", True), ("training.schedule.name=linear", True), ("lora.rank=3", False)],
)
def test_who_wants_to_train_for_longer_is_told_of_starts_and_caches(option: str, is_longer: bool) -> None:
    told = way_on(identity_conflicts(identity_of(COSINE), identity_of(COSINE, option)))
    assert ("lora.init_from" in told, "come from the cache" in told) == (is_longer, is_longer)


SEVERAL = (
    "captioners={joy: {source: models/joy}}",
    "variants=[{name: one, captions: {strategy: captioner, captioner: joy}}, {name: two, captions: {strategy: blip}}]",
)


def test_every_captioner_belongs_to_it() -> None:
    several = (*BLIP, *SEVERAL)
    joy = {"captioners.joy": "j"}
    stored = identity_of(*several, **joy)
    assert stored.captioners["joy"]["sha256"] == "j"
    assert identity_conflicts(stored, identity_of(*several, **joy)) == ()
    for option, conflicts in (
        ("captioners.joy.prompt=what is it?", ("captioners.joy.prompt",)),
        ("captioners.joy.source=elsewhere", ()),
        ("captioners.base={source: x}", ("captioners.base",)),
        (
            "variants.one.captions.captioner=captioner",
            ("variants.one.captions.captioner", "variants.one.captions.strategy"),
        ),
    ):
        assert identity_conflicts(stored, identity_of(*several, option, **joy)) == conflicts
    assert identity_conflicts(stored, identity_of(*several, **{"captioners.joy": "other"})) == (
        "captioners.joy.sha256",
    )
    assert identity_conflicts(stored, identity_of(*BLIP, SEVERAL[1].replace("joy", "captioner"))) != ()
    lacks = stored.model_dump(mode="json")
    del lacks["captioners"]["joy"]["beams"]
    assert identity_conflicts(Identity.model_validate(lacks), stored) == ()


@pytest.mark.parametrize(
    "other",
    [
        ("variants.one.captions={strategy: captioner}",),
        ("variants.one.captions={strategy: captioner, captioner: captioner}",),
        ("variants.one.captions={strategy: blip, captioner: captioner}",),
        ("captioner=null", "captioners={captioner: {source: models/blip}}"),
    ],
)
def test_the_only_captioner_is_that_of_earlier_versions_by_any_of_its_names(other: tuple[str, ...]) -> None:
    """What version 0.1.0 stored of a study with BLIP, word for word."""
    identity = identity_of(*BLIP, *other)
    assert identity == identity_of(*BLIP)
    dump = identity.model_dump(mode="json")
    assert "captioners" not in dump
    assert dump["captioner"] == {
        "prompt": "",
        "beams": 1,
        "max_new_tokens": 40,
        "batch_size": 8,
        "precision": "auto",
        "sha256": "c",
    }
    cleaning = {
        "lowercase": True,
        "artefact_words": True,
        "invented_writing": True,
        "repeated_words": True,
        "duplicates": True,
        "stop_words": False,
    }
    captions = {"caption_dropout": 0.0, "trigger": "", "style_hints": "", "hints_position": "last"}
    assert list(dump["variants"]["one"]["captions"].items()) == list(
        (captions | {"cleaning": cleaning, "strategy": "blip"}).items()
    )


@pytest.mark.parametrize("name", ["finished", "interrupted", "sampled"])
def test_a_run_of_an_earlier_version_is_the_same_run(name: str) -> None:
    stored = Resolved.model_validate_json((EARLIER / name / "resolved.json").read_bytes())
    manifest = load_manifest((EARLIER / name / "manifest.yaml").read_bytes(), "manifest.yaml")
    current = identity(manifest, data_sha256=stored.data_sha256, models=stored.models.hashes())
    assert current.captioner == stored.identity.captioner
    assert identity_conflicts(stored.identity, current) == ()


def test_what_an_earlier_version_left_open_may_be_anything() -> None:
    stored = identity_of(*BLIP).model_dump(mode="json")
    for key in ("batch_size", "pairs", "equivalence_margin"):
        del stored["evaluation"][key]
    del stored["variants"]["one"]["seed_offset"]
    earlier = Identity.model_validate(stored)
    chosen = ("evaluation.batch_size=3", "evaluation.pairs=with_first", "evaluation.equivalence_margin=0.2")
    assert identity_conflicts(earlier, identity_of(*BLIP, *chosen)) == ()
    assert not has_more_steps(earlier, identity_of(*BLIP, *chosen))
    assert identity_conflicts(earlier, identity_of(*BLIP, "evaluation.timesteps=2")) == ("evaluation.timesteps",)
    moved = identity_of(*BLIP, "variants.one.seed_offset=100")
    assert identity_conflicts(earlier, moved) == ("variants.one.seed_offset",)


def test_settings_that_an_identity_lacks_are_differences() -> None:
    stored, current = identity_of(), identity_of()
    stored.variants["one"].training.clear()
    conflicts = identity_conflicts(stored, current)
    assert "variants.one.training.steps" in conflicts


def test_variants_that_are_in_one_alone_are_named_and_no_more() -> None:
    swept = "variants.two.sweep={lora.rank: [%s]}"
    before, now = identity_of(swept % "4, 8", "lora.alpha=4"), identity_of(swept % "8, 16", "lora.alpha=8")
    assert differences(identity_conflicts(before, now), before, now) == (
        "variants.one.lora.alpha (4.0 -> 8.0), variants.two-r16 (not in the run), variants.two-r4 (not in the "
        "manifest), variants.two-r8.lora.alpha (4.0 -> 8.0)"
    )


def steps(schedule: str, number: int) -> Identity:
    return identity_of(f"training.schedule={{name: {schedule}}}", f"training.steps={number}")


def test_steps_grow_only_where_the_rate_does_not_depend_on_them() -> None:
    constant, cosine = steps("constant", 20), steps("cosine", 20)
    both = ("variants.one.training.steps", "variants.two.training.steps")
    assert identity_conflicts(constant, steps("constant", 30)) == ()
    assert identity_conflicts(constant, steps("constant", 10)) == both
    assert identity_conflicts(cosine, steps("cosine", 30)) == both
    share = "constant, warmup_share: 0.1"
    assert identity_conflicts(steps(share, 20), steps(share, 30)) == both
    assert has_more_steps(constant, steps("constant", 30))
    assert not has_more_steps(constant, steps("constant", 20))


def test_a_warm_up_is_written_as_by_versions_that_knew_no_share() -> None:
    schedule = steps("constant", 20).variants["one"].training["schedule"]
    assert schedule == {"name": "constant", "warmup_steps": 0}


def test_a_value_that_only_a_later_version_knows_makes_another_run() -> None:
    stored = identity_of().model_dump(mode="json")
    assert identity_conflicts(Identity.model_validate(stored), identity_of()) == ()
    later = Identity.model_validate(stored | {"colour_space": "linear"})
    assert identity_conflicts(later, identity_of()) == ("colour_space",)


def test_the_device_is_no_part_of_it() -> None:
    assert identity_of(*BLIP, "device=cpu") == identity_of(*BLIP, "device=cuda") == identity_of(*BLIP)


def test_a_run_of_a_version_that_joined_lines_goes_on_with_either_setting_but_not_at_random() -> None:
    def of(lines: str | None) -> Identity:
        chosen = "" if lines is None else f", lines: {lines}"
        return identity_of(f"variants=[{{name: one, captions: {{strategy: existing{chosen}}}}}]")

    earlier = of(None).model_copy(deep=True)
    del earlier.variants["one"].captions["lines"]
    for same in (None, "first", "join"):
        assert identity_conflicts(earlier, of(same)) == ()
    assert identity_conflicts(earlier, of("random")) == ("variants.one.captions.lines",)
    mix = (
        "variants=[{name: one, captions: {strategy: mix, parts: [{captions: {strategy: existing%s}}, {captions: %s}]}}]"
    )
    constant = "{strategy: constant, text: a}"
    mixed = identity_of(mix % ("", constant)).model_copy(deep=True)
    del mixed.variants["one"].captions["parts"][0]["captions"]["lines"]
    assert identity_conflicts(mixed, identity_of(mix % (", lines: join", constant))) == ()
    assert identity_conflicts(mixed, identity_of(mix % (", lines: random", constant))) != ()
    assert identity_conflicts(of("first"), of("join")) == ("variants.one.captions.lines",)
