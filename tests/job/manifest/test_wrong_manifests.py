"""Manifests that are wrong in every way that the schema can tell, and in ways that would break a careless reader."""

import contextlib
import copy
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from job.manifest.load import load_manifest
from job.manifest.problems import ManifestError
from job.manifest.schema import manifest_schema

CANARY = Path(tempfile.gettempdir()) / f"canary-{uuid.uuid4().hex}"
# every key that there is, so that each can be made wrong
FULL = """\
apiVersion: lora-job/v1
name: full
seeds: [1, 2]
split_packs_by: [variant]
storage: {endpoint_url: "http://localhost:1", region: here, addressing_style: path}
base_model: {source: models/sd, revision: main, components: models/sd, allow_pickle: false}
dataset:
  source: images
  validation_fraction: 0.1
  validation_min: 4
  storage: {region: there, endpoint_url: "http://localhost:2", addressing_style: auto}
preprocess:
  resolution: 64
  crop: center
  background: white
  deduplicate: exact
  near_duplicate_distance: 6
  max_pixels: 5000
  max_rejected_fraction: 0.1
captioner:
  source: models/blip
  revision: refs/pr/50
  prompt: a
  beams: 1
  max_new_tokens: 9
  batch_size: 2
  precision: auto
  allow_pickle: false
variants:
  - name: one
    captions: {strategy: constant, text: a, caption_dropout: 0.1, trigger: t}
    prompt_template: "{trigger}, {prompt}"
    lora: {rank: 2}
    training: {steps: 3}
  - name: two
    captions:
      strategy: blip
      style_hints: b
      hints_position: first
      caption_dropout: 0.1
      cleaning:
        lowercase: true
        artefact_words: true
        invented_writing: true
        repeated_words: true
        duplicates: true
        stop_words: false
  - name: three
    captions: {strategy: existing, missing: c}
  - name: four
    captions:
      strategy: mix
      parts:
        - {weight: 1.0, captions: {strategy: constant, text: d}}
        - {weight: 2.0, captions: {strategy: existing}}
  - name: five
    captions: {strategy: existing}
    training:
      steps: null
      epochs: 1.5
      optimizer: {name: lion, learning_rate: 0.1, weight_decay: 0.1, beta1: 0.5, beta2: 0.5}
      schedule: {name: linear, warmup_steps: 1}
      loss: {name: l1}
      weighting: {name: soft_min_snr, gamma: 5.0}
      noise: {offset: 0.0, multires: {iterations: 2, discount: 0.3}}
  - name: six
    captions: {strategy: existing}
    lora: {plus_ratio: null}
    training:
      optimizer:
        name: prodigy
        learning_rate: 1.0
        weight_decay: 0.1
        decouple: false
        beta1: 0.5
        beta2: 0.5
        beta3: 0.5
        epsilon: 0.1
        d0: 0.1
        d_coef: 2.0
        growth_rate: 2.0
        use_bias_correction: true
        safeguard_warmup: true
      schedule: {name: cosine_restarts, cycles: 2, warmup_steps: 1}
      weighting: {name: debiased}
  - name: seven
    captions: {strategy: existing}
    training:
      optimizer:
        {name: schedule_free_adamw, learning_rate: 0.1, weight_decay: 0.1, beta1: 0.5, beta2: 0.5, epsilon: 0.1}
      schedule: {name: polynomial, power: 2.0, warmup_share: 0.5}
      ema: null
  - name: eight
    captions: {strategy: existing}
    training:
      optimizer: {name: sgd, learning_rate: 0.1, weight_decay: 0.1, momentum: 0.5, nesterov: true}
      schedule: {name: inverse_sqrt, timescale_steps: 2, warmup_steps: 1}
lora: {rank: 2, alpha: 2.0, rank_stabilized: true, plus_ratio: 2.0, dropout: 0.1, target_modules: [to_q]}
training:
  steps: 2
  batch_size: 1
  gradient_accumulation: 1
  optimizer: {name: adamw, learning_rate: 0.1, weight_decay: 0.1, beta1: 0.5, beta2: 0.5, epsilon: 0.1}
  schedule: {name: cosine, warmup_steps: 1}
  loss: {name: huber, c: 0.1, schedule: snr}
  weighting: {name: min_snr, gamma: 5.0}
  noise: {offset: 0.1, multires: null, input_perturbation: 0.1}
  timesteps: {from: 1, to: 999}
  ema: {decay: 0.9}
  max_grad_norm: 1.0
  precision: fp32
  deterministic: false
  max_skipped_steps: 3
evaluation:
  every: 1
  timesteps: 1
  final_timesteps: 2
  batch_size: 1
  samples:
    prompts:
      - a
      - {prompt: a, negative: b, seed: 1, size: [64, 72], steps: 2, guidance: 1.0, strength: 0.5}
    seeds: [0]
    size: 64
    sampler: ddim
    strength: 1.0
    steps: 1
    guidance: 1.0
    negative_prompt: b
    when: end
    clip: {source: models/clip, revision: main, allow_pickle: false}
  rating: {question: "Which?"}
limits: {attempt_hours: 1.0, max_hours: 1.0, stall_minutes: 1.0}
output: {destination: runs, storage: {region: here}, cache: cache}
"""
DATA = yaml.safe_load(FULL)
SCHEMA = manifest_schema()
WRONG_TYPES: dict[str, list[Any]] = {
    "string": [7, True, ["a"], {"a": 1}],
    "integer": ["x", 1.5, True, [1]],
    "number": ["x", True, [1.0], {"a": 1}],
    "boolean": ["yes", 1, [True]],
    "array": ["x", 7, {"a": 1}],
    "object": ["x", 7, [1]],
}
Step = str | int


