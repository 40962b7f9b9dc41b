"""A folder of files that no one should feed an image program: each is used as it looks, or rejected with its reason."""

import io
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_engine.config.data import PreprocessConfig, SplitConfig
from lora_engine.images.prepare import PreparedImage, preprocess_images
from lora_engine.images.sources import list_files
from lora_engine.images.split import assign
from lora_engine.records import ImageRecord
from tests.lora_engine.images.hostile import ODD_NAMES, SECRET, hostile_files, plain_png, saved

CASES = hostile_files()
CONFIG = PreprocessConfig(resolution=64, max_rejected_fraction=1.0)
LINKS = {"link.png": "/etc/hostname", "loop": ".", "nowhere.png": "gone.png", "itself.png": "itself.png"}
NO_IMAGES = ("in.zip", "in.tar.gz")  # by their names and their first bytes
IGNORED = ("Thumbs.db", ".hidden.png", "__MACOSX/._a.png", ".png")


def noise(seed: int, side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


@dataclass
class Fed:
    """What became of the folder."""

    source: Path
    out: Path
    prepared: dict[str, PreparedImage]
    records: dict[str, ImageRecord]


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Fed:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("out")
    for name, case in CASES.items():
        (source / name).write_bytes(case.data)
    for at, name in enumerate(ODD_NAMES):
        (source / name).write_bytes(saved(noise(at), "PNG"))
    (source / "folder.png").mkdir()
    (source / "folder.png" / "inner.png").write_bytes(saved(noise(99), "PNG"))
    (source / "copy.png").write_bytes(saved(noise(0), "PNG"))
    for name in IGNORED:
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(plain_png())
    for name, target in LINKS.items():
        (source / name).symlink_to(target)
    os.mkfifo(source / "pipe.png")
    files = list(list_files(source))
    prepared = list(preprocess_images(files, CONFIG, out, workers=2))
    records = assign(prepared, CONFIG, SplitConfig())
    return Fed(source, out, {p.source: p for p in prepared}, {r.source: r for r in records})


@pytest.mark.parametrize("name", CASES)
def test_each_is_used_as_it_looks_or_rejected_with_its_reason(fed: Fed, name: str) -> None:
    case, found = CASES[name], fed.prepared[name]
    if name in NO_IMAGES:
        assert (found.rejected, re.search(case.reason or "", found.ignored or "") is not None) == (None, True)
        return
    if case.quarters is None:
        assert found.rejected is not None
        assert re.search(case.reason or "", found.rejected)
        assert 10 < len(found.rejected) < 200
        assert found.rejected.isprintable()
        return
    assert found.rejected is None
    assert found.path is not None
    with Image.open(found.path) as square:
        pixels = np.asarray(square).astype(int)
    quarters = [pixels[y, x] for y in (16, 48) for x in (16, 48)]
    assert np.abs(np.array(quarters) - np.array(case.quarters)).max() <= case.tolerance


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_picture_of_any_name_is_used(fed: Fed, name: str) -> None:
    assert fed.records[name].split in ("train", "validation") or fed.records[name].duplicate_of == "copy.png"


def test_pipes_and_folders_are_no_files_and_every_file_has_one_fate(fed: Fed) -> None:
    assert not {"pipe.png", "folder.png"} & fed.records.keys()
    assert "folder.png/inner.png" in fed.records
    fates = Counter(
        record.split or ("ignored" if record.ignored else "rejected" if record.rejected else "duplicate")
        for record in fed.records.values()
    )
    assert fates.total() == len(fed.records) == len(CASES) + len(ODD_NAMES) + len(LINKS) + len(IGNORED) + 2
    assert fates["ignored"] == len(IGNORED) + len(NO_IMAGES) + 1  # "loop" is no image either
    assert fates["rejected"] == sum(case.quarters is None for case in CASES.values()) + len(LINKS) - 1 - len(NO_IMAGES)
    assert all((r.rejected is not None) + r.ignored + (r.split is not None) <= 1 for r in fed.records.values())


def test_nothing_that_is_published_says_where_a_picture_was_taken(fed: Fed) -> None:
    located = [name for name in CASES if name.startswith("located")]
    assert len(located) == 4
    for name in located:
        assert SECRET in (fed.source / name).read_bytes()
        assert fed.records[name].used
    made = [path for path in fed.out.rglob("*") if path.is_file()]
    assert len(made) >= 2 * len(located)
    for path in made:
        assert SECRET not in path.read_bytes()
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.load()
            assert not image.getexif()
            assert not {"exif", "xmp", "XML:com.adobe.xmp", "comment", "photoshop", "icc_profile"} & set(image.info)


@pytest.mark.slow
def test_ten_thousand_tiny_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for at in range(10_000):
        (tmp_path / "in" / f"{at:05d}.png").write_bytes(saved(noise(at, 8), "PNG"))
    rows = list(preprocess_images(list(list_files(tmp_path / "in")), CONFIG, tmp_path / "out"))
    records = assign(rows, CONFIG, SplitConfig())
    assert sum(record.used for record in records) == 10_000
