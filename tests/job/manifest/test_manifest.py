import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from job.layout import Member
from job.manifest.load import load_manifest
from job.manifest.packs import BY_SETTINGS, caption_sets, packs_of, resolve_variants, set_of_variant
from job.manifest.problems import ManifestError
from job.manifest.reference import reference_markdown
from job.manifest.schema import Manifest, manifest_schema
from job.run.identity import identity, identity_conflicts
from lora_engine.config.evaluation import PromptConfig, compared_pairs

ROOT = Path(__file__).resolve().parents[3]
MANIFESTS = sorted([*(ROOT / "manifests").glob("*.yaml"), *(ROOT / "examples").glob("*.yaml")])
SMALL = """\
apiVersion: lora-job/v1
name: small
base_model: {source: models/sd}
dataset: {source: images}
variants:
  - name: one
    captions: {strategy: constant, text: a tattoo}
  - name: two
    captions: {strategy: existing}
training: {steps: 10}
output: {destination: runs}
"""
TEXT_OR_MAPPING = "text or a mapping of keys to values"


def load(text: str = SMALL, *sets: str) -> Manifest:
    return load_manifest(text, "m.yaml", sets)


def problems(text: str, *sets: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load(text, *sets)
    assert caught.value.code == 40
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_every_shipped_manifest_is_valid(path: Path) -> None:
    manifest = load_manifest(path.read_bytes(), path.name)
    assert manifest.name == path.stem
    jsonschema.validate(yaml.safe_load(path.read_text()), manifest_schema())


def test_the_shipped_studies_are_those_of_the_design() -> None:
    found = {path.stem: load_manifest(path.read_bytes(), path.name) for path in MANIFESTS}
    assert found["tattoo-captions"].training.steps == 1000
    assert found["tattoo-quick"].training.steps == 500
    assert len(found["tattoo-captions-seeds"].seeds) == 3
    large = found["tattoo-512-r16"]
    assert (large.preprocess.resolution, large.lora.rank, large.training.images_per_step) == (512, 16, 64)
    assert large.training.steps == 2000


WRONG = [
    ("lora-job/v1", "lora-job/v9", 1, "apiVersion", "lora-job/v1"),
    ("name: small", "name: Small_Run", 2, "name", "lower-case"),
    ("name: small", "name: 7", 2, "name", "text"),
    ("name: small\n", "", 1, "name", "required"),
    ("{source: models/sd}", "{source: x, sorce: models/sd}", 3, "base_model.sorce", 'Did you mean "source"'),
    ("{source: models/sd}", "[]", 3, "base_model", "mapping"),
    ("{source: images}", "{source: 's3://u:p@b/k'}", 4, "dataset.source", "without credentials"),
    ("{source: images}", "{source: images, validation_fraction: 0.7}", 4, "dataset.validation_fraction", "less than"),
    ("{source: images}", "{source: images, validation_fraction: '0.1'}", 4, "dataset.validation_fraction", "a number"),
    ("strategy: constant", "strategy: konstant", 7, "variants[0].captions", 'Did you mean "constant"'),
    ("{strategy: existing}", "{strategy: existing, text: x}", 9, "variants[1].captions.text", "of strategy: constant."),
    ("{strategy: existing}", "{strategy: existing, line: x}", 9, "variants[1].captions.line", 'mean "lines"'),
    ("models/sd}", "models/sd, prediction_type: v}", 3, "base_model.prediction_type", "auto, epsilon, v_prediction."),
    ("models/sd}", "models/sd, zero_terminal_snr: no_}", 3, "base_model.zero_terminal_snr", "auto or true or false."),
    (
        "output:",
        "evaluation: {pairs: with_fist}\noutput:",
        11,
        "evaluation.pairs",
        'or a list. Did you mean "with_first"',
    ),
    ("output:", "storage: {region: us east}\noutput:", 11, "storage.region", "such as us-east-1"),
    ("output:", "storage: {endpoint_url: http://h/b}\noutput:", 11, "storage.endpoint_url", "http:// or https://"),
    ("strategy: constant, ", "", 7, "variants[0].captions", "strategy"),
    (", text: a tattoo", "", 7, "variants[0].captions.text", "required"),
    ("name: two", "name: one", 5, "variants", "two are named"),
    ("name: two", "name: a/b", 8, "variants[1].name", "letters"),
    ("name: two", "name: state", 8, "variants[1].name", "another file of every checkpoint"),
    ("name: two", "name: pytorch_lora_weights", 8, "variants[1].name", "another file of every checkpoint"),
    ("strategy: existing", "strategy: blip", 5, "variants", "captioner"),
    ("{steps: 10}", "{steps: 0}", 10, "training.steps", "greater than"),
    ("{steps: 10}", "{steps: 1.5}", 10, "training.steps", "whole number"),
    ("{steps: 10}", "{steps: true}", 10, "training.steps", "whole number"),
    ("{steps: 10}", "{}", 10, "training.steps", "required"),
    ("{steps: 10}", "{steps: 10, precision: bf61}", 10, "training.precision", 'Did you mean "bf16"'),
    ("{steps: 10}", "{steps: 10, schedule: {name: cosin}}", 10, "training.schedule", 'Did you mean "cosine"'),
    ("{steps: 10}", "{steps: 10, optimizer: {learning_rate: .nan}}", 10, "training.optimizer", "finite"),
    ("{steps: 10}", "{steps: 10, optimizer: {learning_rate: 1e999}}", 10, "training.optimizer", "finite"),
    ("{steps: 10}", "{steps: 10, steps: 11}", 10, "training.steps", "once"),
    ("{steps: 10}", "{steps: &a 10}", 10, "", "written out"),
    ("{steps: 10}", "{steps: !!int 10}", 10, "", "untagged"),
    ("{steps: 10}", "{steps: 10, max_grad_norm: -1}", 10, "training.max_grad_norm", "greater than"),
    ("{destination: runs}", "{destination: runs\n", 13, "", "YAML"),
    ("{destination: runs}", "{destination: null}", 11, "output.destination", "text"),
    ("output:", "preprocess: {resolution: 100}\noutput:", 11, "preprocess.resolution", "multiple of 8"),
    ("output:", "preprocess: {background: pinkish}\noutput:", 11, "preprocess.background", "rrggbb"),
    ("output:", "lora: {rank: 0}\noutput:", 11, "lora.rank", "greater than"),
    ("output:", "lora: {target_modules: []}\noutput:", 11, "lora.target_modules", "at least 1"),
    ("output:", "seeds: [1, 1]\noutput:", 11, "seeds", "twice"),
    ("output:", "seeds: [-1]\noutput:", 11, "seeds[0]", "greater than"),
    ("output:", "evaluation: {timesteps: 3}\noutput:", 11, "evaluation", "multiple"),
    ("output:", "limits: {attempt_hours: 0}\noutput:", 11, "limits.attempt_hours", "greater than"),
    ("output:", "storage: {adressing_style: path}\noutput:", 11, "storage.adressing_style", '"addressing_style"'),
    ("output:", "outptu: 1\noutput:", 11, "outptu", 'Did you mean "output"'),
    ("{strategy: existing}", "{strategy: existing}\n    lora: {rnk: 1}", 10, "variants[1].lora.rnk", '"rank"'),
]


@pytest.mark.parametrize(("old", "new", "line", "path", "phrase"), WRONG, ids=[row[1][:40] for row in WRONG])
def test_an_error_names_line_path_and_remedy(old: str, new: str, line: int, path: str, phrase: str) -> None:
    assert old in SMALL
    (problem,) = problems(SMALL.replace(old, new, 1))
    assert problem.startswith(f"m.yaml:{line}: {path}")
    assert phrase in problem


@pytest.mark.parametrize(
    ("sets", "key"),
    [
        (("output.destination=images/runs",), "destination"),
        (("output.destination=images",), "destination"),
        (("output.destination=./elsewhere/../images/runs",), "destination"),
        (("dataset.source=runs/small",), "destination"),
        (("dataset.source=file:///data/images", "output.destination=/data/images/runs"), "destination"),
        (("dataset.source=/", "output.destination=/data"), "destination"),
        (("dataset.source=s3://b/data", "output.destination=s3://b/data/runs"), "destination"),
        (("dataset.source=s3://b", "output.destination=s3://b/runs"), "destination"),
        (("output.cache=images/cache",), "cache"),
        (("dataset.source=s3://b/data/", "output.cache=s3://b/data/cache"), "cache"),
    ],
)
def test_a_run_does_not_write_into_its_dataset(sets: tuple[str, ...], key: str) -> None:
    (problem,) = problems(SMALL, *sets)
    assert f"output.{key}: " in problem
    assert "outside of dataset.source" in problem


def test_a_link_does_not_hide_that_a_run_writes_into_its_dataset(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "link").symlink_to("images")
    sets = f"dataset.source={tmp_path / 'images'}", f"output.destination={tmp_path / 'link' / 'runs'}"
    (problem,) = problems(SMALL, *sets)
    assert problem.startswith(f"--set {sets[1]}: output.destination: ")


@pytest.mark.parametrize(
    "sets",
    [
        ("dataset.source=images.zip", "output.destination=."),
        ("dataset.source=images", "output.destination=.", "output.cache=cache"),
        ("output.destination=images-runs",),
        ("dataset.source=s3://b/data", "output.destination=s3://b/data-runs"),
        ("dataset.source=s3://b/data", "output.destination=s3://c/data"),
        ("dataset.source=s3://b/d", "output.destination=s3://b/d", "dataset.storage.endpoint_url=http://other:1"),
        ("dataset.source=file://host/images", "output.destination=runs"),
    ],
)
def test_a_run_may_write_beside_its_dataset(sets: tuple[str, ...]) -> None:
    load(SMALL, *sets)


def test_errors_of_the_text_do_not_hide_those_of_the_values() -> None:
    text = SMALL.replace("name: small", "name: S\nname: T").replace("{steps: 10}", "{steps: 0, max_grad_norm: .inf}")
    assert [problem.split(":")[1:3] for problem in problems(text)] == [
        ["3", " name"],
        ["11", " training.max_grad_norm"],
        ["11", " training.steps"],
    ]


def test_all_errors_come_at_once() -> None:
    text = SMALL.replace("name: small", "name: S").replace("{steps: 10}", "{steps: x, precison: y}")
    text = text.replace("strategy: constant", "strategy: c")
    assert len(problems(text, "lora.rank=q")) == 5


@pytest.mark.parametrize("text", ["", "- 1", "a", "a: 1\n---\nb: 2", "[" * 5000, "a: " + "[" * 60 + "]" * 60, "\tb: 1"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    assert problems(text)


def test_a_file_that_is_too_large_is_not_parsed() -> None:
    assert "1 MiB" in problems("#" * (2**20 + 1))[0]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet="ab:-[]{}&*!'\"\n #|>%@,1.0e", max_size=80).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        load_manifest(data, "x")


def test_scalars_are_those_of_yaml_1_2() -> None:
    manifest = load(SMALL.replace("a tattoo", "no"), "training.optimizer.learning_rate=1e-4")
    assert manifest.variants[0].captions.text == "no"  # type: ignore[union-attr]
    assert manifest.training.optimizer.learning_rate == 1e-4


def test_set_reaches_a_variant_by_name_and_by_place() -> None:
    manifest = load(SMALL, "variants.two.lora.rank=3", "variants.0.captions.text=hello")
    first, second = resolve_variants(manifest)
    assert (first.captions.text, second.lora.rank) == ("hello", 3)  # type: ignore[union-attr]


@pytest.mark.parametrize("option", ["lora", "variants.three.lora.rank=1", "lora.rank=[", "name.x.y=1", "=3"])
def test_a_set_that_cannot_be_applied_is_named(option: str) -> None:
    assert any(f"--set {option}" in problem for problem in problems(SMALL, option))


@pytest.mark.parametrize(
    ("key", "place", "phrase"),
    [
        ("output.destination", "s3:/x", 'Did you mean "s3://x"?'),
        ("output.destination", "s3:x/y", 'Did you mean "s3://x/y"?'),
        ("output.destination", "S3://x/y", 'Did you mean "s3://x/y"?'),
        ("output.cache", "file:/x", 'Did you mean "file:///x"?'),
        ("output.destination", "~/runs", "a path without ~"),
        ("dataset.source", "~me/images", "a path without ~"),
        ("dataset.source", "gs://x/y", "a path, file:///path, s3://bucket/prefix, miniature://name; Google Cloud"),
        ("dataset.source", "hf://x/y", "a path, file:///path, s3://bucket/prefix, miniature://name."),
        ("output.destination", "miniature://drawings", "a path, file:///path, s3://bucket/prefix."),
        ("base_model.source", "hf:x/y", 'Did you mean "hf://x/y"?'),
        ("base_model.source", "https://huggingface.co/x/y", "hf://owner/name"),
        ("base_model.components", "HF://x/y", 'Did you mean "hf://x/y"?'),
    ],
)
def test_a_misspelt_uri_is_no_folder(key: str, place: str, phrase: str) -> None:
    (problem,) = problems(SMALL, f"{key}={place}")
    assert f'{key}: found "{place}"' in problem
    assert phrase in problem


@pytest.mark.parametrize(
    "place", ["./s3:/x", "./~", "a:b", "./a:b", r"C:\\runs", "C:/runs", "s3", "s3/x", "12:30", "x~"]
)
def test_odd_names_are_paths(place: str) -> None:
    assert load(SMALL, f"output.destination='{place}'").output.destination == place


def test_overrides_merge_deeply_and_replace_unions_of_another_name() -> None:
    manifest = load(
        SMALL,
        "training.schedule={name: cosine, warmup_steps: 5}",
        "variants.one.training={schedule: {warmup_steps: 2}}",
        "variants.two.training={schedule: {name: linear}, optimizer: {weight_decay: 0.5}}",
    )
    one, two = resolve_variants(manifest)
    assert (one.training.schedule.name, one.training.schedule.warmup_steps) == ("cosine", 2)
    assert (two.training.schedule.name, two.training.schedule.warmup_steps) == ("linear", 0)
    assert (two.training.optimizer.weight_decay, two.training.optimizer.learning_rate) == (0.5, 1e-4)


@pytest.mark.parametrize(
    ("key", "settings", "name"),
    [
        ("schedule", "{warmup_steps: 5}", "constant"),
        ("schedule", "{warmup_share: 0.1}", "constant"),
        ("loss", "{}", "mse"),
        ("weighting", "{}", "none"),
        ("optimizer", "{beta1: 0.5}", "adamw"),
    ],
)
def test_a_section_without_a_name_has_the_one_that_is_its_default(key: str, settings: str, name: str) -> None:
    own, all_alike = f"variants.two.training.{key}={settings}", f"training.{key}={settings}"
    for option, at in ((all_alike, 0), (own, 1)):
        found = getattr(resolve_variants(load(SMALL, option))[at].training, key)
        assert found == getattr(load(SMALL, f"training.{key}={{name: {name}, {settings[1:]}").training, key)


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("training.ema=0.99", "{decay: 0.99}"),
        ("training.ema=true", "{decay: 0.999}"),
        ("training.ema=false", None),
        ("training.optimizer=AdamW", "{name: adamw}"),
        ("training.loss=huber", "{name: huber}"),
        ("training.weighting=min_snr", "{name: min_snr}"),
        ("variants.two.training.schedule=cosine", "{name: cosine}"),
        ("training.schedule=7", None),
        ("training.noise=0.1", None),
    ],
)
def test_what_stands_in_place_of_a_section_is_answered_with_the_section(option: str, meant: str | None) -> None:
    (found,) = problems(SMALL, option)
    assert "allowed: a mapping of keys to values." in found
    assert found.partition("Did you mean ")[2] == (f'"{meant}"?' if meant else "")


