"""Datasets as people have them: what is no image is ignored by `plan`, `init` and a run alike, and all is said."""

import csv
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_engine import miniature as miniature_data
from tests.job.small_run import VANILLA, arguments
from tests.lora_job import lora_job
from tests.old_zip import old_zip
from tests.s3_server import S3Server

SHORT = ("training.steps=2", "evaluation.samples=null", f"variants=[{VANILLA}]", "training.schedule.warmup_steps=0")
FORMATS = {"jpg": "JPEG", "PNG": "PNG", "webp": "WEBP", "gif": "GIF", "BMP": "BMP", "tif": "TIFF"}


def drawings(count: int) -> list[Path]:
    """So many of the package's drawings, each of something else."""
    return sorted(miniature_data.folder("drawings").glob("*-100000.png"))[:count]


def as_format(drawing: Path, kind: str, side: int = 96) -> bytes:
    data = io.BytesIO()
    with Image.open(drawing) as image:
        image.convert("RGB").resize((side, side)).save(data, kind)
    return data.getvalue()


def rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "data" / "images.jsonl").read_text().splitlines()]


def said(log: str, event: str) -> dict[str, Any]:
    """The one line of that event."""
    found: list[dict[str, Any]] = [row for line in log.splitlines() if (row := json.loads(line))["event"] == event]
    assert len(found) == 1, [row["event"] for row in found]
    return found[0]


def warned(log: str) -> list[str]:
    return [row["event"] for line in log.splitlines() if (row := json.loads(line))["level"] == "warning"]


def kaggle_like(archive: Path) -> None:
    """A zip of several folders, kinds and spaces, with what else such archives hold."""
    table = io.StringIO()
    labels = csv.writer(table)
    labels.writerow(["file name", "label"])
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("Line drawings (v2)/README.md", "# Line drawings\n")
        packed.writestr("Line drawings (v2)/LICENSE", "CC0\n")
        for at, drawing in enumerate(drawings(12)):
            suffix, kind = list(FORMATS.items())[at % len(FORMATS)]
            name = f"{'train set' if at < 8 else 'test set'}/class {at % 3}/{drawing.stem} ({at}).{suffix}"
            labels.writerow([name, at % 3])
            packed.writestr(f"Line drawings (v2)/{name}", as_format(drawing, kind))
        packed.writestr("Line drawings (v2)/labels.csv", table.getvalue())
        packed.writestr("Line drawings (v2)/train set/copy.jpg", as_format(drawings(1)[0], "JPEG"))
        packed.writestr("Line drawings (v2)/train set/white.png", blank())
        packed.writestr("Line drawings (v2)/train set/cut.jpg", as_format(drawings(1)[0], "JPEG")[:200])
        packed.writestr("Line drawings (v2)/.ipynb_checkpoints/a-checkpoint.png", blank())
        packed.writestr("__MACOSX/Line drawings (v2)/._README.md", "x")
        packed.writestr("Line drawings (v2)/test set/Thumbs.db", "x")
        packed.writestr("Line drawings (v2)/more.zip", b"PK\5\6" + bytes(18))


def blank() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(data, "PNG")
    return data.getvalue()


@pytest.mark.slow
def test_a_zip_as_kaggle_has_them_goes_from_s3_to_a_report(s3_admin: S3Server, miniature: Path, tmp_path: Path) -> None:
    kaggle_like(tmp_path / "line drawings.zip")
    bucket = s3_admin.make_bucket()
    s3_admin.client().upload_file(str(tmp_path / "line drawings.zip"), bucket, "line drawings.zip")
    lines = (
        f"dataset.source=s3://{bucket}/line drawings.zip",
        f"storage={{endpoint_url: '{s3_admin.endpoint_url}', region: us-east-1, addressing_style: path}}",
        "preprocess.resolution=128",
        "preprocess.max_rejected_fraction=0.07",  # one of fifteen images
    )
    done = lora_job("run", *arguments(miniature, tmp_path, *SHORT, *lines), "--workdir", tmp_path / "work")
    assert done.returncode == 0, done.stderr

    facts, warnings = said(done.stderr, "data"), warned(done.stderr)
    assert (facts["train"] + facts["validation"], facts["duplicates"], facts["uniform"]) == (13, 1, 1)
    assert facts["enlarged"] == 13
    assert facts["ignored_because"] == {
        "an archive; archives within the dataset are not opened": 1,
        "hidden, as its name or its folder's begins with a dot": 1,
        "left behind by a system": 2,
        "not an image (.csv)": 1,
        "not an image (.md)": 1,
        "not an image (no suffix)": 1,
    }
    assert list(facts["rejected"].values()) == [1]
    assert facts["text"].startswith("Data: 13 images used, ")
    for part in (
        "7 ignored (2 left behind",
        "1 rejected (1 cannot be decoded",
        "1 copy of another",
        "all of one colour",
    ):
        assert part in facts["text"]
    assert any("more.zip" in warning for warning in warnings)
    assert any("white.png" in warning for warning in warnings)
    assert any("13 of 13 images are smaller than preprocess.resolution" in warning for warning in warnings)

    run = tmp_path / "runs" / "small"
    report = json.loads((run / "report" / "comparison.json").read_text())["data"]
    assert report == {key: facts[key] for key in report}
    page = (run / "report" / "report.html").read_text()
    for why in ("ignored: not an image (.csv)", "ignored: left behind by a system", "cannot be decoded"):
        assert why in page
    assert {row["why_ignored"] for row in rows(run) if row["source"].endswith("labels.csv")} == {"not an image (.csv)"}


