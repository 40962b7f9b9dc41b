"""What `lora-job plan` says can be counted from the manifest, and follows what it depends on."""

import json
import math
import subprocess
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy import stats

from job import prospect
from job.cli.plan import render_plan
from job.manifest.load import load_manifest
from job.plan import Plan, make_plan
from lora_engine.config.adapter import LoraConfig, TextEncoderLoraConfig
from lora_engine.training import estimate
from miniature.architecture import SD_15, make_stable_diffusion
from tests.job.small_run import BLIP, VANILLA, arguments
from tests.lora_job import COLD, ROOT, lora_job


def plan(miniature: Path, tmp_path: Path, *lines: str) -> dict[str, Any]:
    done = lora_job("plan", "--json", *arguments(miniature, tmp_path, *lines))
    assert done.returncode == 0, done.stderr
    planned: dict[str, Any] = json.loads(done.stdout)
    return planned


def test_epochs_of_images_that_cannot_be_counted_are_no_number(miniature: Path, tmp_path: Path) -> None:
    epochs = ("training.steps=null", "training.epochs=3")
    counted = lora_job("plan", *arguments(miniature, tmp_path, *epochs)).stdout
    assert "14 steps x 2 images, 3.1 epochs, 7 checkpoints each" in counted  # nine of twelve images
    unseen = lora_job("plan", *arguments(miniature, tmp_path, *epochs, f"dataset.source={tmp_path / 'images.zip'}"))
    assert unseen.returncode == 0, unseen.stderr
    assert "unknown steps x 2 images, unknown checkpoints each" in unseen.stdout
    unknown = [line[:18].strip() for line in unseen.stdout.splitlines() if line[18:] == "unknown until downloaded"]
    assert {"images", "files", "checkpoints", "training alone"} <= {*unknown}


def test_images_files_and_bytes(miniature: Path, tmp_path: Path) -> None:
    planned = plan(miniature, tmp_path, "preprocess.resolution=128", "training.batch_size=3", "lora.rank=4")
    assert planned["images"] == 12
    assert planned["scratch_bytes"] == 12 * 128 * 128 * 3
    assert planned["packs"][0]["checkpoints"] == 2
    weights = 2 * 2 * estimate.parameters(LoraConfig(rank=4))  # variants, checkpoints
    assert planned["checkpoint_bytes"] == weights * 20  # the state, and two exported files
    narrow = "{name: narrow, captions: {strategy: blip}, lora: {rank: 1}}"
    planned = plan(miniature, tmp_path, "lora.rank=4", f"variants=[{VANILLA}, {narrow}]")
    assert planned["checkpoint_bytes"] == weights // 8 * (4 + 1) * 20


def test_what_a_variant_does_with_blocks_and_the_text_encoder_is_one_setting_each(
    miniature: Path, tmp_path: Path
) -> None:
    other = (
        "{name: other, captions: {strategy: blip}, lora: {text_encoder: {rank: 2}, patterns: {mid_block: {rank: 4}}}}"
    )
    planned = plan(miniature, tmp_path, f"variants=[{VANILLA}, {other}]")
    assert [each["settings"] for each in planned["variants"]] == [
        {"lora.patterns": {}, "lora.text_encoder": None},
        {"lora.patterns": {"mid_block": {"rank": 4}}, "lora.text_encoder": {"rank": 2}},
    ]
    text = lora_job("plan", *arguments(miniature, tmp_path, f"variants=[{VANILLA}, {other}]")).stdout
    assert 'other: lora.text_encoder {"rank": 2}, lora.patterns {"mid_block": {"rank": 4}}' in text


def test_memory_and_time_follow_layers_and_text_encoder(images: str) -> None:
    def planned(lora: str) -> dict[str, Any]:
        return seeds_and_variants(1, BLIPS[:1], images, f"lora={lora}", "training.steps=100000")

    plain, with_text, full = (planned(lora) for lora in ("{}", "{text_encoder: {}}", "{target_modules: full}"))
    more = with_text["memory_bytes"] - plain["memory_bytes"]
    assert more > 2 * estimate.TEXT_ENCODER_PARAMETERS  # in half precision
    assert full["memory_bytes"] > plain["memory_bytes"]
    lora = LoraConfig(text_encoder=TextEncoderLoraConfig())
    assert with_text["checkpoint_bytes"] == pytest.approx(
        plain["checkpoint_bytes"] * estimate.parameters(lora) / estimate.parameters(LoraConfig()), abs=1
    )
    assert with_text["training_hours"]["T4"] > plain["training_hours"]["T4"]