def resolved(schema: dict[str, Any], value: Any) -> dict[str, Any]:
    """The schema that holds for this value, without references, null and the other members of a union."""
    if "$ref" in schema:
        return resolved(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], value)
    if "discriminator" in schema:
        tag = schema["discriminator"]["propertyName"]
        mapping = schema["discriminator"]["mapping"]
        found = resolved({"$ref": mapping[value[tag] if isinstance(value, dict) else value]}, value) | {"tag": tag}
        if all(tag in resolved({"$ref": each}, value).get("required", []) for each in mapping.values()):
            return found
        return found | {"required": []}  # without the tag it is of the member that needs none
    for option in schema.get("oneOf", []):  # parted by the type of the value
        found = resolved(option, value)
        if {"string": str, "object": dict, "integer": int, "array": list}[found["type"]] is type(value):
            return found
    options = [option for option in schema.get("anyOf", []) if option.get("type") != "null"]
    if isinstance(value, list):  # where a word may stand in a list's place
        options.sort(key=lambda option: option.get("type") != "array")
    if options:
        return resolved(options[0], value) | {"nullable": True}
    return schema


def is_nullable(schema: dict[str, Any]) -> bool:
    return any(option.get("type") == "null" for option in schema.get("anyOf", []))


def changed(path: tuple[Step, ...], value: Any) -> dict[str, Any]:
    data: Any = copy.deepcopy(DATA)
    node = data
    for step in path[:-1]:
        node = node[step]
    if value is KeyError:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return data  # type: ignore[no-any-return]


def dumped(data: dict[str, Any]) -> str:
    return yaml.dump(data, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)


def wrong(schema: dict[str, Any], value: Any, path: tuple[Step, ...]) -> Iterator[tuple[tuple[Step, ...], Any, str]]:
    """Each way to make what stands at `path` wrong: where, with what, and the path that the message must name."""
    found = resolved(schema, value)
    own, kind = dotted(path), found.get("type", "string")
    is_laid_over = "training" in path[2:]  # what a variant leaves out there is the study's, whose types are tried
    if path:
        bad = WRONG_TYPES[kind][: 1 if is_laid_over else None]
        if kind == "object" and "oneOf" in schema and "discriminator" not in schema:
            bad = [item for item in bad if item != "x"]  # a text is as right as a mapping
        if not is_nullable(schema):
            bad = [*bad, None]
        if "enum" in found or "const" in found:
            bad.append("no-such-choice")
        bad += [found["minimum"] - 1] if "minimum" in found else []
        bad += [found["maximum"] * 2 + 1] if "maximum" in found else []
        bad += [found["exclusiveMinimum"]] if "exclusiveMinimum" in found else []
        bad += [found["exclusiveMaximum"]] if "exclusiveMaximum" in found else []
        bad += [[]] if found.get("minItems") else []
        bad += [""] if found.get("minLength") else []
        bad += ["x" * (found["maxLength"] + 1)] if "maxLength" in found else []
        bad += [[copy.deepcopy(value[0]) for _ in range(found["maxItems"] + 1)]] if "maxItems" in found else []
        bad += [float("nan"), float("inf")] if kind == "number" and not is_laid_over else []
        yield from ((path, item, own) for item in bad)
    if kind == "object" and "properties" in found and value is not None:
        for key in [] if is_laid_over else found.get("required", []):
            yield (*path, key), KeyError, own if key == found.get("tag") else dotted((*path, key))
        typo = next(iter(value)) + "x"
        yield (*path, typo), 1, dotted((*path, typo))
        for key, item in value.items():
            if key != found.get("tag"):
                yield from wrong(found["properties"][key], item, (*path, key))
            else:
                yield (*path, key), "no-such-choice", own
                yield (*path, key), 7, own
    if kind == "array":
        for at, item in enumerate(value):
            yield from wrong(found["prefixItems"][at] if "prefixItems" in found else found["items"], item, (*path, at))


