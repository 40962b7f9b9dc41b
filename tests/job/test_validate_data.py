"""`lora-job validate` says what a run would say of a dataset, without decoding an image."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from job.storage import StorageSettings, open_storage
from tests.job.small_run import PLAIN, drawings
from tests.lora_job import lora_job
from tests.s3_server import S3Server

OWN = "variants=[{name: own, captions: {strategy: existing}}]"
MISSING = "variants=[{name: own, captions: {strategy: existing, missing: a drawing}}]"


def validate(tmp_path: Path, *sets: str) -> subprocess.CompletedProcess[str]:
    """Validate the plain manifest on the drawings, which are put there unless something is."""
    (tmp_path / "m.yaml").write_text(PLAIN)
    drawings(tmp_path / "images")
    lines = ("base_model.source=miniature://stable-diffusion", "preprocess.resolution=64", *sets)
    return lora_job("validate", "m.yaml", *(part for line in lines for part in ("--set", line)), cwd=tmp_path)


def test_counts_are_said_in_a_line(tmp_path: Path) -> None:
    folder = drawings(tmp_path / "images")
    (folder / "README.md").write_text("read me")
    shutil.copy(min(folder.glob("*.png")), folder / "zcopy.png")
    done = validate(tmp_path)
    assert (done.returncode, done.stdout) == (0, "small: valid\n"), done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("Data: "))
    for part in ("12 images", "1 ignored", "such as README.md", "1 with the bytes of others"):
        assert part in line
    assert "\nCaptions: 12 of 12 images have one of their own (.txt: 12).\n" in done.stderr
    assert "warning: 12 images are few" in done.stderr


def test_an_offline_check_looks_at_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(PLAIN)
    assert lora_job("validate", "m.yaml", "--offline", cwd=tmp_path).stderr == ""


def test_missing_captions_are_an_error_only_where_nothing_says_what_to_take(tmp_path: Path) -> None:
    texts = sorted(drawings(tmp_path / "images").glob("*.txt"))
    for text in texts[:3]:
        text.unlink()
    done = validate(tmp_path)
    assert done.returncode == 41
    assert "3 of 12 images have no caption of their own: " + texts[0].with_suffix(".png").name in done.stderr
    done = validate(tmp_path, MISSING)
    assert done.returncode == 0, done.stderr
    assert "3 missing" in done.stderr
    assert validate(tmp_path, "variants=[{name: v, captions: {strategy: constant, text: a}}]").returncode == 0


def test_the_caption_of_a_copy_is_one(tmp_path: Path) -> None:
    """As in a run: the first of two files with the same bytes is kept, and takes the other's caption."""
    folder = drawings(tmp_path / "images")
    first = min(folder.glob("*.png"))
    shutil.copy(first, folder / "zcopy.png")
    first.with_suffix(".txt").rename(folder / "zcopy.txt")
    done = validate(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 from copies" in done.stderr


def test_rows_that_name_no_file_are_told_before_the_error(tmp_path: Path) -> None:
    folder = drawings(tmp_path / "images")
    min(folder.glob("*.txt")).unlink()
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "anchor.jpg", "text": "a"}) + "\n")
    done = validate(tmp_path)
    assert done.returncode == 41
    assert "1 of 1 rows name no file of the dataset, such as anchor.jpg" in done.stderr


def test_all_texts_of_a_wrong_encoding_are_named(tmp_path: Path) -> None:
    texts = sorted(drawings(tmp_path / "images").glob("*.txt"))
    for text in texts[:3]:
        text.write_bytes("café".encode("cp1252"))
    done = validate(tmp_path, "preprocess.resolution=96")
    assert done.returncode == 41
    assert all(text.name in done.stderr for text in texts[:3])
    assert "Data: 12 images" in done.stderr  # what else there is to say is said before
    assert "resolution is 96" in done.stderr


def test_too_few_and_too_many_broken_pictures_are_errors(tmp_path: Path) -> None:
    folder = drawings(tmp_path / "images")
    pictures = sorted(folder.glob("*.png"))
    pictures[0].write_bytes(b"no picture")
    done = validate(tmp_path)
    assert done.returncode == 41
    assert "1 of 12 files cannot be used, more than preprocess.max_rejected_fraction" in done.stderr
    assert validate(tmp_path, "preprocess.max_rejected_fraction=0.1").returncode == 0
    for picture in pictures[1:]:
        shutil.copy(pictures[1], picture) if picture != pictures[1] else None
    assert validate(tmp_path, "preprocess.max_rejected_fraction=0.1").returncode == 41


@pytest.mark.parametrize(
    ("target", "code"),
    [
        *(("conv_in", 43), ("conv_out", 43), ("time_embedding.linear_1", 43), ("q_proj", 43), ("norm1", 43)),
        *(("conv1", 0), ("conv_shortcut", 0), ("proj_in", 0), ("downsamplers.0.conv", 0), ("net.2", 0)),
    ],
)
def test_targets_that_a_run_would_refuse_are_refused(tmp_path: Path, target: str, code: int) -> None:
    done = validate(tmp_path, f"lora.target_modules=[to_q, {target}]")
    assert done.returncode == code, done.stderr
    if code:
        assert repr(target) in done.stderr


