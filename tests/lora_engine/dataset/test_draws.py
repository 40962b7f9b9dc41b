"""What an update sees against NumPy's own draws, and which captions against choices made by hand."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lora_engine.config.noise import MultiresConfig, NoiseConfig, TimestepsConfig
from lora_engine.dataset.draws import EMPTY_PROMPT_ROW, Draw, Draws, PackMember, choose_texts, views_of
from lora_engine.dataset.views import View, seen_input_noise, seen_noise, seen_timesteps

IDS = tuple(f"{at:016x}" + "a" * 48 for at in (3, 1, 4, 15, 9))
SEEDS = (11, 5)


def philox(key: int, stream: int, *counter: int) -> np.random.Generator:
    words = [0, *counter, 0, 0, 0][:4]
    return np.random.Generator(
        np.random.Philox(key=np.array([key, stream], dtype=np.uint64), counter=np.array(words, dtype=np.uint64))
    )


def draws(*, flips: bool = False) -> Draws:
    return Draws(SEEDS, IDS, (4, 2, 3), 6, 1000, flips)


def member(seed: int, weights: tuple[float, ...], dropout: float = 0.0) -> PackMember:
    """Image i's text p is row 10 i + p + 1 of the embeddings."""
    rows = 10 * np.arange(len(IDS))[:, np.newaxis] + np.arange(len(weights)) + 1
    return PackMember("m", seed, rows, np.array([weights] * len(IDS)), dropout)


def drawn(indices: list[list[int]], epochs: list[list[int]], flips: list[list[int]] | None = None) -> Draw:
    """An update of two seeds, whose noise tells the seeds apart."""
    values = np.arange(2, dtype=np.float32).reshape(2, 1, 1, 1, 1)
    return Draw(
        step=3,
        indices=np.array(indices),
        epochs=np.array(epochs),
        flips=np.array(flips or np.zeros_like(indices)),
        timesteps=np.array([[7, 8], [9, 10]]),
        noise=values + 0.25,
        posterior=values + 0.5,
        dropout_keys=np.array([[11, 12], [13, 14]]),
    )


def test_each_seed_has_draws_of_its_own_row_after_row() -> None:
    found = draws(flips=True).of_step(4)
    assert found.step == 4
    for at, seed in enumerate(SEEDS):
        order = np.concatenate([philox(seed, 1, epoch).permutation(5) for epoch in (3, 4)])
        assert found.indices[at].tolist() == order[3:9].tolist()
        assert found.epochs[at].tolist() == [3, 3, 4, 4, 4, 4]
        assert found.timesteps[at].tolist() == philox(seed, 2, 4).integers(0, 1000, size=6).tolist()
        assert found.flips[at].tolist() == philox(seed, 11, 4).integers(0, 2, size=6).tolist()
        assert found.dropout_keys[at].tolist() == philox(seed, 15, 4).integers(0, 2**32, size=6).tolist()
        noise, posterior = (philox(seed, s, 4).standard_normal((6, 4, 2, 3), dtype=np.float32) for s in (3, 4))
        assert np.array_equal(found.noise[at], noise)
        assert np.array_equal(found.posterior[at], posterior)
    assert found.flips.any()
    assert not draws().of_step(4).flips.any()
    assert found.indices.shape == (2, 6)


def test_plain_members_see_what_their_seeds_draw() -> None:
    """To the bit, and without a copy; in whatever order the members stand."""
    members = [member(seed, (1.0,)) for seed in (11, 5, 11)]
    for made in (draws(), replace(draws(), views=views_of(members))):
        draw = made.of_step(4)
        seen = made.seen(draw)
        assert seen.seed_of_view.tolist() == [0, 1]
        assert seen.timesteps is draw.timesteps
        assert seen.noise is draw.noise
        assert seen.input_noise is draw.noise


def test_members_of_one_seed_and_equal_settings_share_a_view() -> None:
    low = TimestepsConfig.model_validate({"to": 500})
    offset, several = NoiseConfig(offset=0.1), NoiseConfig(multires=MultiresConfig(), input_perturbation=0.2)
    settings: list[tuple[int, dict[str, Any]]] = [
        (11, {}),
        (5, {"noise": offset}),
        (11, {"noise": several}),
        (11, {}),
        (5, {"noise": offset}),
    ]
    settings += [(11, {"noise": NoiseConfig(offset=0.1), "timesteps": low})]
    members = [replace(member(seed, (1.0,)), **own) for seed, own in settings]
    views = views_of(members)
    assert views == (View(11), View(5, offset), View(11, several), View(11, offset, low))
    assert [views.index(each.view) for each in members] == [0, 1, 2, 0, 1, 3]

    made = replace(draws(), views=views)
    draw = made.of_step(4)
    seen = made.seen(draw)
    assert seen.seed_of_view.tolist() == [0, 1, 0, 0]
    assert seen.seed_of_view.dtype == np.int64
    for at, (view, seed) in enumerate(zip(views, [0, 1, 0, 0], strict=True)):
        noise = seen_noise(view, 4, draw.noise[seed])
        assert np.array_equal(seen.timesteps[at], seen_timesteps(view, draw.timesteps[seed], 1000))
        assert np.array_equal(seen.noise[at], noise)
        assert np.array_equal(seen.input_noise[at], seen_input_noise(view, 4, noise))
    assert np.array_equal(seen.noise[0], draw.noise[0])
    assert not np.array_equal(seen.noise[2], seen.input_noise[2])
    assert (seen.timesteps[3] < 500).all()
    # What is proved is that members saw the same base: what their seed drew.
    plain = draws().of_step(4)
    assert made.hashes(draw) == draws().hashes(plain)