@pytest.mark.parametrize(
    ("usual", "own", "found"),
    [
        ("schedule: {warmup_steps: 5}", "schedule: {warmup_share: 0.2}", {"warmup_steps": 0, "warmup_share": 0.2}),
        ("schedule: {warmup_share: 0.2}", "schedule: {warmup_steps: 5}", {"warmup_steps": 5, "warmup_share": None}),
        ("schedule: {warmup_share: 0.2}", "schedule: {warmup_steps: 0}", {"warmup_steps": 0, "warmup_share": 0.2}),
        ("noise: {offset: 0.1}", "noise: {multires: {discount: 0.5}}", {"offset": 0.0}),
        ("noise: {multires: {}}", "noise: {offset: 0.1}", {"offset": 0.1, "multires": None}),
        ("noise: {offset: 0.1}", "noise: {multires: null}", {"offset": 0.1, "multires": None}),
    ],
)
def test_what_excludes_another_key_takes_its_place(usual: str, own: str, found: dict[str, object]) -> None:
    training = f"training={{steps: 10, {usual}}}"
    section = usual.partition(":")[0]
    for option in (f"variants.two.training={{{own}}}", _swept(own)):
        made = getattr(resolve_variants(load(SMALL, training, option))[1].training, section)
        assert {key: getattr(made, key) for key in found} == found


