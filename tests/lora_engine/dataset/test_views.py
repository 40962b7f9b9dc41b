"""What views make of a seed's noise and timesteps, against NumPy's own draws and torch's own enlarging."""

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from lora_engine.config.noise import MultiresConfig, NoiseConfig, TimestepsConfig
from lora_engine.dataset.views import View, enlarged, seen_input_noise, seen_noise, seen_timesteps

SEED, STEP = 2**40 + 7, 12


def philox(stream: int, *counter: int) -> np.random.Generator:
    words = [0, *counter, 0, 0][:4]
    return np.random.Generator(
        np.random.Philox(key=np.array([SEED, stream], dtype=np.uint64), counter=np.array(words, dtype=np.uint64))
    )


def drawn(*shape: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.random.default_rng(3).standard_normal(shape, dtype=np.float32)


def view(noise: NoiseConfig) -> View:
    return View(SEED, noise)


def timesteps(first: int, end: int) -> View:
    return View(SEED, timesteps=TimestepsConfig.model_validate({"from": first, "to": end}))


def test_a_plain_view_sees_what_was_drawn() -> None:
    noise, numbers = drawn(2, 4, 3, 5), np.arange(1000)
    assert seen_noise(View(SEED), STEP, noise) is noise
    assert seen_input_noise(View(SEED), STEP, noise) is noise
    for count in (1000, 10, 4000):
        assert np.array_equal(seen_timesteps(View(SEED), np.arange(count), count), np.arange(count))
    assert seen_timesteps(View(SEED), numbers, 1000).dtype == np.int64


@pytest.mark.parametrize(
    ("first", "end", "count", "found"),
    [
        (200, 700, 1000, range(200, 700)),
        (999, 1000, 1000, [999]),
        (0, 1, 1000, [0]),
        (200, 700, 10, range(2, 7)),
        (250, 700, 10, range(2, 7)),  # bounds are rounded down
        (510, 520, 10, [5]),  # less than a timestep: the one that it begins in
        (500, 1000, 4000, range(2000, 4000)),
    ],
)
def test_a_range_is_seen_whole_and_evenly_and_nothing_else_is(
    first: int, end: int, count: int, found: range | list[int]
) -> None:
    seen = seen_timesteps(timesteps(first, end), np.arange(count), count)
    assert np.array_equal(np.unique(seen), np.array(found))
    assert (np.diff(seen) >= 0).all()  # rows stay paired: the one with more noise has more in every range
    times = np.unique(seen, return_counts=True)[1]
    assert times.max() - times.min() <= 1


def test_timesteps_move_in_proportion() -> None:
    seen = seen_timesteps(timesteps(200, 700), np.array([0, 1, 2, 501, 999]), 1000)
    assert seen.tolist() == [200, 200, 201, 450, 699]


def test_an_offset_shifts_whole_channels_of_each_image() -> None:
    noise = drawn(3, 4, 2, 5)
    shifts = philox(12, STEP).standard_normal((3, 4, 1, 1), dtype=np.float32)
    found = seen_noise(view(NoiseConfig(offset=0.1)), STEP, noise)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, noise + 0.1 * shifts.astype(np.float64), rtol=0, atol=1e-6)
    assert not np.array_equal(found, seen_noise(view(NoiseConfig(offset=0.1)), STEP + 1, noise))


def test_a_perturbation_is_added_to_what_is_learned() -> None:
    noise = drawn(3, 4, 2, 5)
    other = philox(14, STEP).standard_normal((3, 4, 2, 5), dtype=np.float32)
    perturbed = view(NoiseConfig(input_perturbation=0.2))
    assert seen_noise(perturbed, STEP, noise) is noise
    found = seen_input_noise(perturbed, STEP, noise)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, noise + 0.2 * other.astype(np.float64), rtol=0, atol=1e-6)


def several_sizes(config: MultiresConfig, image: int, noise: torch.Tensor) -> tuple[torch.Tensor, list[list[int]]]:
    """The noise as sd-scripts makes it, of one image in float64 with torch's enlarging, and the sizes in it."""
    generator, sizes = philox(13, STEP, image), []
    for iteration in range(config.iterations):
        shrink = (generator.random() * 2 + 2) ** iteration
        sizes.append([max(1, int(side / shrink)) for side in noise.shape[1:]])
        smaller = torch.from_numpy(generator.standard_normal((len(noise), *sizes[-1]), dtype=np.float32)).double()
        whole = interpolate(smaller[None], noise.shape[1:], mode="bilinear", align_corners=False)
        noise = noise + whole[0] * config.discount**iteration
        if 1 in sizes[-1]:
            break
    return noise / noise.std(), sizes


@pytest.mark.parametrize("config", [MultiresConfig(), MultiresConfig(iterations=2, discount=0.7)], ids=str)
@pytest.mark.parametrize("size", [(16, 40), (64, 64), (1, 3)])
def test_noise_of_several_sizes_is_an_images_own_with_a_deviation_of_one(
    config: MultiresConfig, size: tuple[int, int]
) -> None:
    noise, of_config = drawn(3, 4, *size), view(NoiseConfig(multires=config))
    found = seen_noise(of_config, STEP, noise)
    assert found.dtype == np.float32
    assert found.std(axis=(1, 2, 3), ddof=1) == pytest.approx(1, abs=1e-5)
    sizes = []
    for image, of_image in enumerate(noise):
        expected, its_sizes = several_sizes(config, image, torch.from_numpy(of_image).double())
        np.testing.assert_allclose(found[image], expected.numpy(), rtol=0, atol=3e-6)
        sizes += [tuple(each) for each in its_sizes]
    assert max(sizes) == size
    assert len(set(sizes)) > 1 or min(size) == 1
    # An image's noise does not depend on those beside it.
    beside = noise.copy()
    beside[1] *= 7
    again = seen_noise(of_config, STEP, beside)
    assert np.array_equal(again[[0, 2]], found[[0, 2]])


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 4), (7, 9)])
def test_noise_is_enlarged_as_torch_does_it(shape: tuple[int, int]) -> None:
    noise = drawn(2, *shape)
    expected = interpolate(torch.from_numpy(noise)[None].double(), (7, 9), mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(enlarged(noise, 7, 9), expected.numpy(), rtol=0, atol=1e-6)
    if shape == (7, 9):
        assert np.array_equal(enlarged(noise, 7, 9), noise)
