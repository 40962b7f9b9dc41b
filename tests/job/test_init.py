"""`lora-job init`: what it writes for any folder of pictures is a manifest that runs, and says what was found."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from job.init.choose import base_of, choose, fitting_resolution
from job.init.look import Found
from job.init.manifest import Order, manifest_text
from job.manifest.load import load_manifest
from job.manifest.yaml_reader import CONTROL, read_scalar, write_scalar
from lora_engine import miniature
from lora_engine.images.prepare import PreparedImage
from tests.job.test_escaping import NASTY
from tests.lora_job import ROOT, lora_job, start
from tests.s3_server import S3Server

MINIATURE = ("--base-model", "miniature://stable-diffusion")
SHORT = ("training.steps=2", "evaluation.every=2", "evaluation.samples=null")


def drawings(count: int) -> list[Path]:
    """So many of the package's drawings; the first twenty show each something else."""
    return sorted(miniature.folder("drawings").glob("*.png"), key=lambda path: path.stem.split("-")[::-1])[:count]


def caption_of(drawing: Path) -> str:
    return drawing.with_suffix(".txt").read_text()


def without_captions(folder: Path, count: int = 12) -> Path:
    folder.mkdir(parents=True)
    for drawing in drawings(count):
        shutil.copy(drawing, folder)
    return folder


def with_texts(folder: Path, count: int = 12) -> Path:
    without_captions(folder, count)
    for drawing in drawings(count):
        (folder / f"{drawing.stem}.txt").write_text(caption_of(drawing))
    return folder


def with_metadata(folder: Path) -> Path:
    without_captions(folder)
    rows = [{"file_name": drawing.name, "text": caption_of(drawing)} for drawing in drawings(12)]
    (folder / "metadata.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


def of_mixed_sizes(folder: Path) -> Path:
    """Pictures of several sizes and kinds, one of them turned by its EXIF, and files that are none or damaged."""
    without_captions(folder)
    for side, drawing in enumerate(drawings(12), 5):
        with Image.open(drawing) as image:
            larger = image.convert("RGB").resize((side * 10, side * 15))
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        larger.save(folder / f"larger-{side}.jpg", exif=exif)
    (folder / "README.md").write_text("# Pictures\n")
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / "cut.png").write_bytes(drawings(1)[0].read_bytes()[:300])
    return folder


def zipped(folder: Path) -> Path:
    with_texts(folder, 24)
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(folder.iterdir()):
            packed.write(path, f"some/{path.name}")
    shutil.rmtree(folder)
    return archive


def nested(folder: Path) -> Path:
    with_texts(folder / "one" / "two", 8)
    for path in sorted(with_texts(folder / "rest").iterdir()):
        if (folder / "one" / "two" / path.name).exists():
            path.unlink()
    return folder


