"""Planted copies are found, and nothing else is: not drawings of the same subjects, not stickers, not blank sheets."""

import io
import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from pydantic import TypeAdapter, ValidationError
from scipy.stats import binomtest, t

from drawings import SEEDS, Style, draw, geometry
from lora_engine.evaluation.memorisation import (
    LEAST,
    MOST,
    RATE,
    Cutoff,
    Library,
    Likeness,
    Nearest,
    copied_share,
    cutoff,
    nearest,
)
from lora_engine.images.crops import thumbnail_grey
from lora_engine.miniature import folder
from subjects import SUBJECTS

SEED = 20
SIZE = 128  # pixels a side of the drawings
HELD_OUT = 20

Images = list[Image.Image]
Embed = Callable[[Sequence[Image.Image]], npt.NDArray[np.float32]]


@pytest.fixture(name="dice")
def seeded() -> np.random.Generator:
    print("seed", SEED)
    return np.random.default_rng(SEED)


@cache
def shipped() -> tuple[dict[str, Image.Image], dict[str, Image.Image]]:
    """The shipped drawings by name: those that are trained on, and those held out, one of each subject."""
    drawings = {path.stem: Image.open(path).convert("RGB") for path in sorted(folder("drawings").glob("*.png"))}
    held_out = [name for name in drawings if name.endswith("-100005")]
    assert len(held_out) == HELD_OUT
    return {name: drawings[name] for name in drawings if name not in held_out}, {n: drawings[n] for n in held_out}


