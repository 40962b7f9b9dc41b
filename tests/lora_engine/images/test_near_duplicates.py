"""Faint motifs on a large page are as many groups as they are, and their copies belong to them."""

import random
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from lora_engine import miniature
from lora_engine.images.decode import to_square
from lora_engine.images.near_duplicates import group_alike
from lora_engine.images.perceptual_hash import perceptual_hash
from tests.lora_engine.images.motifs import COPIES, MOTIFS, mirrored, motif

DISTANCE = 6  # the default of preprocess.near_duplicate_distance


def hashed(image: Image.Image, resolution: int = 384) -> bytes:
    return perceptual_hash(to_square(image, resolution))


def alike(a: bytes, b: bytes) -> bool:
    first, second = group_alike([a, b], DISTANCE)
    return bool(first == second)


def drawing(name: str, side: int = 384) -> Image.Image:
    with Image.open(miniature.folder("drawings") / f"{name}.png") as image:
        return image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def on_a_page(image: Image.Image, dice: random.Random, grey: int) -> Image.Image:
    """The drawing in that grey, a quarter to a half of the page's side."""
    side = dice.randint(200, 400)
    small = image.resize((side, side), Image.Resampling.LANCZOS).convert("L")
    page = Image.new("L", (800, 800), 255)
    faint = small.point([255 - (255 - level) * (255 - grey) // 255 for level in range(256)])
    page.paste(faint, (dice.randint(60, 740 - side), dice.randint(60, 740 - side)))
    return page.convert("RGB")


@pytest.mark.parametrize(("resolution", "seed"), [(64, 0), (384, 0), (384, 1), (512, 2)])
def test_twelve_faint_motifs_are_twelve_groups(resolution: int, seed: int) -> None:
    print("seed", seed)
    dice = random.Random(seed)
    hashes = [hashed(motif(name, dice), resolution) for name in MOTIFS]
    assert len(set(group_alike(hashes, DISTANCE))) == len(MOTIFS)


def test_of_small_motifs_a_circle_and_a_hexagon_alone_may_be_one_group() -> None:
    seed = 3
    print("seed", seed)
    dice = random.Random(seed)
    hashes = [hashed(motif(name, dice, grey=5, size=0.1)) for name in MOTIFS]
    groups = dict(zip(MOTIFS, group_alike(hashes, DISTANCE).tolist(), strict=True))
    assert len({group for name, group in groups.items() if name != "hexagon"}) == len(MOTIFS) - 1
    assert groups["hexagon"] not in {group for name, group in groups.items() if name not in ("circle", "hexagon")}


@pytest.mark.parametrize(
    "kind", [kind if at % 3 == 0 else pytest.param(kind, marks=pytest.mark.slow) for at, kind in enumerate(COPIES)]
)
def test_copies_of_faint_motifs_are_found_nearly_always_and_belong_to_no_other(kind: str) -> None:
    seed = 4
    print("seed", seed)
    dice = random.Random(seed)
    images = [motif(name, dice) for name in MOTIFS]
    hashes = [hashed(image) for image in images]
    copies = [hashed(COPIES[kind](image, dice)) for image in images]
    assert sum(alike(a, b) for a, b in zip(hashes, copies, strict=True)) >= 10
    for (at, a), (to, b) in combinations(zip(MOTIFS, zip(hashes, copies, strict=True), strict=True), 2):
        # A circle and a hexagon of faint strokes are told apart as long as nothing happens to them.
        if (at, to) != ("circle", "hexagon"):
            assert not alike(a[0], b[1]), (at, to)


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("grey", [0, 180])
def test_copies_of_a_drawing_on_a_page_belong_to_its_group(kind: str, grey: int) -> None:
    seed = 5
    print("seed", seed)
    dice = random.Random(seed)
    names = ("heart-100000", "moth-100001", "anchor-100002", "skull-100003", "key-100004")
    pages = [on_a_page(drawing(name), dice, grey) for name in names]
    hashes = [hashed(page) for page in pages]
    copies = [hashed(COPIES[kind](page, dice)) for page in pages]
    groups = group_alike([*hashes, *copies], DISTANCE).tolist()
    assert groups[:5] == groups[5:]
    assert len(set(groups)) == 5


@pytest.mark.parametrize("resolution", [64, 256, 384, 640])
def test_mirror_images_are_of_one_group_and_nothing_else_is(resolution: int) -> None:
    images = [drawing(f"{name}-10000{at}") for name in ("anchor", "cup", "moth") for at in range(4)]
    hashes = [hashed(image, resolution) for image in images]
    turned = [hashed(mirrored(image), resolution) for image in images]
    groups = group_alike([*hashes, *turned], DISTANCE).tolist()
    assert groups[:12] == groups[12:]
    assert len(set(groups)) == 12


def test_uniform_pictures_are_one_group_to_which_no_faint_drawing_belongs() -> None:
    blank = [hashed(Image.new("RGB", (200 + at, 300), colour)) for at, colour in enumerate(("white", "black", "red"))]
    grain = np.random.default_rng(0).normal(245, 1.5, (800, 800, 1)).astype(np.uint8).repeat(3, axis=2)
    faint = [hashed(motif(name, random.Random(0), grey=225)) for name in ("heart", "cross", "circle")]
    groups = group_alike([*blank, hashed(Image.fromarray(grain)), *faint], DISTANCE).tolist()
    assert len(set(groups[:4])) == 1
    assert len(set(groups)) == 4


def bits(numbers: list[int]) -> bytes:
    return b"".join(number.to_bytes(32) for number in numbers)


ALL = (1 << 256) - 1


def test_pages_that_tell_little_need_figures_that_are_not_plainly_different() -> None:
    dice = random.Random(6)
    look = dice.getrandbits(256)
    few, many = (1 << 63) - 1, (1 << 64) - 1  # waves above; as many below make 126 and 128 that stand clear
    other = look
    for at in dice.sample(range(256), 100):
        other ^= 1 << at  # correlates by 1 - 200 / 256
    for page, together in ((few, False), (many, True)):
        pages = [page, page << 128]
        hashes = [bits([*pages, figure, figure ^ ALL]) for figure in (look, other)]
        assert alike(*hashes) is together
    near = [bits([few, few << 128, figure, figure ^ ALL]) for figure in (look, look ^ (1 << 60) - 1)]
    assert alike(*near)  # by 1 - 120 / 256


def test_a_figure_alone_must_be_nearly_the_same() -> None:
    dice = random.Random(7)
    pages = [dice.getrandbits(256), dice.getrandbits(256)]
    figure = dice.getrandbits(256)
    for flipped, together in ((0, True), (6, True), (7, False)):
        other = figure ^ (1 << flipped) - 1
        hashes = [bits([p, p ^ ALL, f, f ^ ALL]) for p, f in zip(pages, (figure, other), strict=True)]
        assert alike(*hashes) is together
    simple = [bits([p, p ^ ALL, f, 0]) for p, f in zip(pages, (0b11111, 0b11110111), strict=True)]
    assert not alike(*simple)  # 4 bits differ, of so few that they correlate by 0.68


def test_groups_do_not_depend_on_the_order_of_pictures() -> None:
    seed = 8
    print("seed", seed)
    dice = random.Random(seed)
    images = [drawing(f"{name}-100000", 200) for name in ("anchor", "cup", "heart", "moth")]
    hashes = [hashed(made(image, dice), 128) for image in images for made in list(COPIES.values())[:8]]
    expected = group_alike(hashes, DISTANCE)
    order = dice.sample(range(len(hashes)), len(hashes))
    found = group_alike([hashes[at] for at in order], DISTANCE)
    for (at, a), (to, b) in combinations(enumerate(order), 2):
        assert (found[at] == found[to]) == (expected[a] == expected[b])
