"""The samples of a study: bare and as trained, of prompts that are given or chosen, and never drawn over."""

import hashlib
import json
import shutil
import signal
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.numpy import load_file

from lora_engine import miniature as miniature_data
from lora_engine.adapters import formats, lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.evaluation.line_art import measure
from lora_engine.evaluation.pictures import MEASURES
from lora_engine.evaluation.sampler import Request, Sampler
from lora_engine.models import stable_diffusion
from lora_engine.models.clip import load_clip
from lora_engine.models.files import LocalModel
from lora_engine.records import SampleSetting
from tests.job.report.pictures_by_hand import NO_CLIP, OF_CLIP, assert_pictures_hold
from tests.job.small_run import arguments, drawings
from tests.lora_job import lora_job, start, stop_at

NEAR = 2  # of 255, of pictures that differ by how sums are rounded
STUDY = ("--workdir", "work")  # of a relative destination, so that a copy is the same run where it is continued

# A constant text; captions that came with the images, prompted by a template; the same as they are.
VANILLA = "{name: vanilla, captions: {strategy: constant, text: a drawing}}"
TRIGGERED = (
    "{name: triggered, captions: {strategy: existing, trigger: xyz, style_hints: ink}, "
    "prompt_template: '{trigger} {prompt}'}"
)
PLAIN = "{name: plain, captions: {strategy: existing}}"
TRAINED = {
    "vanilla": "a drawing, {}".format,
    "triggered": "xyz {}".format,
    "plain": "{}".format,
}
PROMPTS = (
    "[a heart, {prompt: a key, size: [96, 64], seed: 7, negative: a blur}, {prompt: a heart, strength: 0.0}, "
    "{prompt: a sun, size: 96, strength: 0.5, steps: 1, guidance: 1}]"
)
BARE = ["a heart", "a key", "a heart", "a sun"]
DRAWN = [(0, 0), (0, 3), (1, 7), (2, 0), (2, 3), (3, 0), (3, 3)]  # place of a prompt, and seed
SETTINGS = [
    SampleSetting(64, 64, 2, 3.0, "", 1.0),
    SampleSetting(96, 64, 2, 3.0, "a blur", 1.0),
    SampleSetting(64, 64, 2, 3.0, "", 0.0),
    SampleSetting(96, 96, 1, 1.0, "", 0.5),
]
GIVEN = (
    f"variants=[{VANILLA}, {TRIGGERED}, {PLAIN}]",
    "captioner=null",
    "training.steps=2",
    f"evaluation.samples={{prompts: {PROMPTS}, seeds: [0, 3], steps: 2, guidance: 3}}",
    "output.destination=runs",
)
OTHER = (
    "evaluation.samples={prompts: [a moon, a cup, {prompt: a moon, size: 96}], steps: 1, guidance: 1, "
    "clip: {source: 'miniature://clip'}}"
)
ANOTHER_TEMPLATE = GIVEN[0].replace("'{trigger} {prompt}'", "'{prompt} by {trigger}'")


class Run:
    """A finished run below a folder, and what its command said."""

    def __init__(self, folder: Path, said: str) -> None:
        self.root, self.said = folder / "runs" / "small", said

    @cached_property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.root / "report" / "comparison.json").read_text())
        return found

    def folder(self, variant: str, step: int, seed: int = 1337) -> Path:
        return self.root / "variants" / variant / f"seed-{seed}" / "samples" / f"step-{step:06d}"

    def index(self, variant: str, step: int, seed: int = 1337) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder(variant, step, seed) / "samples.json").read_text())
        return found


def study(miniature: Path, folder: Path, *lines: str) -> "CompletedProcess[str]":
    return lora_job("run", *arguments(miniature, folder, *lines), *STUDY, cwd=folder)


def run_study(miniature: Path, folder: Path, *lines: str) -> Run:
    done = study(miniature, folder, *lines)
    assert done.returncode == 0, done.stderr
    return Run(folder, done.stderr)