@cache
def embed() -> Embed:
    """The miniature CLIP's embeddings of pictures, of unit length."""
    from transformers import AutoProcessor, CLIPModel

    model = CLIPModel.from_pretrained(folder("clip"), dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(folder("clip"))

    def embedded(pictures: Sequence[Image.Image]) -> npt.NDArray[np.float32]:
        pixels = processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            found = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
        return torch.nn.functional.normalize(found, dim=-1).numpy()

    return embedded


def small(pictures: Sequence[Image.Image]) -> npt.NDArray[np.uint8]:
    return np.stack([thumbnail_grey(picture) for picture in pictures])


def library(images: dict[str, Image.Image], embedded: Embed | None = None) -> Library:
    pictures = list(images.values())
    both = None if embedded is None else np.stack([embedded(pictures), embedded([*map(mirror, pictures)])], axis=1)
    return Library(tuple(images), small(pictures), both)


def likenesses(pictures: Sequence[Image.Image], training: Library) -> list[Likeness]:
    return nearest(small(pictures), None, training)


def mirror(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def window(dice: np.random.Generator) -> tuple[float, float, float]:
    """Left, top and side of a crop, as fractions of the image's side."""
    side = dice.uniform(0.6, 0.95)
    return dice.uniform(0, 1 - side), dice.uniform(0, 1 - side), side


def crop(image: Image.Image, left: float, top: float, side: float) -> Image.Image:
    box = tuple(SIZE * edge for edge in (left, top, left + side, top + side))
    return image.resize(image.size, Image.Resampling.LANCZOS, box=box)


def changed(image: Image.Image, dice: np.random.Generator) -> Image.Image:
    """Blurred, noisy, and saved as a bad JPEG."""
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(0.7)), dtype=np.float64)
    noisy = np.clip(blurred + dice.normal(0, 6, blurred.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=60)
    return Image.open(file).convert("RGB")


def others(style: Style, count: int) -> Images:
    """Drawings of the same subjects that are no copies: of other geometry seeds."""
    seeds = SEEDS["validation"][: count // len(SUBJECTS)]
    return [draw(geometry(name, seed), style, SIZE) for seed in seeds for name in SUBJECTS]


@cache
def shipped_cutoff() -> Cutoff:
    trained, held_out = shipped()
    return cutoff(likenesses(list(held_out.values()), library(trained)), list(held_out))


@pytest.mark.parametrize("with_clip", [False, True])
def test_exactly_the_three_planted_copies_are_found(dice: np.random.Generator, with_clip: bool) -> None:
    trained, held_out = shipped()
    embedded = embed() if with_clip else None
    of_training = library(trained, embedded)
    as_it_is, part, mirrored = dice.choice(list(trained), 3, replace=False)
    place = window(dice)
    planted = [trained[as_it_is], crop(trained[part], *place), mirror(trained[mirrored])]
    pictures = [changed(picture, dice) for picture in planted] + others("line", 20) + others("sticker", 20)

    def measured(pictures: Images) -> list[Likeness]:
        return nearest(small(pictures), embedded(pictures) if embedded else None, of_training)

    baseline = measured(list(held_out.values()))
    found = measured(pictures)
    level = cutoff(baseline, list(held_out))
    assert [level.is_copy(one) for one in found] == [True] * 3 + [False] * 40
    assert not any(level.is_copy(one) for one in baseline)
    assert [one.pixels.id for one in found[:3]] == [as_it_is, part, mirrored]
    assert [one.pixels.mirrored for one in found[:3]] == [False, False, True]
    assert (found[0].pixels.crop, found[2].pixels.crop) == (None, None)
    assert found[1].pixels.crop == pytest.approx(place, abs=0.02)
    assert all((one.embedding is None) != with_clip for one in found)
    if with_clip:
        assert [one.embedding.id for one in (found[0], found[2]) if one.embedding] == [as_it_is, mirrored]
        assert [one.embedding.mirrored for one in (found[0], found[2]) if one.embedding] == [False, True]


@pytest.mark.parametrize("mirrored", [False, True])
def test_crops_at_any_place_are_found_after_blur_noise_and_jpeg(dice: np.random.Generator, mirrored: bool) -> None:
    trained, _ = shipped()
    names, places = dice.choice(list(trained), 60), [window(dice) for _ in range(60)]
    crops = [crop(trained[name], *place) for name, place in zip(names, places, strict=True)]
    found = likenesses([changed(mirror(one) if mirrored else one, dice) for one in crops], library(trained))
    copies = [
        (one.pixels.mirrored, one.pixels.id) == (mirrored, name) and shipped_cutoff().is_copy(one)
        for one, name in zip(found, names, strict=True)
    ]
    assert sum(copies) >= 57
    near = [
        one.pixels.crop is not None and np.abs(np.subtract(one.pixels.crop, place)).max() < 0.02
        for one, place, copied in zip(found, places, copies, strict=True)
        if copied
    ]
    assert sum(near) >= 0.9 * len(near)


@pytest.mark.parametrize("mirrored", [False, True])
def test_whole_copies_are_found_after_blur_noise_and_jpeg(dice: np.random.Generator, mirrored: bool) -> None:
    trained, _ = shipped()
    names = dice.choice(list(trained), 60)
    copies = [changed(mirror(trained[name]) if mirrored else trained[name], dice) for name in names]
    found = likenesses(copies, library(trained))
    assert [one.pixels.id for one in found] == list(names)
    assert all(shipped_cutoff().is_copy(one) for one in found)


@pytest.mark.parametrize(
    ("style", "count"), [("line", 80), pytest.param("line", 240, marks=pytest.mark.slow), ("sticker", 60)]
)
def test_other_drawings_of_the_same_subjects_are_no_copies(style: Style, count: int) -> None:
    found = likenesses(others(style, count), library(shipped()[0]))
    assert not any(shipped_cutoff().is_copy(one) for one in found)


def sheet(draw_on: Callable[[ImageDraw.ImageDraw], object] | None = None, paper: int = 255) -> Image.Image:
    image = Image.new("RGB", (512, 512), (paper,) * 3)
    if draw_on is not None:
        draw_on(ImageDraw.Draw(image))
    return image


def dot(x: int, y: int, radius: int = 12) -> Image.Image:
    return sheet(lambda canvas: canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill="black"))


def stroke(*ends: int) -> Image.Image:
    return sheet(lambda canvas: canvas.line(ends, fill="black", width=8))


def test_a_nearly_blank_picture_is_no_copy_of_a_nearly_blank_image(dice: np.random.Generator) -> None:
    blank = {
        "white": sheet(),
        "grey": sheet(paper=128),
        "dot": dot(256, 256),
        "stroke": stroke(100, 100, 400, 300),
        "faint": changed(sheet(paper=250), dice),
    }
    pictures = [
        *(sheet(paper=paper) for paper in (255, 250, 128, 0)),
        *(dot(x, y, radius) for x, y, radius in ((256, 256, 12), (200, 300, 12), (330, 250, 8))),
        *(stroke(*ends) for ends in ((100, 100, 400, 300), (120, 90, 420, 290), (400, 100, 100, 300))),
        *(changed(sheet(paper=paper), dice) for paper in (250, 128)),
    ]
    for images in (blank, shipped()[0] | blank):
        found = likenesses(pictures, library(images))
        assert max(one.pixels.likeness for one in found) < 0.8
    assert all(one.pixels.likeness == 0 for one in found[:4])


@pytest.mark.slow
def test_neither_the_order_of_pictures_nor_of_training_images_matters(dice: np.random.Generator) -> None:
    trained, held_out = shipped()
    pictures = [*held_out.values(), *(mirror(image) for image in list(trained.values())[:10]), *others("sticker", 20)]
    order = dice.permutation(len(pictures))
    turned = {name: trained[name] for name in dice.permutation(list(trained))}
    found = likenesses(pictures, library(trained))
    again = likenesses([pictures[at] for at in order], library(turned))
    for one, other in zip([found[at].pixels for at in order], again, strict=True):
        assert other.pixels.likeness == pytest.approx(one.likeness, abs=1e-3)
        assert (other.pixels.id, other.pixels.mirrored) == (one.id, one.mirrored)


def test_an_image_is_like_itself_and_its_mirror_image(dice: np.random.Generator) -> None:
    noise = dice.integers(0, 256, (3, 64, 64), dtype=np.uint8)
    training = Library(("a", "b", "c"), noise)
    for flipped in (False, True):
        found = nearest(noise[:, :, ::-1] if flipped else noise, None, training)
        assert [one.pixels.likeness for one in found] == pytest.approx([1] * 3, abs=1e-5)
        assert [(one.pixels.id, one.pixels.mirrored, one.pixels.crop) for one in found] == [
            (name, flipped, None) for name in "abc"
        ]
    assert max(one.pixels.likeness for one in nearest(255 - noise, None, training)) < 0.5


def test_of_training_images_that_are_the_same_the_first_is_named() -> None:
    image = small(list(shipped()[0].values())[:1])
    found = nearest(
        image, np.eye(1, dtype=np.float32), Library(tuple("cab"), image.repeat(3, 0), np.ones((3, 2, 1), np.float32))
    )
    assert (found[0].pixels.id, found[0].embedding and found[0].embedding.id) == ("c", "c")


def test_more_pictures_than_are_measured_at_once_are_measured_alike(dice: np.random.Generator) -> None:
    noise = dice.integers(0, 256, (130, 64, 64), dtype=np.uint8)
    found = nearest(noise, None, Library(tuple(map(str, range(130))), noise))
    assert [one.pixels.id for one in found] == [str(at) for at in range(130)]
    assert nearest(noise[:0], None, Library(("a",), noise[:1])) == []


def test_an_embedding_is_nearest_by_the_cosine_to_an_image_or_its_mirror_image() -> None:
    plain = small([sheet(), sheet()])
    embeddings = np.array([[[1, 0, 0], [0, 1, 0]], [[0, 0, 1], [0.6, 0.8, 0]]], dtype=np.float32)
    pictures = np.array([[1, 0, 0], [0, 1, 0], [0, 0.6, -0.8], [-1, 0, 0]], dtype=np.float32)
    found = nearest(small([sheet()] * 4), pictures, Library(("a", "b"), plain, embeddings))
    assert [one.embedding for one in found] == [
        Nearest("a", 1.0, mirrored=False),
        Nearest("a", 1.0, mirrored=True),
        Nearest("a", pytest.approx(0.6), mirrored=True),
        Nearest("a", 0.0, mirrored=True),
    ]


def test_a_thumbnail_is_the_middle_square_in_grey() -> None:
    image = shipped()[0]["anchor-100000"]
    square = thumbnail_grey(image)
    assert (square.shape, square.dtype) == ((64, 64), np.uint8)
    for size, place in (((SIZE + 60, SIZE), (30, 0)), ((SIZE, SIZE + 31), (0, 15))):
        wide = Image.new("RGB", size, "blue")
        wide.paste(image, place)
        assert np.array_equal(thumbnail_grey(wide), square)
    assert np.array_equal(thumbnail_grey(image.convert("RGBA")), square)
    assert np.array_equal(thumbnail_grey(Image.new("L", (1, 3), 7)), np.full((64, 64), 7))


def of(*values: float) -> list[Likeness]:
    return [Likeness(Nearest("a", value, mirrored=False), None) for value in values]


def groups(values: Sequence[object]) -> list[str]:
    return [str(at) for at in range(len(values))]


def test_the_cutoff_is_the_prediction_bound_of_fishers_z() -> None:
    values = [0.62, 0.7, 0.66, 0.75, 0.72, 0.69, 0.83, 0.71]
    z = [math.atanh(value) for value in values]
    bound = math.tanh(fmean(z) + t.ppf(1 - RATE, 7) * stdev(z) * math.sqrt(1 + 1 / 8))
    assert LEAST < bound < MOST
    level = cutoff(of(*values), groups(values))
    assert level.likeness == pytest.approx(bound)
    assert (level.reason, level.images, level.twins) == (None, 8, 0)
    assert not level.is_copy(of(bound - 1e-6)[0])
    assert level.is_copy(of(bound + 1e-6)[0])


def test_the_cutoff_is_neither_so_low_nor_so_high_as_the_bound_of_some_sets() -> None:
    alike = of(*[0.5, 0.51, 0.52] * 4)
    assert cutoff(alike, groups(alike)).likeness == LEAST
    unlike = of(*[0.2, 0.9, 0.6] * 4)
    assert cutoff(unlike, groups(unlike)).likeness == MOST
    same = of(*[0.96] * 8)
    level = cutoff(same, groups(same))
    assert level.likeness == pytest.approx(0.96)
    assert cutoff(of(*[-0.2] * 8), groups(same)).likeness == LEAST


def test_the_cutoff_is_never_below_a_held_out_image_that_is_no_copy() -> None:
    values = [*[0.5, 0.501] * 100, 0.965]
    assert cutoff(of(*values), groups(values)).likeness == pytest.approx(0.965)


def test_of_near_duplicates_the_nearest_counts() -> None:
    values = [0.62, 0.7, 0.66, 0.75, 0.72, 0.69, 0.83, 0.71]
    level = cutoff(of(*values, 0.3, 0.6), [*groups(values), "3", "6"])
    assert level == cutoff(of(*values), groups(values))


def test_held_out_images_that_are_copies_say_nothing_of_the_others() -> None:
    values = [0.62, 0.7, 0.66, 0.75, 0.72, 0.69, 0.83, 0.71]
    level = cutoff(of(*values, 1.0, 0.99), groups([*values, 1, 2]))
    assert level.likeness == cutoff(of(*values), groups(values)).likeness
    assert (level.images, level.twins) == (10, 2)
    many = cutoff(of(*values, 1.0, 1.0, 0.98), groups([*values, 1, 2, 3]))
    assert many.likeness is None
    assert many.reason == "3 of 11 independent held-out images are as like a training image as a copy is"


def test_too_few_held_out_images_say_nothing() -> None:
    level = cutoff(of(*[0.5, 0.6] * 4), ["a", "b", "c", "d", "e", "a", "b", "c"])
    assert level == Cutoff(None, "5 independent held-out images, fewer than 6", 5, 0)
    assert cutoff([], []).reason == "0 independent held-out images, fewer than 6"
    with pytest.raises(AssertionError, match="fewer than 6"):
        level.is_copy(of(1.0)[0])


def test_rows_are_json_and_hold_finite_numbers() -> None:
    kept = TypeAdapter(Likeness)
    found = Likeness(Nearest("a", 0.5, mirrored=True, crop=(0.1, 0.2, 0.7)), Nearest("b", 0.25, mirrored=False))
    assert kept.validate_json(kept.dump_json(found)) == found
    row = json.loads(kept.dump_json(found))
    row["pixels"]["likeness"] = math.nan
    with pytest.raises(ValidationError, match="finite"):
        kept.validate_python(row)


@pytest.mark.parametrize("copies", [0, 1, 7, 20])
def test_pictures_of_a_prompt_each_have_clopper_and_pearsons_interval(copies: int) -> None:
    flags = np.arange(20)[np.newaxis] < copies
    share = copied_share(flags, range(20))
    exact = binomtest(copies, 20).proportion_ci(0.95, method="exact")
    assert (share.mean, share.confidence) == (copies / 20, 0.95)
    assert (share.low, share.high) == (pytest.approx(exact.low), pytest.approx(exact.high))


def test_pictures_of_one_prompt_count_as_one() -> None:
    alone = copied_share(np.arange(10)[np.newaxis] < 3, range(10))
    again = copied_share(np.tile(np.arange(10).repeat(4) < 3, (5, 1)), np.arange(10).repeat(4).tolist())
    assert (again.mean, again.low, again.high) == pytest.approx((alone.mean, alone.low, alone.high))


def test_prompts_with_unlike_numbers_of_pictures_count_for_fewer() -> None:
    prompts = [*"a" * 6, *"bcd"]
    share = copied_share(np.zeros((1, 9), dtype=bool), prompts)
    assert (share.mean, share.low) == (0, 0)
    assert share.high == pytest.approx(1 - 0.025 ** (1 / (81 / 39)))
    one = copied_share(np.zeros((3, 5), dtype=bool), ["a"] * 5)
    assert one.high == pytest.approx(0.975)
    assert (copied_share(np.ones((3, 5), dtype=bool), ["a"] * 5).low, one.mean) == (pytest.approx(0.025), 0)