def _swept(own: str) -> str:
    """The option that sweeps the key of `section: {key: value}` over that value alone."""
    section, _, rest = own.partition(": {")
    key, _, value = rest[:-1].partition(": ")
    return f"variants.two.sweep={{training.{section}.{key}: [{value}]}}"


def test_packs_hold_what_passes_through_the_unet_alike() -> None:
    own = "variants.two.training={steps: 3, optimizer: {name: lion}, noise: {offset: 0.1}}"
    (pack,) = packs_of(load(SMALL, "seeds=[0, 7]", "variants.two.lora.rank=4", own))
    assert pack.members == tuple(Member(name, seed) for name in ("one", "two") for seed in (0, 7))
    assert [variant.lora.rank for variant in pack.variants] == [8, 8, 4, 4]
    assert (pack.rank, pack.ends[Member("two", 7)]) == (8, 3)
    first, second = packs_of(load(SMALL, "seeds=[0, 7]", "variants.two.training.batch_size=3"))
    assert first.members == (Member("one", 0), Member("one", 7))
    assert second.differs == ("training.batch_size",)


def test_epochs_are_steps_once_images_are_counted() -> None:
    manifest = load(SMALL.replace("{steps: 10}", "{epochs: 2.5}"), "variants.two.training.steps=7")
    assert [variant.training.last_step for variant in resolve_variants(manifest)] == [0, 7]
    exact = load(SMALL.replace("{steps: 10}", "{epochs: 1.1, batch_size: 1}"))
    assert resolve_variants(exact, images=50)[0].training.steps == 55  # in binary, 1.1 x 50 is more than that
    one, two = resolve_variants(manifest, images=11)  # 27.5 images, four an update
    assert [one.training.steps, one.training.epochs, two.training.steps] == [7, None, 7]
    unchanged = load(SMALL, "variants.two.training={steps: 7, epochs: null}", "variants.one.training.epochs=null")
    assert [variant.training.steps for variant in resolve_variants(unchanged)] == [10, 7]
    (pack,) = packs_of(manifest, images=1)
    assert pack.ends == {Member("one", 1337): 1, Member("two", 1337): 7}