def beside(folder: Path, kind: str) -> Path:
    """Twelve drawings, and beside them what the kind of dataset has."""
    inner = folder / "img" / "10_ink tattoo" if kind == "kohya" else folder
    inner.mkdir(parents=True)
    for drawing in drawings(12):
        shutil.copy(drawing, inner)
        if kind == "synology":
            thumbnails = folder / "@eaDir" / drawing.name
            thumbnails.mkdir(parents=True)
            (thumbnails / "SYNOPHOTO_THUMB_XL.jpg").write_bytes(as_format(drawing, "JPEG"))
        if kind == "kohya":
            (inner / f"{drawing.stem}_0128x0128_sd.npz").write_bytes(b"PK\3\4")
    if kind == "kohya":
        (folder / "reg" / "1_tattoo").mkdir(parents=True)
        for drawing in sorted(miniature_data.folder("drawings").glob("*-100001.png"))[:4]:
            shutil.copy(drawing, folder / "reg" / "1_tattoo")
            (folder / "reg" / "1_tattoo" / f"{drawing.stem}.txt").write_bytes(b"not UTF-8: \xff")
    if kind == "texts":
        for name in ("README.md", "classes.txt", "license", "ehthumbs.db", "Icon\r", "labels.json", "config.toml"):
            (folder / name).write_text("some text")
    return folder


@pytest.mark.parametrize(
    "kind", ["kohya", pytest.param("synology", marks=pytest.mark.slow), pytest.param("texts", marks=pytest.mark.slow)]
)
def test_plan_init_and_a_run_count_the_same_images(miniature: Path, tmp_path: Path, kind: str) -> None:
    source = beside(tmp_path / "pictures", kind)
    command = arguments(miniature, tmp_path, *SHORT, f"dataset.source={source}")
    planned = lora_job("plan", "--json", *command)
    assert json.loads(planned.stdout)["images"] == 12
    written = lora_job("init", "pictures", "--base-model", "miniature://stable-diffusion", cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    assert "pictures: 12 pictures" in written.stdout
    assert "max_rejected_fraction" not in (tmp_path / "pictures.yaml").read_text()
    done = lora_job("run", *command, "--workdir", tmp_path / "work")
    assert done.returncode == 0, done.stderr
    facts = said(done.stderr, "data")
    assert (facts["train"] + facts["validation"], facts["duplicates"], facts["rejected"]) == (12, 0, {})
    ignored = {"synology": 12, "kohya": 12 + 8, "texts": 7}[kind]
    assert (facts["ignored"], sum(facts["ignored_because"].values())) == (ignored, ignored)
    if kind == "kohya":
        for text in ("Repeats in folders' names (10_ink tattoo)", "4 pictures in a folder of regularisation images"):
            for warnings in (warned(done.stderr), json.loads(planned.stdout)["warnings"], written.stdout.splitlines()):
                assert any(text in warning for warning in warnings)


def test_only_images_count_as_rejected(miniature: Path, tmp_path: Path) -> None:
    source = beside(tmp_path / "pictures", "texts")
    (source / "cut.png").write_bytes(drawings(1)[0].read_bytes()[:300])
    command = arguments(
        miniature, tmp_path, *SHORT, f"dataset.source={source}", "preprocess.max_rejected_fraction=0.07"
    )
    done = lora_job("run", *command, "--workdir", tmp_path / "work")
    assert done.returncode == 41
    assert "1 of 13 files cannot be used" in done.stderr


def test_a_folder_without_images_names_what_it_holds(miniature: Path, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.md").write_text("# Notes")
    command = arguments(miniature, tmp_path, *SHORT, f"dataset.source={tmp_path / 'texts'}")
    done = lora_job("run", *command, "--workdir", tmp_path / "work")
    assert done.returncode == 41
    assert "The dataset holds no images: notes.md: not an image (.md)." in done.stderr


def test_an_archive_of_old_names_and_twins_is_used_with_its_captions(miniature: Path, tmp_path: Path) -> None:
    names = [f"刺青/{name}" for name in ("表", "ソ", "申", "猫", "桜の花", "能 力", "aB", "Ab", "十", "貼り")]
    members = []
    for at, (name, drawing) in enumerate(zip(names, drawings(10), strict=True)):
        members.append((f"{name}.png".encode("cp932"), drawing.read_bytes()))
        members.append((f"{name}.txt".encode("cp932"), str(at).encode()))
    (tmp_path / "old.zip").write_bytes(old_zip(members))
    own = "variants=[{name: own, captions: {strategy: existing}}]"
    command = arguments(miniature, tmp_path, *SHORT, own, f"dataset.source={tmp_path / 'old.zip'}")
    done = lora_job("run", *command, "--workdir", tmp_path / "work")
    assert done.returncode == 0, done.stderr
    assert said(done.stderr, "data")["ignored"] == 0
    ids = {row["id"]: row["source"] for row in rows(tmp_path / "runs" / "small")}
    assert sorted(ids.values()) == sorted(f"{name}.png" for name in names)
    captions = (tmp_path / "runs" / "small" / "data" / "captions" / "own.jsonl").read_text().splitlines()
    found = {ids[caption["id"]]: caption["texts"][0] for caption in map(json.loads, captions)}
    assert found == {f"{name}.png": str(at) for at, name in enumerate(names)}