def test_memory_follows_resolution_batch_and_precision(miniature: Path, tmp_path: Path) -> None:
    def memory(*lines: str) -> float:
        base = ("preprocess.resolution=384", "training.batch_size=1", "training.precision=fp32")
        return float(plan(miniature, tmp_path, *base, *lines)["memory_bytes"])

    one = memory()
    image = 1.15 * estimate.kept_bytes(384, 4)
    assert memory("training.batch_size=3") - one == pytest.approx(2 * 2 * image, rel=1e-6)  # of two variants
    larger = 1.15 * estimate.kept_bytes(768, 4)
    assert 3.9 < larger / image < 4  # not all of it is of pixels
    assert memory("preprocess.resolution=768") - one == pytest.approx(2 * (larger - image), rel=1e-6)
    halves = one - memory("training.precision=bf16")
    assert halves == pytest.approx(2 * estimate.UNET_PARAMETERS + 2 * image / 2, rel=1e-6)


@pytest.mark.slow
def test_a_run_of_the_real_size_takes_what_was_planned(miniature: Path, tmp_path: Path) -> None:
    """SD 1.5 with random weights on the CPU: 4.3 GB and two minutes."""
    make_stable_diffusion(tmp_path / "sd", sizes=SD_15, dtype=torch.float16)
    others = ", ".join(f"{{name: {name}, captions: {{strategy: constant, text: {name}}}}}" for name in ("ink", "line"))
    lines = {
        "base_model.source": tmp_path / "sd",
        "variants": f"[{VANILLA}, {others}]",
        "preprocess.resolution": 128,
        "training.steps": 2,
        "training.batch_size": 1,
        "training.precision": "fp32",
        "evaluation.samples": "null",
        "evaluation.timesteps": 1,
        "evaluation.final_timesteps": 1,
        "dataset.validation_min": 1,
    }
    command = arguments(miniature, tmp_path, *(f"{key}={value}" for key, value in lines.items()))
    planned = json.loads(lora_job("plan", "--json", *command).stdout)["memory_bytes"]
    done = subprocess.run([COLD, "run", *command], capture_output=True, text=True, check=True, cwd=tmp_path)
    said = [json.loads(line) for line in done.stderr.splitlines()]
    training = next(row for row in said if row["event"] == "memory of training")
    print(training)
    assert training["planned_mib"] == pytest.approx(planned / 2**20, abs=0.1)
    assert training["measured_mib"] == pytest.approx(planned / 2**20, rel=0.1)
    assert not [row for row in said if "lora-job plan says" in row["event"]]