def drawn_by(said: str) -> int:
    """How many pictures a command drew, as its log says."""
    rows = [json.loads(line) for line in said.splitlines()]
    return sum(row["step"] for row in rows if row["event"] == "stage ended" and row["stage"] == "sample")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def given(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with prompts that have settings of their own."""
    return run_study(miniature, tmp_path_factory.mktemp("given"), *GIVEN)


@pytest.fixture
def copied(given: Run, tmp_path: Path) -> Path:
    """A folder with a copy of that run and its images."""
    folder = given.root.parents[1]
    shutil.copytree(folder / "runs", tmp_path / "runs")
    shutil.copytree(folder / "drawings", tmp_path / "drawings")
    return tmp_path


# Prompts that are given.


def test_every_prompt_is_drawn_bare_and_as_trained_and_once_where_that_is_one_text(given: Run) -> None:
    for variant, as_trained in TRAINED.items():
        for step in (0, 2):
            index, folder = given.index(variant, step), given.folder(variant, step)
            assert index["settings"]["prompts"] == BARE
            assert index["settings"]["as_trained"] == [as_trained(prompt) for prompt in BARE]
            assert index["settings"]["settings"] == [asdict(setting) for setting in SETTINGS]
            ways = ["both"] if variant == "plain" else ["bare", "as_trained"]
            found = [(row["prompt"], row["seed"], row["prompting"]) for row in index["images"]]
            assert found == [(*drawn, way) for drawn in DRAWN for way in ways]
            names = {
                f"prompt-{prompt:02d}-seed-{seed}{'-as-trained' if way == 'as_trained' else ''}.png"
                for prompt, seed, way in found
            }
            assert {path.name for path in folder.iterdir()} == names | {"samples.json"}
            for row in index["images"]:
                data = (folder / row["file"]).read_bytes()
                assert row["sha256"] == hashlib.sha256(data).hexdigest()
                with Image.open(folder / row["file"]) as picture:
                    assert picture.size == (SETTINGS[row["prompt"]].width, SETTINGS[row["prompt"]].height)
                    assert row["line_art"] == pytest.approx(asdict(measure(picture)))
                assert row["clip_cosines"] is None
                assert row["likeness"]
            assert index["embeddings_sha256"] is None


def test_the_base_model_draws_a_text_once_for_all_adapters(given: Run, miniature: Path) -> None:
    """They all have the same picture then; and all that is drawn are as many as the plan says."""
    pictures: dict[tuple[str, int, int], set[str]] = {}
    for variant, as_trained in TRAINED.items():
        for row in given.index(variant, 0)["images"]:
            prompt = BARE[row["prompt"]]
            text = as_trained(prompt) if row["prompting"] == "as_trained" else prompt
            pictures.setdefault((text, row["prompt"], row["seed"]), set()).add(row["sha256"])
    assert len(pictures) == 3 * len(DRAWN)
    assert all(len(hashes) == 1 for hashes in pictures.values())
    adapters = (2 + 2 + 1) * len(DRAWN)
    assert drawn_by(given.said) == len(pictures) + adapters
    planned = lora_job(
        "plan", "--json", *arguments(miniature, given.root.parents[1], *GIVEN), cwd=given.root.parents[1]
    )
    assert json.loads(planned.stdout)["pictures"] == drawn_by(given.said)


def test_what_the_index_says_gives_the_picture_with_the_adapters_weights(given: Run, miniature: Path) -> None:
    """Both texts of a prompt with the same seed, by the engine alone."""
    unet = stable_diffusion.load_unet(LocalModel(miniature / "sd"), torch.float32)
    lora.inject(unet, [("triggered", 0)], LoraConfig(rank=8, alpha=8))
    checkpoint = given.root / "variants/triggered/seed-1337/checkpoints/step-000002/pytorch_lora_weights.safetensors"
    lora.load(unet, "triggered", formats.read_adapter(checkpoint))
    index = given.index("triggered", 2)
    rows, settings = index["images"], index["settings"]
    texts = [settings["prompts" if row["prompting"] == "bare" else "as_trained"][row["prompt"]] for row in rows]
    requests = [
        Request({"triggered": text}, row["seed"], SampleSetting(**settings["settings"][row["prompt"]]))
        for text, row in zip(texts, rows, strict=True)
    ]
    sampler = Sampler(LocalModel(miniature / "sd"), unet, {*texts, "", "a blur"}, 16, torch.device("cpu"))
    for sample in (one for at_once in sampler.generate(requests, lambda: None) for one in at_once):
        stored = pixels(given.folder("triggered", 2) / rows[sample.request]["file"])
        assert sample.image is not None
        assert np.abs(np.asarray(sample.image, np.int16) - stored).max() <= NEAR


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture, np.int16)


def test_an_adapter_of_strength_0_draws_as_the_base_model(given: Run) -> None:
    for variant in TRAINED:
        for row in given.index(variant, 2)["images"]:
            base, adapted = (pixels(given.folder(variant, step) / row["file"]) for step in (0, 2))
            apart = np.abs(base - adapted).max()
            assert apart <= NEAR if row["prompt"] == 2 else apart > 0, row["file"]


def test_a_trigger_stands_before_every_caption_and_in_the_checkpoint(given: Run) -> None:
    captions, phrases = {}, {}
    for variant in TRAINED:
        path = given.root / "data" / "captions" / f"{variant}.jsonl"
        captions[variant] = [json.loads(line)["texts"][0] for line in path.read_text().splitlines()]
        folder = given.root / "variants" / variant / "seed-1337" / "checkpoints" / "step-000002"
        with safe_open(folder / f"{variant}.safetensors", "np") as file:
            phrases[variant] = file.metadata().get("modelspec.trigger_phrase")
    assert captions["triggered"] == [f"xyz, {text}, ink" for text in captions["plain"]]
    assert len(set(captions["plain"])) == 12
    assert phrases["triggered"] == "xyz"
    assert phrases["vanilla"] == "a drawing"
    assert not phrases["plain"]


def test_without_a_clip_model_the_report_says_what_cannot_be_measured(given: Run) -> None:
    report = assert_pictures_hold(given.root)
    assert report["clip_sha256"] is None
    for member in report["members"]:
        for point in member["samples"]:
            for prompting in ("bare", "as_trained"):
                assert point[prompting]["unmeasured"] == dict.fromkeys(OF_CLIP, NO_CLIP)
                assert point[prompting]["images"] == len(DRAWN)
    (last,) = [v["as_trained"]["measures"] for v in report["variants"] if v["variant"] == "vanilla"]
    assert last.keys() == set(MEASURES) - set(OF_CLIP)
    assert all(pair["pictures"]["bare"].keys() == last.keys() for pair in report["pairs"])
    assert report["likeness"]["images"] <= report["data"]["validation"]
    assert report["likeness"]["held_out_embedding"] is None


def test_the_second_start_finds_it_done(miniature: Path, copied: Path) -> None:
    before = files(copied / "runs" / "small")
    again = study(miniature, copied, *GIVEN)
    assert again.returncode == 0, again.stderr
    assert drawn_by(again.stderr) == 0
    assert (
        files(copied / "runs" / "small").items()
        >= {key: data for key, data in before.items() if "/samples/" in key or "/checkpoints/" in key}.items()
    )
    once_more = study(miniature, copied, *GIVEN)
    assert '"event": "already done"' in once_more.stderr


# Other prompts than before.


def of_the_attempt(key: str) -> bool:
    """Whether a file says what an attempt did or the report shows, which a later one writes anew."""
    return key.startswith(("units/", "report/")) or key in (
        *("manifest.yaml", "resolved.json", "environment.json", "data/source.json"),
    )


def added(before: dict[str, bytes], run: Path) -> dict[str, bytes]:
    """The samples that came since, in a folder of their own; no other one has changed."""
    after = files(run)
    changed = [key for key in before if not of_the_attempt(key) and after.get(key) != before[key]]
    assert set(changed) <= {"adapters/index.json", "_SUCCESS"}  # how adapters are prompted, and what there is
    new = {key: data for key, data in after.items() if key not in before and not of_the_attempt(key)}
    new = {key: data for key, data in new.items() if ".part-" not in key}  # what a killed process had not yet renamed
    assert all(key.startswith(("samples/study-", "data/clip/", "data/likeness/")) for key in new)
    return {key: data for key, data in new.items() if key.startswith("samples/")}


@pytest.fixture(scope="module")
def redrawn(given: Run, miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A folder with a copy of the run for which other prompts were drawn, and the files that came."""
    folder = tmp_path_factory.mktemp("redrawn")
    shutil.copytree(given.root.parents[1] / "runs", folder / "runs")
    drawings(folder / "drawings")
    before = files(folder / "runs" / "small")
    done = study(miniature, folder, *GIVEN, OTHER)
    assert done.returncode == 0, done.stderr
    return folder, added(before, folder / "runs" / "small")


def prompts_of(new: dict[str, bytes]) -> set[tuple[str, ...]]:
    indices = [json.loads(data) for key, data in new.items() if key.endswith("samples.json")]
    return {tuple(index["settings"]["prompts"]) for index in indices}


def test_other_prompts_are_drawn_beside_the_earlier_ones_and_reported(redrawn: tuple[Path, dict[str, bytes]]) -> None:
    folder, new = redrawn
    assert len({key.split("/")[1] for key in new}) == 1
    assert prompts_of(new) == {("a moon", "a cup", "a moon")}
    assert sum(key.endswith("samples.json") for key in new) == 2 * len(TRAINED)
    assert sum(key.endswith(".png") for key in new) == 2 * 3 * (2 + 2 + 1)
    report = assert_pictures_hold(folder / "runs" / "small")
    for member in report["members"]:
        assert [point["bare"]["images"] for point in member["samples"]] == [3, 3]
        assert "clip_retrieval" in member["samples"][-1]["bare"]["measures"]
    with Image.open(folder / "runs" / "small" / "report" / "samples.png") as grid:
        assert grid.width > 0


@pytest.mark.slow
def test_another_template_is_drawn_beside_the_earlier_ones(miniature: Path, copied: Path) -> None:
    run = copied / "runs" / "small"
    before = files(run)
    done = study(miniature, copied, *GIVEN, ANOTHER_TEMPLATE)
    assert done.returncode == 0, done.stderr
    new = added(before, run)
    indices = [json.loads(data) for key, data in new.items() if key.endswith("samples.json") and "/triggered/" in key]
    assert [index["settings"]["as_trained"] for index in indices] == [[f"{prompt} by xyz" for prompt in BARE]] * 2
    # texts that are the same as before give the same pictures
    old = {key.removeprefix("variants/").replace("/samples/", "/"): data for key, data in before.items()}
    same = {key.split("/", 2)[2]: data for key, data in new.items() if key.endswith(".png")}
    assert {key for key, data in same.items() if old[key] != data} == {
        key for key in same if "triggered" in key and "as-trained" in key
    }
    with_both = [*GIVEN, ANOTHER_TEMPLATE]
    assert '"event": "already done"' in study(miniature, copied, *with_both).stderr


@pytest.mark.slow
def test_prompts_that_were_interrupted_go_on(
    miniature: Path, copied: Path, redrawn: tuple[Path, dict[str, bytes]]
) -> None:
    run, (_, expected) = copied / "runs" / "small", redrawn
    before, command = files(run), ("run", *arguments(miniature, copied, *GIVEN, OTHER), *STUDY)
    indices = [key for key in expected if "/step-000000/" in key and key.endswith("samples.json")]
    (last,) = [key for key in indices if "/plain/" in key]  # of a step's indices, which come after all its pictures
    started = start(*command, cwd=copied)
    assert stop_at(run / last, started, signal.SIGKILL) == -signal.SIGKILL, started.stderr
    there = {path: path.stat().st_mtime_ns for path in run.glob("samples/*/*/*/step-000000/*.png")}
    assert there
    assert not (run / "_SUCCESS").exists()
    assert lora_job("report", run).returncode == 0
    report = json.loads((run / "report" / "comparison.json").read_text())
    assert report["variants"] == []  # the base model's samples are not the last ones of any adapter
    assert [pair["pictures"] for pair in report["pairs"]] == [None] * len(report["pairs"])
    again = lora_job(*command, cwd=copied)
    assert again.returncode == 0, again.stderr
    assert added(before, run) == expected
    assert {path: path.stat().st_mtime_ns for path in there} == there  # nothing of that step was drawn again


def test_a_template_that_leaves_a_prompt_no_room_is_refused_before_training(miniature: Path, tmp_path: Path) -> None:
    long = f"variants.triggered.prompt_template='{{prompt}} {' '.join(['line'] * 90)}'"
    done = study(miniature, tmp_path, *GIVEN, long)
    assert done.returncode == 40, done.stderr
    said = done.stderr.splitlines()[-1]
    assert "prompt_template of triggered: 92 tokens; the text encoder reads 77. Shorten it." in said
    assert not list((tmp_path / "runs").rglob("checkpoints"))


# Prompts that are left out.

CHOSEN = (
    f"variants=[{VANILLA}, {PLAIN}]",
    "captioner=null",
    "seeds=[1, 2, 3]",
    "dataset.validation_min=8",
    "evaluation.samples={steps: 1, guidance: 1, clip: {source: 'miniature://clip'}}",
    "output.destination=runs",
)
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def chosen(miniature: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run without prompts, over three seeds, with eight of forty drawings held out."""
    folder = tmp_path_factory.mktemp("chosen")
    (folder / "drawings").mkdir()
    for path in miniature_data.folder("drawings").glob("*-10000[01].*"):
        shutil.copy(path, folder / "drawings")
    return run_study(miniature, folder, *CHOSEN)


@pytest.mark.slow
def test_without_prompts_captions_of_held_out_images_are_drawn(chosen: Run) -> None:
    images = [json.loads(line) for line in (chosen.root / "data" / "images.jsonl").read_text().splitlines()]
    captions = [json.loads(line) for line in (chosen.root / "data/captions/plain.jsonl").read_text().splitlines()]
    text_of = {row["id"]: row["texts"][0] for row in captions}
    held_out = {text_of[row["id"]] for row in images if row["split"] == "validation"}
    for variant in ("vanilla", "plain"):
        for seed in SEEDS:
            counts = {}
            for step in (0, 2, 4):
                index = chosen.index(variant, step, seed)
                assert set(index["settings"]["prompts"]) == held_out
                assert len(index["settings"]["prompts"]) == len(held_out)
                bare = {(row["prompt"], row["seed"]) for row in index["images"] if row["prompting"] != "as_trained"}
                trained = {(row["prompt"], row["seed"]) for row in index["images"] if row["prompting"] != "bare"}
                assert bare == trained
                counts[step] = len(bare)
                # the same number of each prompt
                assert len({[prompt for prompt, _ in bare].count(at) for at, _ in bare}) == 1
            assert counts[0] == counts[4]
            assert 24 <= counts[4] < 24 + len(held_out)
            assert counts[2] == 4


def test_every_number_of_pictures_is_that_of_the_files(chosen: Run) -> None:
    """Of members, variants and pairs, bare and as trained, of one seed and over seeds."""
    report = assert_pictures_hold(chosen.root)
    assert report["clip_sha256"]
    assert [pair["seed"] for pair in report["pairs"]] == [1, 2, 3, None]
    for variant in report["variants"]:
        assert variant["seeds"] == 3
        assert variant["as_trained"]["measures"].keys() == set(MEASURES)
        assert variant["as_trained"]["unmeasured"] == {}
        assert variant["as_trained"]["change"].keys() == set(MEASURES)
    for pair in report["pairs"]:
        for found in (pair["pictures"]["bare"], pair["pictures"]["as_trained"]):
            assert found.keys() == set(MEASURES)
            for name in ("clip_score", "clip_retrieval", "line_art_distance", "kid"):
                each = found[name]
                assert each["simultaneous_low"] < each["low"] < each["mean"] < each["high"] < each["simultaneous_high"]


def test_a_run_without_prompts_is_done_at_the_second_start(chosen: Run, miniature: Path) -> None:
    again = study(miniature, chosen.root.parents[1], *CHOSEN)
    assert again.returncode == 0, again.stderr
    assert '"event": "already done"' in again.stderr


def test_embeddings_stand_in_the_order_of_the_index(chosen: Run) -> None:
    clip = load_clip(LocalModel(miniature_data.folder("clip")), torch.device("cpu"))
    index, folder = chosen.index("vanilla", 4, 1), chosen.folder("vanilla", 4, 1)
    assert hashlib.sha256((folder / "samples.safetensors").read_bytes()).hexdigest() == index["embeddings_sha256"]
    stored = load_file(folder / "samples.safetensors")["embeddings"]
    pictures = []
    for row in index["images"]:
        with Image.open(folder / row["file"]) as picture:
            pictures.append(picture.copy())
    np.testing.assert_allclose(clip.image_embeddings(pictures), stored, atol=1e-4)
    cosines = stored @ clip.text_embeddings(index["settings"]["prompts"]).T
    np.testing.assert_allclose(cosines, [row["clip_cosines"] for row in index["images"]], atol=1e-4)


def test_embeddings_of_images_and_their_mirror_images_are_kept(chosen: Run) -> None:
    clip = load_clip(LocalModel(miniature_data.folder("clip")), torch.device("cpu"))
    rows = [json.loads(line) for line in (chosen.root / "data" / "images.jsonl").read_text().splitlines()]
    used = sorted((row for row in rows if row["split"]), key=lambda row: row["id"])
    (path,) = (chosen.root / "data" / "clip").iterdir()
    assert path.name == f"{chosen.report['clip_sha256'][:16]}.safetensors"
    stored = load_file(path)["embeddings"]
    assert len(stored) == len(used) == 40
    for at in (0, 17, 39):
        with Image.open(chosen.root.parents[1] / "drawings" / used[at]["source"]) as opened:
            square = opened.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS)
        found = clip.image_embeddings([square, ImageOps.mirror(square)])
        assert np.sum(found * stored[at], axis=1).min() > 0.99