@pytest.mark.parametrize(
    ("training", "said"),
    [
        (
            "{batch_size: 2}",
            "training.steps: found nothing; allowed: this key is required, or epochs in its place, also where every "
            "variant has its own",
        ),
        ("{steps: 10, epochs: 2}", "training.epochs: found 2; allowed: null, since training.steps is 10"),
        ("{epochs: 0}", "training.epochs"),
    ],
)
def test_steps_or_epochs_say_how_long(training: str, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        load(SMALL.replace("{steps: 10}", training))


@pytest.mark.parametrize(
    ("lora", "training", "key"),
    [
        ("plus_ratio: 16", "optimizer: {name: prodigy}", "lora.plus_ratio"),
        ("rank: 4", "optimizer: {name: schedule_free_adamw}, ema: {}", "training.ema"),
        ("dropout: 0.1", "compile: regional", "training.compile"),
        ("conv_rank: 4", "steps: 10", "lora.conv_rank"),
        ("conv_alpha: 4, target_modules: kohya", "steps: 10", "lora.conv_alpha"),
        ("conv_rank: 4, target_modules: [to_q, proj_in]", "steps: 10", "lora.conv_rank"),
        ("text_encoder: {learning_rate: 1.0}", "optimizer: {name: prodigy}", "lora.text_encoder.learning_rate"),
        ("text_encoder: {stop_after: 5}", "optimizer: {name: prodigy}", "lora.text_encoder.stop_after"),
        ("text_encoder: {stop_after: 5}", "optimizer: {name: schedule_free_adamw}", "lora.text_encoder.stop_after"),
    ],
)
def test_settings_that_exclude_each_other_are_named_with_both(lora: str, training: str, key: str) -> None:
    with pytest.raises(ManifestError, match=rf"variants\[1\]\.{key}: found .* with .*; allowed: .*; or "):
        load(SMALL, f"variants.two.lora={{{lora}}}", f"variants.two.training={{{training}}}")


@pytest.mark.parametrize(
    ("lora", "training"),
    [
        ("conv_rank: 4, conv_alpha: 2, target_modules: full", "steps: 10"),
        ("conv_rank: 4, target_modules: [to_q, mid_block.resnets.0.conv1]", "steps: 10"),
        ("conv_rank: 4, target_modules: [downsamplers.0.conv]", "steps: 10"),
        ("text_encoder: {}", "optimizer: {name: prodigy}"),
        ("text_encoder: {learning_rate: 1e-5}", "optimizer: {name: schedule_free_adamw}"),
        ("text_encoder: {stop_after: 5, rank: 4}", "optimizer: {name: lion}"),
    ],
)
def test_settings_that_go_together_are_taken(lora: str, training: str) -> None:
    load(SMALL, f"variants.two.lora={{{lora}}}", f"variants.two.training={{{training}}}")


@pytest.mark.parametrize("targets", ["[to_out.0, to_v, to_k, to_q]", "attention"])
def test_a_list_that_is_a_preset_is_the_same_setting(targets: str) -> None:
    assert load(SMALL, f"lora.target_modules={targets}") == load(SMALL)


@pytest.mark.parametrize(
    ("kind", "phrases"),
    [
        ("loha", ("lora or dora, since LoHa multiplies", "github.com/KohakuBlueleaf/LyCORIS")),
        ("LoKr", ("LoKr is a Kronecker product", "LyCORIS trains it")),
        ("OFT_2", ("OFT rotates the base's weights", "LyCORIS trains it")),
        ("diag-oft", ("OFT rotates", "LyCORIS trains it")),
        ("boft", ("BOFT rotates", "LyCORIS trains it")),
        ("(IA)^3", ("IA3 scales", "LyCORIS trains it")),
        ("glora", ("GLoRA multiplies", "LyCORIS trains it")),
        ("locon", ("target_modules: full",)),
        ("dorra", ("lora, dora", 'Did you mean "dora"')),
    ],
)
def test_kinds_of_adapters_that_are_trained_elsewhere_are_refused_with_where(kind: str, phrases: tuple[str]) -> None:
    (problem,) = problems(SMALL, f"lora.kind={kind}")
    assert "lora.kind: found" in problem
    assert all(phrase in problem for phrase in phrases), problem


def test_settings_of_a_swept_variant_that_exclude_each_other_are_found_where_they_are_written() -> None:
    sweep = "    sweep: {training.optimizer.name: [adamw, prodigy], lora.plus_ratio: [null, 16]}\n"
    (problem,) = problems(SMALL.replace("training:", f"{sweep}training:"))
    assert problem.startswith("m.yaml:10: variants[1].sweep.lora.plus_ratio[1]: found 16 with the optimizer prodigy")


def test_a_run_that_was_begun_by_equal_settings_keeps_its_packs() -> None:
    first, second = packs_of(load(SMALL, "variants.two.lora.rank=4"), BY_SETTINGS)
    assert [first.members, second.members] == [(Member("one", 1337),), (Member("two", 1337),)]
    assert second.differs == ("lora.rank",)


def test_members_of_a_pack_are_scored_and_sampled_to_their_own_end() -> None:
    (pack,) = packs_of(load(SMALL, "training.steps=10", "variants.two.training.steps=5"))
    one, two = pack.members
    assert pack.evaluations(4) == {0: (one, two), 4: (one, two), 5: (two,), 8: (one,), 10: (one,)}
    assert list(pack.samplings(4, "evaluations")) == [
        (0, False, (one, two)),
        (4, True, (one, two)),
        (5, False, (two,)),
        (8, True, (one,)),
        (10, False, (one,)),
    ]
    assert list(pack.samplings(4, "end")) == [(5, False, (two,)), (10, False, (one,))]
    assert pack.last_steps(7) == {one: 7, two: 5}


@pytest.mark.parametrize(
    ("split_by", "packs"),
    [
        ("[variant]", [[("one", 0), ("one", 7)], [("two", 0), ("two", 7)]]),
        ("[seed]", [[("one", 0), ("two", 0)], [("one", 7), ("two", 7)]]),
        ("[seed, variant]", [[("one", 0)], [("one", 7)], [("two", 0)], [("two", 7)]]),
    ],
)
def test_packs_can_be_split(split_by: str, packs: list[list[tuple[str, int]]]) -> None:
    found = packs_of(load(SMALL, "seeds=[0, 7]", f"split_packs_by={split_by}"))
    assert [[(member.variant, member.seed) for member in pack.members] for pack in found] == packs
    assert [pack.unit for pack in found] == [f"pack-{at}" for at in range(len(packs))]
    assert all(pack.differs == () for pack in found)


def test_caption_sets_are_shared_by_equal_texts() -> None:
    manifest = load(SMALL, "variants.two.captions={strategy: constant, text: a tattoo, caption_dropout: 0.1}")
    assert list(caption_sets(manifest)) == ["one"]
    assert set_of_variant(manifest) == {"one": "one", "two": "one"}


@pytest.mark.parametrize(
    ("option", "conflicts"),
    [
        ("lora.rank=4", ("variants.one.lora.rank", "variants.two.lora.rank")),
        ("seeds=[2]", ("seeds",)),
        ("training.steps=20", ()),
        ("training.steps=5", ("variants.one.training.steps", "variants.two.training.steps")),
        ("limits.attempt_hours=2", ()),
        ("evaluation.samples={prompts: [x]}", ()),
        ("variants.one.prompt_template='{prompt}!'", ()),
        ("variants.two.captions.trigger=xyz", ("variants.two.captions.trigger",)),
        ("output.destination=elsewhere", ()),
        ("dataset.validation_min=3", ("split.validation_min",)),
        ("preprocess.background=black", ("preprocess.background",)),
        ("split_packs_by=[seed]", ("split_packs_by",)),
    ],
)
def test_what_makes_another_run(option: str, conflicts: tuple[str, ...]) -> None:
    def of(manifest: Manifest) -> dict[str, object]:
        return identity(manifest, data_sha256="d", models={"base": "b"})

    assert identity_conflicts(of(load()), of(load(SMALL, option))) == conflicts


def test_validate_imports_neither_torch_nor_boto3() -> None:
    code = (
        "import sys, job.cli.commands, job.manifest.packs, job.run.identity\n"
        "print([m for m in ('torch', 'boto3', 'diffusers', 'transformers', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_the_reference_is_that_of_the_models() -> None:
    page = Path(__file__).resolve().parents[3] / "docs" / "manifest.md"
    assert page.read_text() == reference_markdown(), "python -m job.manifest.reference > docs/manifest.md"


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (("evaluation.pairs=[[one, three]]",), "['one', 'three']; two names of variants: one, two"),
        (("evaluation.pairs=[[one, one]]",), "['one', 'one']; two names of variants: one, two"),
        (("evaluation.pairs=[[one, two], [two, one]]",), "holds a pair twice"),
        (("evaluation.pairs=[[one]]",), "evaluation.pairs"),
        (("evaluation.pairs=some",), "evaluation.pairs"),
        (("evaluation.equivalence_margin=0",), "evaluation.equivalence_margin"),
        (("seeds=[1, 2]", "variants.two.seed_offset=1"), "'two' trains with seed 2, which is another's"),
        (("seeds=[1, 5]", "variants.one.seed_offset=10", "variants.two.seed_offset=14"), "'two' trains with seed 15"),
        ((f"seeds=[{2**63 - 1}]", "variants.two.seed_offset=1"), "too large"),
        (("variants.two.seed_offset=-1",), "seed_offset"),
    ],
)
def test_pairs_margins_and_seed_offsets_that_make_no_sense(sets: tuple[str, ...], said: str) -> None:
    assert any(said in problem for problem in problems(SMALL, *sets)), problems(SMALL, *sets)