def many(folder: Path) -> Path:
    """Two thousand small pictures of noise, which are no near-duplicates of each other."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(256, size=(2000, 16, 16, 3), dtype=np.uint8)
    for at, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{at}.png")
    return folder


STORED = {
    "none": without_captions,
    "texts": with_texts,
    "metadata": with_metadata,
    "three": lambda folder: with_texts(folder, 3),
    "sizes": of_mixed_sizes,
    "zip": zipped,
    "s3": with_texts,
    "s3-zip": zipped,
    "nested": nested,
    "many": many,
}
VARIANTS = {
    kind: ["vanilla", "blip", "blip_plus"] if kind in ("none", "sizes", "many") else ["vanilla", "own", "blip"]
    for kind in STORED
}
RUN_ALWAYS = {"three"}  # the run of each of the others takes as long again


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_JOB_WORKDIR", str(tmp_path / "work"))


@pytest.fixture
def source_of(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """A function that makes the pictures of a kind, and gives what a user in `tmp_path` calls them."""

    def make(kind: str) -> str:
        place = STORED[kind](tmp_path / "pics")
        if not kind.startswith("s3"):
            return place.name
        server: S3Server = request.getfixturevalue("s3_admin")
        bucket = server.make_bucket()
        for path in place.iterdir() if place.is_dir() else [place]:
            server.client().upload_file(str(path), bucket, path.relative_to(tmp_path).as_posix())
            path.unlink()
        environment = request.getfixturevalue("monkeypatch")
        environment.setenv("AWS_ENDPOINT_URL", server.endpoint_url)
        environment.setenv("AWS_REGION", "us-east-1")
        return f"s3://{bucket}/{place.name}"

    return make


def init(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return lora_job("init", *arguments, cwd=cwd)


@pytest.mark.parametrize("kind", STORED)
def test_what_is_written_for_each_kind_of_folder_is_valid(
    tmp_path: Path, source_of: Callable[[str], str], kind: str
) -> None:
    source = source_of(kind)
    for options in ((), ("--force", *MINIATURE)):
        done = init(tmp_path, source, *options)
        assert done.returncode == 0, done.stderr
        assert "  lora-job run pics.yaml" in done.stdout.splitlines()
        text = (tmp_path / "pics.yaml").read_text()
        load_manifest(text, "pics.yaml")
        assert max(map(len, text.splitlines())) <= 130
        assert len(text.splitlines()) < 50
        manifest = yaml.safe_load(text)
        assert manifest["dataset"]["source"] == source
        assert [variant["name"] for variant in manifest["variants"]] == VARIANTS[kind]
        assert manifest["training"]["schedule"]["warmup_steps"] < manifest["training"]["steps"]
        assert manifest["training"]["steps"] % manifest["evaluation"]["every"] == 0


@pytest.mark.parametrize(
    "kind", [kind if kind in RUN_ALWAYS else pytest.param(kind, marks=pytest.mark.slow) for kind in STORED]
)
def test_each_kind_of_folder_runs(tmp_path: Path, source_of: Callable[[str], str], kind: str) -> None:
    assert init(tmp_path, source_of(kind), *MINIATURE).returncode == 0
    short = [option for each in SHORT for option in ("--set", each)]
    started = start("run", "pics.yaml", *short, cwd=tmp_path)
    assert started.wait(timeout=1800) == 0, started.stderr
    assert (tmp_path / "runs" / "pics" / "_SUCCESS").exists()
    if kind == "many":
        return
    rows = [
        json.loads(line) for line in (tmp_path / "runs" / "pics" / "data" / "images.jsonl").read_text().splitlines()
    ]
    train, held_out = (sum(row["split"] == part for row in rows) for part in ("train", "validation"))
    said = next(line for line in (tmp_path / "pics.yaml").read_text().splitlines() if "validation_min" in line)
    assert f"{held_out} picture" in said
    assert f"{train} trained on" in said


@pytest.mark.slow
def test_two_thousand_files_are_looked_at_without_decoding_them(tmp_path: Path) -> None:
    many(tmp_path / "pics")
    assert init(tmp_path, "pics", *MINIATURE).returncode == 0
    assert not (tmp_path / "work" / "pics" / "prepared").exists()


def test_damage_that_decoding_shows_is_found_in_few_files(tmp_path: Path) -> None:
    folder = without_captions(tmp_path / "pics")
    (folder / "cut.png").write_bytes(drawings(1)[0].read_bytes()[:300])
    done = init(tmp_path, "pics", *MINIATURE)
    assert "warning: 1 file cannot be used (1 .png), such as cut.png: cannot be decoded" in done.stdout
    manifest = load_manifest((tmp_path / "pics.yaml").read_text(), "pics.yaml")
    assert manifest.preprocess.max_rejected_fraction == pytest.approx(0.1)


@pytest.mark.parametrize(("files", "why"), [(0, "none"), (1, "none"), (2, "only one")])
def test_too_few_pictures_are_41_and_nothing_is_written(tmp_path: Path, files: int, why: str) -> None:
    folder = tmp_path / "pics"
    folder.mkdir()
    if files:
        (folder / "notes\nof mine.doc").write_text("no picture")
    if files > 1:
        shutil.copy(drawings(1)[0], folder)
    done = init(tmp_path, "pics")
    assert (done.returncode, done.stdout) == (41, "")
    assert f"pics holds {files} files, of which {why} can be used" in done.stderr.splitlines()[-1]
    assert ("notes\\nof mine.doc: not an image (.doc)" in done.stderr) == (files > 0)
    assert not list(tmp_path.glob("*.yaml"))


def test_copies_of_one_picture_are_41(tmp_path: Path) -> None:
    folder = tmp_path / "pics"
    folder.mkdir()
    for quality in (80, 85, 90):
        with Image.open(drawings(1)[0]) as image:
            image.convert("RGB").save(folder / f"{quality}.jpg", quality=quality)
    done = init(tmp_path, "pics")
    assert done.returncode == 41
    assert "too few to train and to validate on" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pics", "--name", "Bad"], "--name"),
        (["pics", "--base-model", "gs://x"], "--base-model"),
        (["pics", "--captioner", ""], "--captioner"),
        (["pics", "--destination", "pics/runs"], "outside of dataset.source"),
        (["ftp://x/y"], "FOLDER"),
        (["~/pics"], "FOLDER"),
        (["two\nlines"], "FOLDER"),
        ([""], "FOLDER"),
        ([b"not \xff text".decode(errors="surrogateescape")], "FOLDER"),
    ],
)
def test_what_cannot_be_meant_is_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    without_captions(tmp_path / "pics", 2)
    done = init(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("*.yaml"))


def test_a_folder_that_is_not_there_is_41(tmp_path: Path) -> None:
    done = init(tmp_path, "nowhere")
    assert (done.returncode, done.stderr.count("Traceback")) == (41, 0)
    assert "there is no file or folder at nowhere" in done.stderr


def test_no_file_is_replaced_unless_asked_for(tmp_path: Path) -> None:
    without_captions(tmp_path / "pics", 2)
    (tmp_path / "mine.yaml").write_text("mine")
    done = init(tmp_path, "pics", "--output", "mine.yaml")
    assert (done.returncode, (tmp_path / "mine.yaml").read_text()) == (2, "mine")
    assert "--force" in done.stderr.splitlines()[-1]
    assert init(tmp_path, "pics", "--output", "mine.yaml", "--force").returncode == 0
    assert (tmp_path / "mine.yaml").read_text().startswith("# Written by lora-job init.")
    assert init(tmp_path, "pics", "--output", "nowhere/or/here.yaml").returncode == 0
    (tmp_path / "file").touch()
    assert init(tmp_path, "pics", "--output", "file/x.yaml").returncode == 42


def test_standard_output_holds_the_manifest_alone(tmp_path: Path) -> None:
    without_captions(tmp_path / "pics", 2)
    done = init(tmp_path, "pics", "--output", "-", *MINIATURE)
    assert load_manifest(done.stdout, "<stdout>").captioner is not None
    assert "pics: 2 pictures, 128x128 pixels, none with a caption" in done.stderr
    assert not list(tmp_path.glob("*.yaml"))


def written(cwd: Path, *arguments: str) -> tuple[str, Any, str]:
    """What `init` wrote: the text, its data, and what it said."""
    done = init(cwd, *arguments, *MINIATURE, "--output", "out.yaml", "--force")
    assert done.returncode == 0, done.stderr
    text = (cwd / "out.yaml").read_text()
    return text, yaml.safe_load(text), done.stdout


def test_captions_decide_the_variants(tmp_path: Path) -> None:
    folder = with_texts(tmp_path / "ink-birds", 10)
    texts = sorted(folder.glob("*.txt"))
    for path in texts[:2]:
        path.unlink()
    text, manifest, _ = written(tmp_path, folder.name)
    assert manifest["variants"][0]["captions"]["text"] == "ink birds style"
    assert manifest["variants"][1]["captions"] == {"strategy": "existing", "missing": "ink birds style"}
    assert "2 pictures have none" in text
    texts[2].unlink()
    text, manifest, _ = written(tmp_path, folder.name)
    assert [variant["name"] for variant in manifest["variants"]] == ["vanilla", "blip", "blip_plus"]
    assert "Only 7 of 10 pictures have a caption" in text


def test_one_caption_for_all_is_the_text_of_vanilla(tmp_path: Path) -> None:
    folder = with_texts(tmp_path / "pics", 4)
    for path in folder.glob("*.txt"):
        path.write_text('an "ink" drawing: #1')
    text, manifest, said = written(tmp_path, "pics")
    assert manifest["variants"][0]["captions"] == {"strategy": "constant", "text": 'an "ink" drawing: #1'}
    assert [variant["name"] for variant in manifest["variants"]] == ["vanilla", "blip", "blip_plus"]
    assert "is the caption of 4 of 4 pictures" in said
    assert '# "an "ink" drawing: #1" is the caption of 4 of 4 pictures' in text


def test_kohyas_folders_are_recognised(tmp_path: Path) -> None:
    without_captions(tmp_path / "kohya" / "img" / "10_ohwx man", 8)
    without_captions(tmp_path / "kohya" / "reg" / "1_man", 3)
    (tmp_path / "kohya" / "img" / "10_ohwx man" / "x.caption").write_text("a man")  # of no picture
    text, manifest, said = written(tmp_path, "kohya")
    assert manifest["variants"][0]["captions"]["text"] == "ohwx man"
    assert "# 3 pictures in a folder of regularisation images, such as reg/, will not be trained on" in text
    assert "3 pictures in a folder of regularisation images, such as reg/, will not be trained on" in said
    assert "kohya: 8 pictures" in said
    assert "Repeats in folders' names (10_ohwx man) do not count" in text
    without_captions(tmp_path / "kohya" / "img" / "3_dog", 2)
    text, manifest, said = written(tmp_path, "kohya/img")
    assert "reg/" not in text
    assert manifest["variants"][0]["captions"]["text"] == "my style"
    assert "every picture is seen equally often" in said


@pytest.mark.slow
def test_a_folder_of_an_odd_name_is_read_back_as_it_is_called(tmp_path: Path) -> None:
    for name in (
        "s3:pics",
        "~mine",
        'quo"te: #x',
        "ימין",
        "right\u202eleft",
        "{a, b}",
        "- x",
        "null",
        "日本 🎨",
        "1e3",
    ):
        shutil.rmtree(without_captions(tmp_path / "pics", 2).rename(tmp_path / name) / "nothing", ignore_errors=True)
        text, manifest, _ = written(tmp_path, f"./{name}" if name.startswith("-") else name)
        assert (tmp_path / manifest["dataset"]["source"]).resolve() == tmp_path / name
        assert all(line.isprintable() for line in text.splitlines())


def test_the_resolution_follows_the_base_and_the_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "pics"
    folder.mkdir()
    for at, side in enumerate((400, 500, 600, 700)):
        Image.effect_noise((side, 800), 50).save(folder / f"{at}.png")
    bases = {"hf://stabilityai/stable-diffusion-2-1": 768, "hf://x/stable-diffusion-2-1-base": 512, "models/mine": 512}
    for base, expected in bases.items():
        done = init(tmp_path, "pics", "--base-model", base, "--output", "-")
        size = yaml.safe_load(done.stdout)["preprocess"]["resolution"]
        assert size == (576 if expected == 768 else 512), done.stdout
    assert "2 of 4 pictures are smaller" in done.stdout


def test_init_imports_neither_torch_nor_boto3() -> None:
    code = (
        "import sys, job.cli.commands, job.init.make\n"
        "print([m for m in ('torch', 'boto3', 'diffusers', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("text", [text for text in NASTY if not CONTROL.search(text)])
def test_nasty_texts_are_scalars_that_read_back(text: str) -> None:
    written = write_scalar(text)
    assert written.isprintable()
    assert read_scalar(written, "") == text
    assert read_scalar(f"{{a: {written}, b: [{written}]}}", "") == {"a": text, "b": [text]}


@given(st.text())
def test_any_text_is_a_scalar_that_reads_back(text: str) -> None:
    if not CONTROL.search(text):
        assert read_scalar(f"{{a: {write_scalar(text)}}}", "") == {"a": text}


def names() -> Iterator[st.SearchStrategy[str]]:
    yield st.text(min_size=1)
    yield st.sampled_from(NASTY)


@given(
    folders=st.lists(st.one_of(*names()), max_size=3),
    captions=st.lists(st.one_of(st.text(min_size=1), st.sampled_from(NASTY)), max_size=40),
    count=st.integers(2, 3000),
    rejected=st.integers(0, 50),
    base=st.sampled_from(["miniature://stable-diffusion", "hf://a/b", "hf://a/stable-diffusion-2"]),
)
def test_whatever_was_found_the_manifest_is_valid(
    folders: list[str], captions: list[str], count: int, rejected: int, base: str
) -> None:
    place = "/".join(folders)
    pictures = tuple(PreparedImage("", f"{place}/{at}.png", 9, at + 8, 2 * at + 9) for at in range(count))
    unusable = tuple(PreparedImage("", f"{place}{at}", 9, rejected=place or "no picture") for at in range(rejected))
    texts = {picture.source: text for picture, text in zip(pictures, captions, strict=False)}
    found = Found("pics", (), pictures, unusable, texts)
    model = base_of(base)
    order = Order("pics", "pics", "runs", model, model.captioner, {})
    study = choose(found, model, "my", fitting_resolution(found, model))
    manifest = load_manifest(manifest_text(order, found, study), "m.yaml")
    training = manifest.training
    assert training.batch_size <= study.train
    assert training.steps * training.images_per_step <= 100 * study.train
    assert training.steps % manifest.evaluation.every == 0
    assert training.schedule.warmup_steps < training.steps
    assert rejected / (rejected + count) <= manifest.preprocess.max_rejected_fraction