def test_noise_is_made_once_where_no_view_perturbs_it() -> None:
    made = replace(draws(), views=(View(11, NoiseConfig(offset=0.1)), View(5)))
    seen = made.seen(made.of_step(4))
    assert seen.input_noise is seen.noise


def test_views_are_those_of_the_seeds() -> None:
    with pytest.raises(AssertionError):
        replace(draws(), views=(View(11), View(6)))


def test_images_show_their_one_caption() -> None:
    rows = draws().caption_rows(drawn([[0, 4], [2, 1]], [[0, 0], [0, 0]]), [member(11, (1.0,)), member(5, (1.0,))])
    assert rows.tolist() == [[1, 41], [21, 11]]


def test_members_of_one_seed_see_the_same_images() -> None:
    draw = drawn([[0, 4], [2, 1]], [[0, 0], [0, 0]])
    rows = draws().caption_rows(draw, [member(5, (1.0,)), member(11, (1.0,)), member(5, (1.0,))])
    assert rows.tolist() == [[21, 11], [1, 41], [21, 11]]


def test_a_mix_chooses_by_image_and_epoch_in_proportion_to_the_weights() -> None:
    weights = (0.25, 0.5, 0.25)
    indices, epochs = list(range(5)) * 8, [epoch for epoch in range(8) for _ in range(5)]
    found = draws().caption_rows(drawn([indices, indices], [epochs, epochs]), [member(5, weights)])[0]
    expected = []
    for image, epoch in zip(indices, epochs, strict=True):
        uniform = philox(5, 6, epoch, int(IDS[image][:16], 16)).random()
        expected.append(10 * image + 1 + (0 if uniform < 0.25 else 1 if uniform < 0.75 else 2))
    assert found.tolist() == expected
    assert len({row % 10 for row in expected}) == 3


def test_a_mix_of_two_chooses_too() -> None:
    found = draws().caption_rows(drawn([[0, 1, 2, 3, 4]] * 2, [[6] * 5] * 2), [member(11, (0.5, 0.5))])[0]
    uniform = [philox(11, 6, 6, int(image[:16], 16)).random() for image in IDS]
    assert found.tolist() == [10 * image + (1 if uniform[image] < 0.5 else 2) for image in range(5)]
    assert {row % 10 for row in found.tolist()} == {1, 2}


def test_a_dropped_caption_is_the_empty_prompt() -> None:
    uniform = philox(11, 5, 3).random(40, dtype=np.float32)
    indices = [[2] * 40] * 2
    rate = float(np.sort(uniform)[10])  # the draw that is the rate itself keeps its caption
    rows = draws().caption_rows(drawn(indices, [[0] * 40] * 2), [member(11, (1.0,), rate), member(11, (1.0,))])
    assert EMPTY_PROMPT_ROW == 0
    assert rows[0].tolist() == [0 if draw < rate else 21 for draw in uniform]
    assert rows[0].tolist().count(0) == 10
    assert set(rows[1]) == {21}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((1.0,), [0, 0, 0, 0, 0]), ((0.5, 0.5), [0, 0, 1, 1, 1]), ((0.25, 0.25, 0.5), [0, 1, 2, 2, 2])],
)
def test_a_part_holds_its_range_from_its_lower_edge(weights: tuple[float, ...], expected: list[int]) -> None:
    found = choose_texts(np.array([weights] * 5), np.array([0.0, 0.25, 0.5, 0.75, 1 - 2**-53]))
    assert found.dtype == np.int64
    assert found.tolist() == expected


def test_weights_that_sum_to_a_little_less_than_one_choose_no_part_beyond_the_last() -> None:
    assert choose_texts(np.array([[0.1] * 10]), np.array([1 - 2**-53])).tolist() == [9]


def test_each_image_has_weights_of_its_own() -> None:
    weights = np.array([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5], [1.0, 0.0, 0.0]])
    assert choose_texts(weights, np.array([0.6, 0.6, 0.6])).tolist() == [1, 2, 0]


def test_hashes_are_of_what_each_seed_saw() -> None:
    draw = drawn([[0, 4], [2, 1]], [[0, 0], [1, 1]], [[0, 1], [0, 0]])
    orders = [f"{IDS[0]}\n-{IDS[4]}", f"{IDS[2]}\n{IDS[1]}"]
    timesteps = [np.array([7, 8]), np.array([9, 10])]
    noises = [np.array([0.25, 0.5], dtype=np.float32), np.array([1.25, 1.5], dtype=np.float32)]
    assert draws(flips=True).hashes(draw) == tuple(
        (
            hashlib.sha256(order.encode()).hexdigest(),
            hashlib.sha256(timestep.tobytes()).hexdigest(),
            hashlib.sha256(noise.tobytes()).hexdigest(),
        )
        for order, timestep, noise in zip(orders, timesteps, noises, strict=True)
    )
