from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from drawings import COLOURS, SEEDS, caption, colours_of, draw, geometry, write_drawings
from lora_engine import miniature
from lora_engine.config.data import PreprocessConfig
from lora_engine.evaluation.line_art import measure
from lora_engine.images.perceptual_hash import perceptual_hash
from lora_engine.images.sidecars import read_sidecars
from lora_engine.images.sources import list_files
from subjects import SUBJECTS

SHIPPED = miniature.folder("drawings")


def test_the_script_draws_what_is_shipped(tmp_path: Path) -> None:
    write_drawings(tmp_path, count=120, size=128, style="line", purpose="lora")
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in SHIPPED.iterdir()}
    for path in SHIPPED.glob("*.png"):
        with Image.open(path) as shipped, Image.open(tmp_path / path.name) as drawn:
            assert ImageChops.difference(shipped, drawn).getbbox() is None, path.name
    for path in SHIPPED.glob("*.txt"):
        assert (tmp_path / path.name).read_text() == path.read_text()


def test_geometries_of_different_purposes_are_disjoint() -> None:
    for a, b in combinations(SEEDS.values(), 2):
        assert not set(a) & set(b)
    shipped = {int(path.stem.split("-")[1]) for path in SHIPPED.glob("*.png")}
    assert shipped <= set(SEEDS["lora"])
    shapes = [geometry(subject, seed[0]).shapes for subject in SUBJECTS for seed in SEEDS.values()]
    assert len(set(shapes)) == len(shapes)


def test_shipped_drawings_are_captioned_and_all_different() -> None:
    captions = read_sidecars(list(list_files(SHIPPED))).captions
    assert len(captions) == 120
    hashes = {}
    for key, (text,) in captions.items():
        assert text.split() == [text.split()[0], key.split("-")[0]]
        with Image.open(SHIPPED / key) as image:
            hashes[key] = int.from_bytes(perceptual_hash(image)[:32])
    closest = min((a ^ b).bit_count() for a, b in combinations(hashes.values(), 2))
    assert closest > PreprocessConfig().near_duplicate_distance


@pytest.mark.parametrize("subject", SUBJECTS)
def test_both_styles_show_one_geometry(subject: str) -> None:
    drawing = geometry(subject, SEEDS["validation"][0])
    sticker, line = draw(drawing, "sticker", 128), draw(drawing, "line", 128)
    colour, background = colours_of(drawing)
    assert colour != background
    assert sticker.getpixel((1, 1)) == COLOURS[background]
    assert line.getpixel((1, 1)) == (255, 255, 255)
    assert caption(drawing, "sticker").split()[1:3] == [colour, subject]
    assert caption(drawing, "line").split()[1:] == [subject]
    # the ink stays where the sticker's shapes are, give or take a stroke's width
    painted = ImageChops.difference(sticker, Image.new("RGB", sticker.size, COLOURS[background])).convert("L")
    near = painted.point(lambda value: 255 if value > 12 else 0).resize((32, 32), Image.Resampling.BOX)
    ink = line.convert("L").point(lambda value: 255 if value < 128 else 0).resize((32, 32), Image.Resampling.BOX)
    grown = near.point(lambda value: 255 if value else 0).resize((30, 30)).resize((32, 32))
    stray = ImageChops.subtract(ink, ImageChops.lighter(near.point(lambda value: 255 if value else 0), grown))
    assert ImageStat.Stat(stray).sum[0] < 0.2 * ImageStat.Stat(ink).sum[0]


def test_hands_and_pens_vary() -> None:
    widths = [measure(draw(geometry("heart", seed), "line", 128)).stroke_width for seed in SEEDS["validation"][:20]]
    assert max(widths) > 1.4 * min(widths)


@pytest.mark.parametrize("size", [64, 256])
def test_a_drawing_is_the_same_at_any_size(size: int) -> None:
    drawing = geometry("anchor", SEEDS["validation"][1])
    small = draw(drawing, "line", 128).resize((64, 64), Image.Resampling.BOX)
    other = draw(drawing, "line", size).resize((64, 64), Image.Resampling.BOX)
    assert ImageStat.Stat(ImageChops.difference(small, other)).mean[0] < 6