def dotted(path: tuple[Step, ...]) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


GENERATED = list(wrong(SCHEMA, DATA, ()))


def refusal(text: str | bytes, *sets: str) -> ManifestError:
    with pytest.raises(ManifestError) as caught:
        load_manifest(text, "m.yaml", sets)
    error = caught.value
    assert error.code == 40
    assert len(str(error)) < 60_000
    assert all(line.isprintable() for line in str(error).split("\n"))
    assert str(error).endswith("Mend the manifest; docs/manifest.md lists every key.")
    return error


def test_the_full_manifest_is_right_and_generates_hundreds_of_wrong_ones() -> None:
    manifest = load_manifest(FULL, "m.yaml")
    assert manifest.captioner is not None
    assert len(GENERATED) > 500


@pytest.mark.parametrize(
    ("path", "value", "expected"), GENERATED, ids=[f"{dotted(p)}={str(v)[:20]!a}" for p, v, _ in GENERATED]
)
def test_each_wrong_value_is_named_with_file_line_key_and_what_is_allowed(
    path: tuple[Step, ...], value: Any, expected: str
) -> None:
    text = dumped(changed(path, value))
    problems = [
        problem
        for problem in refusal(text).problems
        if problem.path.startswith((f"{expected}.", f"{expected}["))
        or problem.path == expected
        or expected.startswith("variants[")
    ]
    assert problems, expected
    problem = problems[0]
    assert str(problem).startswith(f"m.yaml:{problem.line}: {problem.path}: found ")
    assert problem.allowed
    line = text.split("\n")[(problem.line or 0) - 1]
    named = [step for step in path if isinstance(step, str)]
    assert any(f"{name}:" in line for name in named) or problem.line == 1 or line.lstrip().startswith("- ")
    if value == 1 and str(path[-1]).endswith("x"):
        assert problem.suggestion == str(path[-1])[:-1]