def test_variants_may_share_a_seed_offset() -> None:
    found = load(SMALL, "seeds=[1, 2]", "variants.one.seed_offset=100", "variants.two.seed_offset=100")
    assert [variant.seed_offset for variant in resolve_variants(found)] == [100, 100]
    assert {member.seed for pack in packs_of(found) for member in pack.members} == {1, 2}


def test_the_pairs_of_a_study() -> None:
    names = [f"v{at}" for at in range(9)]
    assert compared_pairs(None, names[:3]) == (("v0", "v1"), ("v0", "v2"), ("v1", "v2"))
    assert len(compared_pairs(None, names[:8])) == 28
    assert compared_pairs(None, names) == tuple(("v0", name) for name in names[1:])
    assert len(compared_pairs("all", names)) == 36
    assert compared_pairs("with_first", names[:3]) == (("v0", "v1"), ("v0", "v2"))
    assert compared_pairs((("v2", "v0"),), names) == (("v2", "v0"),)


@pytest.mark.parametrize(
    ("sets", "key", "said"),
    [
        (("variants.one.prompt_template=ink",), "variants[0].prompt_template", "a text that holds {prompt} once"),
        (("variants.one.prompt_template='{prompt} {prompt}'",), "variants[0].prompt_template", "holds {prompt} once"),
        (("variants.one.prompt_template='{prompt}, {style}'",), "variants[0].prompt_template", "perhaps {trigger}"),
        (("variants.one.prompt_template='{prompt}, {}'",), "variants[0].prompt_template", "perhaps {trigger}"),
        (("variants.one.prompt_template=7",), "variants[0].prompt_template", "found 7"),
        (
            ("variants.two.prompt_template='{trigger} {prompt}'",),
            "variants",
            "the prompt_template of 'two' holds {trigger}, but its captions have none; write captions.trigger",
        ),
        (("variants.one.captions.trigger=[a]",), "variants[0].captions.trigger", 'found ["a"]'),
        (
            ("variants.two.captions={strategy: mix, parts: [{captions: {strategy: existing, trigger: xyz}}, {}]}",),
            "variants[1].captions.parts[0]",
            "trigger: 'xyz' of a part does nothing; set the mix's own",
        ),
        (("evaluation.samples={prompts: []}",), "evaluation.samples.prompts", "at least 1"),
        (
            ("evaluation.samples={prompts: [7]}",),
            "evaluation.samples.prompts[0]",
            TEXT_OR_MAPPING,
        ),
        (
            ("evaluation.samples={prompts: [null]}",),
            "evaluation.samples.prompts[0]",
            TEXT_OR_MAPPING,
        ),
        (
            ("evaluation.samples={prompts: [{negative: x}]}",),
            "evaluation.samples.prompts[0].prompt",
            "this key is required",
        ),
        (
            ("evaluation.samples={prompts: [a, {prompt: b, promt: c}]}",),
            "evaluation.samples.prompts[1].promt",
            'Did you mean "prompt"?',
        ),
        (("evaluation.samples={prompts: [{prompt: a, seed: -1}]}",), "evaluation.samples.prompts[0].seed", "found -1"),
        (("evaluation.samples={prompts: [{prompt: a, size: 100}]}",), "evaluation.samples.prompts[0].size", "8"),
        (("evaluation.samples={size: 56}",), "evaluation.samples.size", "64"),
        (("evaluation.samples={size: [64, 4096]}",), "evaluation.samples.size[1]", "2048"),
        (("evaluation.samples={size: [64]}",), "evaluation.samples.size[1]", "required"),
        (("evaluation.samples={size: [64, 64, 64]}",), "evaluation.samples.size", "2"),
        (("evaluation.rating.question=' '",), "evaluation.rating.question", "one line of characters that print"),
        (('evaluation.rating.question="a\\nb"',), "evaluation.rating.question", "one line of characters that print"),
        (('evaluation.rating.question="a\\u202eb"',), "evaluation.rating.question", "one line of characters that"),
        ((f"evaluation.rating.question={'a' * 201}",), "evaluation.rating.question", "200"),
        (("evaluation.samples={size: large}",), "evaluation.samples.size", "a whole number or a list"),
        (("evaluation.samples={size: 64.0}",), "evaluation.samples.size", "a whole number or a list"),
        (("evaluation.samples={strength: 5}",), "evaluation.samples.strength", "4"),
        (("evaluation.samples={sampler: dim}",), "evaluation.samples.sampler", "ddim"),
        (("evaluation.samples={prompts: [a, b, a]}",), "evaluation.samples", "prompts holds one twice"),
        (("evaluation.samples={prompts: [a, {prompt: a}]}",), "evaluation.samples", "prompts holds one twice"),
        (("evaluation.samples={seeds: [3, 3]}",), "evaluation.samples", "seeds holds one twice; each seed once"),
    ],
)
def test_prompts_that_make_no_sense(sets: tuple[str, ...], key: str, said: str) -> None:
    found = problems(SMALL, *sets)
    assert any(f": {key}: " in problem and said in problem for problem in found), found