def seeds_and_variants(seeds: int, captions: list[str], *lines: str) -> dict[str, Any]:
    """The plan of `manifests/tattoo-captions.yaml` with so many seeds, and a variant of each of these captions."""
    variants = ", ".join(f"{{name: v{at}, captions: {text}}}" for at, text in enumerate(captions))
    values = (f"variants=[{variants}]", f"seeds={list(range(seeds))}", *lines)
    text = (ROOT / "manifests" / "tattoo-captions.yaml").read_text()
    return make_plan(load_manifest(text, "tattoo-captions.yaml", values)).as_dict()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The setting of a dataset of 2000 files that are named like images, 100 of which are held out."""
    folder = tmp_path_factory.mktemp("two-thousand")
    for number in range(2000):
        (folder / f"{number}.png").touch()
    return f"dataset.source={folder}"


BLIPS = [f"{{strategy: blip, style_hints: hint {at}}}" for at in range(12)]


@pytest.mark.parametrize("variants", [1, 3, 8, 12])
@pytest.mark.parametrize("seeds", [1, 3])
def test_scoring_costs_at_most_a_quarter_of_training(images: str, variants: int, seeds: int) -> None:
    """Every caption set is another and can be shuffled, which is the dearest study. Beyond eight, with_first."""
    planned = seeds_and_variants(seeds, BLIPS[:variants], images)["comparison"]
    curve, final = 4 * 100, 16 * 100
    partners = [variants - 1] * variants if variants <= 8 else [variants - 1, *[1] * (variants - 1)]
    base = variants * final + (1 + variants) * curve
    # On the way nine times; at the end its own, its partners', the empty prompt's and the shuffled ones of one set,
    # which has to be shown as it is, too, where it is no partner's.
    adapters = sum(9 * curve + final + (others + 2) * curve for others in partners)
    extra = (variants - 2) * curve if variants > 8 else 0
    training = 3 * 1000 * 16 * variants * seeds
    assert base + seeds * adapters <= planned["scored"] <= base + seeds * (adapters + extra)
    assert planned["share"] == pytest.approx(planned["scored"] / training)
    assert planned["share"] <= 0.25


def test_captions_that_are_equal_are_counted_once(images: str) -> None:
    constant = "{strategy: constant, text: a tattoo}"
    mix = f"{{strategy: mix, parts: [{{captions: {constant}}}, {{captions: {{strategy: blip}}}}]}}"
    one = seeds_and_variants(1, [constant], images)["comparison"]["scored"]
    same = seeds_and_variants(1, [constant, constant], images)["comparison"]["scored"]
    curve, final = 4 * 100, 16 * 100
    assert one == (final + curve) + (9 * curve + final + curve)
    assert same - one == 9 * curve + final + curve
    mixed = seeds_and_variants(1, [constant, mix], images)["comparison"]["scored"]
    base = 2 * final + 2 * curve  # the text, the captioner's; the empty prompt, the captioner's shuffled
    first = 9 * curve + final + 3 * curve
    second = 2 * 9 * curve + 2 * final + 2 * curve
    assert mixed == base + first + second


def test_pairs_are_named(images: str) -> None:
    def pairs(variants: int, *lines: str) -> list[str]:
        return list(seeds_and_variants(1, BLIPS[:variants], images, *lines)["comparison"]["pairs"])

    assert pairs(3) == ["v0 - v1", "v0 - v2", "v1 - v2"]
    assert len(pairs(8)) == 28
    assert pairs(9) == [f"v0 - v{at}" for at in range(1, 9)]
    assert len(pairs(9, "evaluation.pairs=all")) == 36
    assert pairs(3, "evaluation.pairs=with_first") == ["v0 - v1", "v0 - v2"]
    assert pairs(3, "evaluation.pairs=[[v2, v0]]") == ["v2 - v0"]
    assert pairs(1) == []


def test_the_smallest_effect_follows_images_seeds_and_pairs(images: str) -> None:
    """Against its definition: what each of images and seeds would need by itself, weighted by how much they vary."""

    def found(seeds: int, variants: int, *lines: str) -> float:
        comparison = seeds_and_variants(seeds, BLIPS[:variants], images, *lines)["comparison"]
        assert isinstance(comparison["smallest_effect"], float)
        return comparison["smallest_effect"]

    def expected(seeds: int, rows: int, images: int) -> float:
        parts = [(prospect.IMAGE_SPREAD**2 / images, images - 1)]
        if seeds >= 3:
            parts.append((prospect.SEED_SPREAD**2 / seeds, seeds - 1))
        reach = sum(variance * times(rows, freedom) for variance, freedom in parts)
        return float(reach / math.sqrt(sum(variance for variance, _ in parts)))

    def times(rows: int, freedom: int) -> float:
        quantile = float(stats.t.ppf(1 - 0.025 / rows, freedom))
        spread = math.sqrt(1 + quantile**2 / (2 * freedom))
        return quantile * (1 - 1 / (4 * freedom)) + float(stats.norm.ppf(0.8)) * spread

    assert found(1, 2) == pytest.approx(expected(1, 1, 100))
    assert found(2, 3) == pytest.approx(expected(2, 6, 100))
    assert found(3, 2) == pytest.approx(expected(3, 1, 100))
    assert found(5, 4) == pytest.approx(expected(5, 6, 100))
    assert found(1, 3, "dataset.validation_fraction=0.01") == pytest.approx(expected(1, 3, 20))


def test_more_seeds_are_advised_where_three_reach_far(images: str) -> None:
    def advice(seeds: int, variants: int) -> list[str]:
        warnings = seeds_and_variants(seeds, BLIPS[:variants], images)["warnings"]
        return [warning for warning in warnings if "seeds" in warning]

    (said,) = advice(3, 4)
    assert "reaches 10.9 standard errors over seeds, with 5 seeds 4.9" in said
    assert advice(5, 4) == advice(3, 3) == advice(1, 4) == []


@pytest.mark.parametrize(
    ("lora", "expected"),
    [
        ("{rank: 32}", ["lora.alpha 8 at lora.rank 32 scales the update by 0.25; an alpha of 32 scales it by 1"]),
        ("{rank: 32, alpha: 8}", []),
        (
            "{target_modules: full, conv_rank: 4, patterns: {mid_block: {rank: 16}}, text_encoder: {alpha: 4}}",
            [
                "lora.conv_alpha 8 at lora.conv_rank 4 scales the update by 2; an alpha of 4 scales it by 1",
                "lora.patterns.mid_block.alpha 8 at lora.patterns.mid_block.rank 16 scales the update by 0.5; "
                "an alpha of 16 scales it by 1",
            ],
        ),
        (
            "{text_encoder: {rank: 16}}",
            [
                "lora.text_encoder.alpha 8 at lora.text_encoder.rank 16 scales the update by 0.5; "
                "an alpha of 16 scales it by 1"
            ],
        ),
        ("{rank: 8}", []),
        ("{rank: 16, rank_stabilized: true}", []),
        ("{target_modules: full, conv_rank: 4, rank_stabilized: true}", []),
        ("{target_modules: full, conv_rank: 4, alpha: 4}", []),
    ],
)
def test_an_alpha_left_behind_is_pointed_out(images: str, lora: str, expected: list[str]) -> None:
    warnings = seeds_and_variants(1, BLIPS[:1], images, f"lora={lora}")["warnings"]
    assert [warning for warning in warnings if "alpha" in warning] == expected


def of_one_text(*variants: str, **sets: str) -> Plan:
    """The plan of variants that share their captions, in short keys: `a: {lora: {rank: 4}}`."""
    captions = "captions: {strategy: constant, text: ink}"
    named = ", ".join(
        f"{{name: {name}, {captions}{f', {rest}' if rest else ''}}}" for name, rest in map(_split, variants)
    )
    lines = [f"variants=[{named}]", *(f"{key.replace('__', '.')}={value}" for key, value in sets.items())]
    text = (ROOT / "manifests" / "quickstart.yaml").read_text()
    return make_plan(load_manifest(text, "quickstart.yaml", lines))


def _split(variant: str) -> tuple[str, str]:
    name, _, rest = variant.partition(" ")
    return name, rest


def said_of(planned: Plan, label: str) -> list[str]:
    """What stands beside a label of the plan as a person sees it, by line."""
    lines = render_plan(planned).splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith(label))
    end = next(at for at in range(start + 1, len(lines) + 1) if at == len(lines) or lines[at][0] != " ")
    assert all(len(line) <= 120 for line in lines[start:end])
    return [line[18:] for line in lines[start:end]]


def test_a_variant_is_shown_with_what_it_sets_alone() -> None:
    planned = of_one_text(
        "usual",
        "huber training: {loss: {name: huber}}",
        "found training: {optimizer: {name: prodigy}}",
        "wide lora: {rank: 16, alpha: 16}, training: {schedule: {warmup_steps: 10}}",
        "swept sweep: {lora.rank: [8, 4], training.ema: [null, {decay: 0.9}]}",
    )
    assert said_of(planned, "variants (8)") == [
        "usual: as lora and training are",
        'huber: training.loss.name "huber"',
        'found: training.optimizer.name "prodigy", training.optimizer.learning_rate 1.0',
        "wide: lora.rank 16, lora.alpha 16.0",
        "swept-r8-ema-none: lora.rank 8, training.ema null",
        "swept-r8-ema-decay0_9: lora.rank 8, training.ema.decay 0.9",
        "swept-r4-ema-none: lora.rank 4, training.ema null",
        "swept-r4-ema-decay0_9: lora.rank 4, training.ema.decay 0.9",
    ]
    assert planned.variants[2].settings["training.optimizer.d0"] == 1e-6  # JSON has all that is unlike
    assert said_of(of_one_text("a", "b"), "variants (2)") == ["a", "b"]
    found = of_one_text("a", "b lora: {text_encoder: {}, patterns: {mid_block: {rank: 4}}}, training: {ema: {}}")
    assert said_of(found, "variants (2)") == [
        "a: as lora and training are",
        'b: lora.text_encoder {}, lora.patterns {"mid_block": {"rank": 4}}, training.ema.decay 0.999',
    ]


def test_many_pairs_are_told_by_their_rule() -> None:
    assert said_of(of_one_text(*"abcd"), "compared") == ["a - b, a - c, a - d, b - c, b - d, c - d"]
    assert said_of(of_one_text(*"abcde"), "compared") == ["each of the 5 variants with each, 10 pairs"]
    assert said_of(of_one_text(*"abcdefghi"), "compared") == ["each variant with a, 8 pairs"]
    asked = [["a", name] for name in "bcdefgh"]
    assert said_of(of_one_text(*"abcdefgh", evaluation__pairs=json.dumps(asked)), "compared") == [
        "each variant with a, 7 pairs"
    ]
    asked[0] = ["b", "c"]
    found = said_of(of_one_text(*"abcdefgh", evaluation__pairs=json.dumps(asked)), "compared")
    assert ", ".join(found).startswith("b - c, a - c, a - d")


def test_adapters_that_end_at_unlike_steps_are_told_from_the_shortest_to_the_longest() -> None:
    planned = of_one_text("a", "b training: {steps: 150}", "c training: {steps: 50}")
    assert said_of(planned, "pack 0 (3)")[-1] == (
        "50 to 200 steps x 4 images, 2.0 to 8.0 epochs, 1 to 4 checkpoints each"  # at 50, 100, 150 and 200
    )
    alike = of_one_text("a", "b")
    assert said_of(alike, "pack 0 (2)")[-1] == "200 steps x 4 images, 8.0 epochs, 2 checkpoints each"


def test_where_one_adapter_waits_for_its_images_to_be_counted_nothing_rests_on_its_steps(tmp_path: Path) -> None:
    unseen = {"dataset__source": str(tmp_path / "images.zip")}
    planned = of_one_text("a", "b training: {epochs: 3}", **unseen)
    assert said_of(planned, "pack 0 (2)")[-1] == "unknown steps x 4 images, unknown checkpoints each"
    assert said_of(planned, "files") == said_of(planned, "training alone") == ["unknown until downloaded"]


@pytest.mark.parametrize(
    ("variants", "expected"),
    [
        (
            ("a", "b lora: {rank: 16}"),
            ["lora.alpha 8 scales updates by 1 at rank 8, 0.5 at rank 16, so that not ranks alone are compared; *"],
        ),
        (("a", "b lora: {rank: 16, alpha: 16}"), []),
        (("a lora: {rank_stabilized: true}", "b lora: {rank: 16, rank_stabilized: true}"), []),
        (
            ("a", "b lora: {rank: 16, text_encoder: {rank: 8}, init_from: s3://b/it.safetensors}"),
            [],
        ),  # a file says alphas
        (
            ("a", "b lora: {rank: 16, text_encoder: {rank: 4}}"),
            ["lora.alpha 8 scales updates by 1 at rank 8, 0.5 at rank 16, *", "lora.text_encoder.alpha 8 at * by 2; *"],
        ),
        (
            ("a", "b training: {steps: 10}", "c training: {steps: 10}"),
            ["b, c: a warm-up of 10 updates is not over when all 10 steps are done"],
        ),
        (("a training: {steps: 11}",), []),
        (
            ("a", "b training: {optimizer: {name: schedule_free_adamw}}"),
            ["b: schedule_free_adamw averages in place of a rate that falls; *"],
        ),
        (
            (
                "a training: {optimizer: {name: schedule_free_adamw}, schedule: {name: constant, warmup_steps: 3}}",
                "b training: {epochs: 1}",
            ),
            [],
        ),
    ],
)
def test_settings_that_can_hardly_be_meant_are_pointed_out(variants: tuple[str, ...], expected: list[str]) -> None:
    found = of_one_text(*variants).warnings
    assert len(found) == len(expected), found
    assert all(fnmatch(one, pattern) for one, pattern in zip(found, expected, strict=True)), found


CONSTANT, PLAIN, HINTS = (
    "{strategy: constant, text: a tattoo}",
    "{strategy: blip}",
    "{strategy: blip, style_hints: a hint}",
)


def pictures(images: str, samples: str, *lines: str, seeds: int = 1) -> dict[str, Any]:
    """The plan for a constant text, plain captions and hints: 10 checkpoints each, of which 9 are on the way."""
    return seeds_and_variants(seeds, [CONSTANT, PLAIN, HINTS], images, f"evaluation.samples={samples}", *lines)


def test_each_text_is_drawn_once_by_the_base_and_once_by_every_checkpoint(images: str) -> None:
    """Bare and as trained: two texts of a prompt but for plain captions."""
    base, checkpoint = 1 + 2, 2 + 1 + 2
    two_prompts = "{prompts: [a, b], seeds: [0, 1, 2]}"
    assert pictures(images, two_prompts)["pictures"] == 6 * (base + 10 * checkpoint)
    assert pictures(images, two_prompts, seeds=3)["pictures"] == 6 * (base + 3 * 10 * checkpoint)
    # packs of their own draw with the base model for themselves
    split = pictures(images, two_prompts, "split_packs_by=[variant]")["pictures"]
    assert split == 6 * (2 + 1 + 2 + 10 * checkpoint)
    at_end = "{prompts: [a, {prompt: b, seed: 7}], seeds: [0, 1, 2], when: end}"
    assert pictures(images, at_end)["pictures"] == (3 + 1) * checkpoint
    equal = "variants.v0.prompt_template='{prompt}'", "variants.v2.prompt_template='{prompt}'"
    assert pictures(images, two_prompts, *equal)["pictures"] == 6 * (1 + 10 * 3)
    alike = "variants.v0.prompt_template='{prompt}!'", "variants.v2.prompt_template='{prompt}!'"
    assert pictures(images, two_prompts, *alike)["pictures"] == 6 * (2 + 10 * checkpoint)


def test_of_prompts_that_are_left_out_24_are_drawn_at_the_end_and_4_on_the_way(images: str) -> None:
    base, checkpoint = 1 + 2, 2 + 1 + 2
    assert pictures(images, "{}")["pictures"] == 24 * (base + checkpoint) + 4 * 9 * checkpoint
    assert pictures(images, "{when: end, seeds: [5, 6]}")["pictures"] == 48 * checkpoint
    few = "dataset.validation_fraction=0.001", "dataset.validation_min=5"  # held-out images, so that it takes 5 seeds
    assert pictures(images, "{when: end}", *few)["pictures"] == 25 * checkpoint


def test_hours_of_pictures_follow_their_steps_guidance_and_size(images: str) -> None:
    def hours(samples: str) -> float:
        """Operations of a picture, by how long they and training take on the slowest device."""
        planned = pictures(images, f"{{seeds: {list(range(30))}, when: end, {samples}}}")
        device, training = max(planned["training_hours"].items(), key=lambda item: float(item[1]))
        work = 3 * 1000 * 16 * estimate.image_flops(384)
        return float(planned["picture_hours"][device] / training * work / planned["pictures"])

    def expected(width: int, height: int, passes: int) -> float:
        return estimate.picture_flops(width, height, passes)

    assert hours("prompts: [a], steps: 900, guidance: 7") == pytest.approx(expected(384, 384, 1800), rel=0.01)
    assert hours("prompts: [a], steps: 900, guidance: 1") == pytest.approx(expected(384, 384, 900), rel=0.01)
    assert hours("prompts: [a], size: [512, 768], steps: 900") == pytest.approx(expected(512, 768, 1800), rel=0.01)
    mixed = "prompts: [a, {prompt: b, size: 512, steps: 800, guidance: 1}], steps: 900, guidance: 7"
    mean = (expected(384, 384, 1800) + expected(512, 512, 800)) / 2
    assert hours(mixed) == pytest.approx(mean, rel=0.01)


def test_the_plan_says_in_words_how_many_pictures_and_how_long(miniature: Path, tmp_path: Path) -> None:
    samples = "evaluation.samples={prompts: [a heart, a sun], steps: 50, size: 512}"
    said = lora_job("plan", *arguments(miniature, tmp_path, samples)).stdout
    (line,) = [line for line in said.splitlines() if line.startswith("samples")]
    planned = plan(miniature, tmp_path, samples)
    assert f"about {planned['pictures']} pictures" in line
    for device, hours in planned["picture_hours"].items():
        assert f"{device} {hours:g} h" in line
    none = lora_job("plan", *arguments(miniature, tmp_path, "evaluation.samples=null")).stdout
    assert [line.split() for line in none.splitlines() if line.startswith("samples")] == [["samples", "none"]]


def test_the_plan_says_on_how_many_prompts_any_two_can_be_told_apart(images: str) -> None:
    def rating(samples: str, *lines: str, seeds: int = 1) -> dict[str, int] | None:
        found: dict[str, int] | None = pictures(images, samples, *lines, seeds=seeds)["rating"]
        return found

    groups = (
        4 * 3 * 4
    )  # of three of the four contenders, of each prompt and seed; and one in eight twice, one with twins
    assert rating("{prompts: [a, b, c], seeds: [0, 1, 2, 3]}") == {
        "trials": groups + 2 * groups // 8,
        "fewest_prompts": 3,
        "is_enough": False,
    }
    twelve = rating(f"{{prompts: {list('abcdefghijkl')}}}")
    assert twelve is not None
    assert twelve["is_enough"]
    assert 6 <= twelve["fewest_prompts"] <= 12
    alone = rating("{prompts: [a], when: end}", "variants=[{name: one, captions: {strategy: existing}}]")
    assert alone is None, "nothing is beside the only adapter, since the base model draws nothing"
    assert rating("null") is None


def test_too_few_prompts_for_a_blind_rating_are_said(miniature: Path, tmp_path: Path) -> None:
    def said(samples: str) -> str:
        text = lora_job("plan", *arguments(miniature, tmp_path, f"evaluation.samples={samples}")).stdout
        return " ".join(text[text.index("blind rating") :].split()) if "blind rating" in text else ""

    assert "on about 2 prompts or more, which may be too few to tell them apart: 6 are needed" in said(
        "{prompts: [a, b]}"
    )
    enough = said(f"{{prompts: {list('abcdefghijklmnopqrst')}}}")
    assert "any two stand beside each other on about" in enough
    assert "too few" not in enough
    assert not said("null")


def test_hints_of_any_length_are_planned(images: str) -> None:
    """Texts are counted, and not their tokens, which only the base model's files can tell."""
    long = f"variants.v2.captions.style_hints='{', '.join(['a clean line tattoo'] * 9)}'"
    assert pictures(images, "{prompts: [a]}", long)["pictures"] == 3 + 10 * 5


def test_what_is_planned_to_be_scored_is_what_a_run_scores(miniature: Path, tmp_path: Path) -> None:
    parts = "[{captions: {strategy: blip}}, {captions: {strategy: constant, text: ink}}]"
    mix = f"{{name: mix, captions: {{strategy: mix, caption_dropout: 0.2, parts: {parts}}}}}"
    lines = (f"variants=[{VANILLA}, {BLIP}, {mix}]", "evaluation.samples=null", "training.steps=3")
    planned = plan(miniature, tmp_path, *lines)
    done = lora_job("run", *arguments(miniature, tmp_path, *lines), "--workdir", tmp_path / "w")
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "small"
    held_out = json.loads((run / "report/comparison.json").read_text())["data"]["validation"]
    arrays = [load_file(path)["losses"] for path in sorted(run.rglob("validation/step-*.safetensors"))]
    base = [load_file(path)["losses"] for path in sorted(run.rglob("validation/step-000000.safetensors"))]
    all_have_the_same = 2 * np.isfinite(base[0]).sum()
    scored = sum(np.isfinite(array).sum() for array in arrays) - all_have_the_same
    assert planned["comparison"]["scored"] * held_out == scored * planned["validation_images"]