LAUGHS = "a: &a [lol]\n" + "".join(
    f"{c}: &{c} [{f'*{p}, ' * 9}]\n" for p, c in zip("abcdefghi", "bcdefghij", strict=True)
)
TEXTS: dict[str, tuple[str | bytes, str]] = {
    "laughs": (LAUGHS, "anchor or alias"),
    "self": ("a: &a [*a]", "anchor or alias"),
    "merge": (FULL + "<<: {a: 1}", "unknown key"),
    "merged alias": (FULL + "x: &x {a: 1}\ny: {<<: *x}", "anchor or alias"),
    "undefined alias": ("a: *b", "anchor or alias"),
    "python object": (f"a: !!python/object/apply:os.system ['touch {CANARY}']", "the tag"),
    "python name": ("a: !!python/name:os.system", "the tag"),
    "own tag": ("a: !mine 1", "the tag"),
    "binary": ("a: !!binary aGVsbG8=", "the tag"),
    "set": ("a: !!set {b, c}", "the tag"),
    "timestamp as name": (FULL.replace("name: full", "name: 2024-01-01 00:00"), "lower-case"),
    "duplicate": (FULL + "name: again\n", "a second time"),
    "nested duplicate": (FULL.replace("steps: 2\n", "steps: 2\n  steps: 3\n"), "a second time"),
    "too large": (b"#" * (2**20 + 1), "1 MiB"),
    "many unknown keys": ("\n".join(f"key{at}{'x' * 150}: 1" for at in range(4000)), " more\n"),
    "more keys than can be read": ("\n".join(f"k{at}: 1" for at in range(90_000)), "more than 10000 keys"),
    "many values": (f"a: [{'1,' * 500_000}]", "more than 10000 keys"),
    "many documents": ("---\na: 1\n" * 1000, "one document"),
    "open brackets": ("[" * 2**20, "more than 32 levels"),
    "open braces": ("{a: " * 2**18, "more than 32 levels"),
    "dashes": ("- " * 2**19, "more than 32 levels"),
    "question marks": ("? " * 2**19, "more than 32 levels"),
    "stairs": ("\n".join(" " * at + "a:" for at in range(1400)), "more than 32 levels"),
    "one long key": ("x" * 1000 + "y: 1\n" + "? " + "z" * 2**19 + "\n: 1\n", "unknown key"),
    "one long value": (FULL.replace("name: full", f"name: {'x' * 900_000}"), "lower-case"),
    "one long number": (FULL.replace("rank: 2, a", f"rank: {'9' * 100_000}, a"), "whole number"),
    "a large number": (FULL.replace("alpha: 2.0", f"alpha: {'9' * 399}"), "finite number"),
    "nan": (FULL.replace("alpha: 2.0", "alpha: .nan"), "finite number"),
    "infinity": (FULL.replace("alpha: 2.0", "alpha: -.inf"), "finite number"),
    "overflow": (FULL.replace("alpha: 2.0", "alpha: 1e999"), "finite number"),
    "octal": (FULL.replace("seeds: [1, 2]", "seeds: [0o9]"), "whole number"),
    "huge seed": (FULL.replace("seeds: [1, 2]", f"seeds: [{2**63}]"), "less than"),
    "escape in a value": (FULL.replace("name: full", r'name: "a\x1b[31m"'), "control character '\\x1b'"),
    "nul in a value": (FULL.replace("source: images", r'source: "a\0b"'), "control character '\\x00'"),
    "escape in a key": (FULL + '"a\\eb": 1\n', "control character '\\x1b'"),
    "raw escape": (FULL + "a: \x1b[31m\n", f"m.yaml:{len(FULL.splitlines()) + 1}: found unacceptable character #x001b"),
    "surrogate": (FULL.replace("name: full", r'name: "\ud800"'), "control character '\\ud800'"),
    "newline in a source": (FULL.replace("source: images", r'source: "a\nb"'), "one line"),
    "direction mark in a name": (FULL.replace("name: full", 'name: "a\u202eb"'), "\\u202e"),
    "markup in a name": (FULL.replace("name: full", 'name: "[red]a"'), "[red]a"),
    "a path as a name": (FULL.replace("name: full", "name: ../../etc"), "lower-case"),
    "a path as a variant": (FULL.replace("name: one", "name: ../one"), "lower-case"),
    "a path as a revision": (FULL.replace("revision: main, c", "revision: ../../x, c"), "a commit, tag or branch"),
    "credentials of the data": (FULL.replace("source: images", "source: s3://ID:SECRET@b/k"), "without credentials"),
    "credentials of the base": (FULL.replace("{source: models/sd", "{source: hf://u:SECRET@x/y"), "without cred"),
    "credentials of the store": (FULL.replace("http://localhost:1", "http://u:SECRET@h"), "without credentials"),
    "credentials of the output": (FULL.replace("destination: runs", "destination: s3://u:SECRET@b"), "without cred"),
    "not utf-8": (b"a: \xff\xfe", "not UTF-8"),
    "utf-16": (FULL.encode("utf-16"), "not UTF-8"),
    "zeros": (bytes(1000), "YAML"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not UTF-8"),
    "nothing": ("", "no single mapping"),
    "a comment": ("# name: x", "no single mapping"),
    "a list": ("- a", "no single mapping"),
    "a scalar": ("a", "no single mapping"),
    "json": ('{"apiVersion": 1}', "apiVersion"),
    "a key that is a list": ("[a]: 1", "a key that is not text"),
    "a key that is a number": ("1: 1", "unknown key"),
    "tabs": ("a:\n\tb: 1", ": found character '\\t' that cannot start any token; allowed: spaces, not tabs."),
    "open quote": ('a: "b', "YAML"),
    "open block": ("a: {b", "YAML"),
    "directive": ("%YAML 9.9\n---\na: 1", "YAML"),
    "reserved": ("a: @b", "YAML"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_texts_that_would_break_a_careless_reader_are_refused(name: str) -> None:
    text, phrase = TEXTS[name]
    message = str(refusal(text))
    assert phrase in message
    assert "SECRET" not in message
    assert len(message) < 20_000
    assert not CANARY.exists()


@pytest.mark.parametrize(
    "option",
    [
        "lora.rank=!!python/object:x 1",
        "a=&a b",
        "name=x\x1b",
        "lora=[[[",
        "output.cache=s3://a:SECRET@b",
        "name=\udcff",
        ".".join("a" * 5000) + "=1",
        "variants.²=3",
        "variants.٣=3",
        f"variants.{'1' * 5000}=3",
    ],
)
def test_options_are_read_as_strictly(option: str) -> None:
    message = str(refusal(FULL, option))
    assert "--set" in message
    assert "SECRET" not in message


@pytest.mark.parametrize(
    "name", ["python object", "laughs", "open brackets", "escape in a value", "many unknown keys", "not utf-8"]
)
def test_the_command_refuses_them_too(tmp_path: Path, name: str) -> None:
    text, phrase = TEXTS[name]
    path = tmp_path / "m\x1b[31m.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    command = [sys.executable, "-m", "job", "validate", "--offline", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 40
    assert done.stdout == ""
    assert phrase in done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr
    assert done.stderr.splitlines()[-1] == "Mend the manifest; docs/manifest.md lists every key."


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_value_anywhere_is_read_or_refused(data: st.DataObject) -> None:
    path, _, _ = data.draw(st.sampled_from(GENERATED))
    text = dumped(changed(path, data.draw(VALUES)))
    with contextlib.suppress(ManifestError):
        load_manifest(text, "m.yaml")