@pytest.mark.parametrize(
    ("base", "target", "code"),
    [
        ("hf://a/stable-diffusion-v1-5", "conv_in", 40),
        ("hf://a/stable-diffusion-v1-5", "linear_1", 40),
        ("hf://a/stable-diffusion-v1-5", "conv1", 0),
        ("hf://a/stable-diffusion-v1-5", "mid_block.resnets.1.conv1", 0),
        ("hf://a/stable-diffusion-v1-5", "proj_in", 0),
        ("hf://sd1/sd21", "proj_out", 0),
    ],
)
def test_of_a_base_that_is_not_at_hand_names_tell_which_targets_it_has(
    tmp_path: Path, base: str, target: str, code: int
) -> None:
    done = validate(tmp_path, f"base_model.source={base}", f"lora.target_modules=[to_q, {target}]")
    assert done.returncode == code, done.stderr


@pytest.mark.parametrize(
    ("begin", "code"),
    [("mid_block", 0), ("up_blocks.1", 0), ("up_blocks.1.attentions.0", 0), ("mid", 40), ("to_q", 40)],
)
@pytest.mark.parametrize("base", ["hf://a/stable-diffusion-v1-5", "miniature://stable-diffusion"])
def test_a_pattern_that_fits_no_adapted_layer_is_refused(tmp_path: Path, base: str, begin: str, code: int) -> None:
    done = validate(tmp_path, f"base_model.source={base}", f"lora.patterns={{{begin}: {{rank: 4}}}}")
    expected = 43 if code and base.startswith("miniature") else code
    assert done.returncode == expected, done.stderr
    if code:
        assert f"lora.patterns names '{begin}'" in done.stderr
        assert "mid_block" in done.stderr


def test_settings_that_do_not_suit_are_warned_of(tmp_path: Path) -> None:
    warmup = "training.schedule={name: constant, warmup_steps: 10}"
    done = validate(tmp_path, warmup, "training.batch_size=10", "preprocess.resolution=96")
    assert done.returncode == 0, done.stderr
    for part in ("schedule.warmup_steps (10)", "training.batch_size is 10", "resolution is 96", "own is 64"):
        assert part in done.stderr
    swept = "variants=[{name: v, captions: {strategy: existing}, sweep: {training.ema: [null, {}], lora.rank: [1, 2]}}]"
    done = validate(tmp_path, "training={steps: 10, schedule: {name: cosine_restarts, cycles: 6}}", swept)
    assert done.stderr.count("schedule.cycles (6) times in 10 updates") == 1
    long = "training={epochs: 100000, schedule: {name: cosine_restarts, cycles: 5}}"
    done = validate(tmp_path, long, "dataset.source=miniature://drawings")
    assert "epochs 100000 of about 104 images are more than 1000000 updates" in done.stderr
    assert "schedule.cycles" not in done.stderr
    done = validate(tmp_path, "lora={kind: dora, text_encoder: {stop_after: 500}}")
    for part in (
        "lora.kind of one is dora: ",
        "diffusers leaves out the magnitudes",
        "the text encoder trains to the end",
    ):
        assert part in done.stderr
    done = validate(tmp_path, "lora={patterns: {mid_block: {rank: 16}}, rank_stabilized: true}")
    assert "lora.patterns of one has alphas of its own" in done.stderr
    done = validate(
        tmp_path, "training.batch_size=9", "lora={text_encoder: {stop_after: 2}, patterns: {mid_block: {rank: 16}}}"
    )
    assert "alphas of its own" not in done.stderr
    assert "dora" not in done.stderr
    assert "to the end" not in done.stderr
    assert "never arrives" not in done.stderr
    assert "batch_size" not in done.stderr


def test_what_lies_behind_a_network_is_listed(s3_admin: S3Server, s3_bucket: str, tmp_path: Path) -> None:
    prefix = f"s3://{s3_bucket}/{tmp_path.name}"
    storage = open_storage(prefix, StorageSettings(s3_admin.endpoint_url, region="us-east-1", addressing_style="path"))
    for name in ("a.png", "b.JPG", "a.txt", "notes.md", ".hidden/c.png"):
        storage.write(f"{prefix}/{name}", b"no picture")
    endpoint = f"{{endpoint_url: '{s3_admin.endpoint_url}', region: us-east-1, addressing_style: path}}"
    done = validate(tmp_path, f"dataset.source={prefix}", f"storage={endpoint}")
    assert done.returncode == 0, done.stderr
    assert "Data: 2 files named like images" in done.stderr
    assert "1 files of captions" in done.stderr
    for name in ("a.png", "b.JPG", "notes.md"):
        storage.delete(f"{prefix}/{name}")
    assert validate(tmp_path, f"dataset.source={prefix}", f"storage={endpoint}").returncode == 41