def test_a_prompt_is_a_text_or_a_mapping_with_settings_of_its_own() -> None:
    samples = load(
        SMALL,
        "evaluation.samples={prompts: [a, {prompt: a, seed: 3}, {prompt: b, size: [64, 128], strength: 0}], size: 72}",
    ).evaluation.samples
    assert samples is not None
    assert samples.prompts is not None
    text, seeded, sized = samples.prompts
    assert text == "a"
    assert isinstance(seeded, PromptConfig)
    assert isinstance(sized, PromptConfig)
    assert (seeded.prompt, seeded.seed, seeded.size, samples.size) == ("a", 3, None, 72)
    assert (sized.size, sized.strength, sized.steps) == ((64, 128), 0, None)


def test_without_prompts_samples_may_be_asked_for() -> None:
    samples = load(SMALL, "evaluation.samples={steps: 5}").evaluation.samples
    assert samples is not None
    assert (samples.prompts, samples.seeds, samples.size, samples.sampler) == (None, (0,), None, None)


def test_a_trigger_makes_a_set_of_captions_of_its_own() -> None:
    manifest = load(SMALL, "variants.two.captions={strategy: constant, text: a tattoo, trigger: xyz}")
    assert set_of_variant(manifest) == {"one": "one", "two": "two"}
    template = load(SMALL, "variants.two.captions.trigger=xyz", "variants.two.prompt_template='{trigger} {prompt}'")
    assert [variant.prompt_template for variant in template.variants] == [None, "{trigger} {prompt}"]
