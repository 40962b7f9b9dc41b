"""Every draw against NumPy's Philox with the key and counter that it is for, and grids against sums done by hand."""

import numpy as np
import numpy.typing as npt
import pytest

from lora_engine.dataset import randomness

IMAGE = "00000000000000ff" + "1" * 48
OTHER = "fedcba9876543210" + "0" * 48


def philox(key: int, stream: int, *counter: int) -> np.random.Generator:
    """The generator of a stream; numbers are part of what a seed means, so they are written out here."""
    words = [0, *counter, 0, 0, 0][:4]
    return np.random.Generator(
        np.random.Philox(key=np.array([key, stream], dtype=np.uint64), counter=np.array(words, dtype=np.uint64))
    )


def same(found: npt.NDArray[np.generic], expected: npt.NDArray[np.generic]) -> bool:
    return found.dtype == expected.dtype and np.array_equal(found, expected)


@pytest.mark.parametrize(("seed", "step"), [(0, 1), (7, 3), (2**63 - 1, 1_000_000)])
def test_an_updates_draws_are_keyed_by_seed_and_step(seed: int, step: int) -> None:
    shape = (2, 3, 4)
    normal = {
        randomness.training_noise: 3,
        randomness.posterior_noise: 4,
        randomness.perturbation_noise: 14,
    }
    for draw, stream in normal.items():
        assert same(draw(seed, step, shape), philox(seed, stream, step).standard_normal(shape, dtype=np.float32))
    offsets = philox(seed, 12, step).standard_normal((3, 2, 1, 1), dtype=np.float32)
    assert same(randomness.offset_noise(seed, step, 3, 2), offsets)
    timesteps = philox(seed, 2, step).integers(0, 1000, size=9, dtype=np.int64)
    assert same(randomness.training_timesteps(seed, step, 9, 1000), timesteps)
    assert same(randomness.flips(seed, step, 40), philox(seed, 11, step).integers(0, 2, size=40, dtype=np.int64))
    assert same(randomness.dropout_uniform(seed, step, 9), philox(seed, 5, step).random(9, dtype=np.float32))


@pytest.mark.parametrize(("height", "width", "iterations"), [(64, 48, 6), (64, 64, 2), (64, 64, 1), (1, 5, 3)])
def test_noise_of_several_sizes_is_keyed_by_seed_step_and_image(height: int, width: int, iterations: int) -> None:
    for image in (0, 5):
        generator, sizes = philox(7, 13, 3, image), []
        for at, found in enumerate(randomness.multires_noise(7, 3, image, (2, height, width), iterations)):
            shrink = generator.uniform(2, 4) ** at
            sizes.append((max(1, int(height / shrink)), max(1, int(width / shrink))))
            assert same(found, generator.standard_normal((2, *sizes[-1]), dtype=np.float32))
        assert sizes[0] == (height, width)
        assert len(sizes) == iterations or 1 in sizes[-1]
        assert not any(1 in size for size in sizes[:-1])


def test_an_images_draws_are_keyed_by_the_first_sixteen_digits_of_its_id() -> None:
    assert randomness.caption_uniform(5, 2, IMAGE) == philox(5, 6, 2, 255).random()
    assert randomness.caption_uniform(5, 2, OTHER) == philox(5, 6, 2, 0xFEDCBA9876543210).random()
    assert randomness.validation_caption_uniform(IMAGE) == philox(255, 10).random()
    noise = philox(0xFEDCBA9876543210, 7, 3).standard_normal((2, 5), dtype=np.float32)
    assert same(randomness.validation_noise(OTHER, 3, (2, 5)), noise)


def test_the_order_of_each_epoch_is_a_permutation_keyed_by_the_epoch() -> None:
    orders = np.concatenate([philox(9, 1, epoch).permutation(5) for epoch in range(5)])
    for step in range(1, 9):
        indices, epochs = randomness.sample_positions(9, step, 3, 5)
        assert same(indices, orders[3 * step - 3 : 3 * step])
        assert same(epochs, np.repeat(np.arange(5), 5)[3 * step - 3 : 3 * step])


def test_an_update_may_see_several_epochs() -> None:
    indices, epochs = randomness.sample_positions(9, 2, 7, 3)
    assert epochs.tolist() == [2, 2, 3, 3, 3, 4, 4]
    expected = np.concatenate([philox(9, 1, epoch).permutation(3) for epoch in (2, 3, 4)])[1:8]
    assert indices.tolist() == expected.tolist()


@pytest.mark.parametrize(("strata", "train_timesteps"), [(1, 1000), (4, 1000), (16, 1000), (7, 100)])
def test_validation_timesteps_stand_at_one_offset_in_equal_ranges(strata: int, train_timesteps: int) -> None:
    offset = philox(255, 8).random()
    expected = [int((stratum + offset) / strata * train_timesteps) for stratum in range(strata)]
    assert same(randomness.validation_timesteps(IMAGE, strata, train_timesteps), np.array(expected))


@pytest.mark.parametrize(("curve", "final"), [(4, 16), (1, 16), (16, 16), (2, 10)])
def test_the_curve_takes_the_same_stratum_of_each_coarse_range(curve: int, final: int) -> None:
    for image in (IMAGE, OTHER):
        within = int(philox(int(image[:16], 16), 9).integers(final // curve))
        expected = [coarse * (final // curve) + within for coarse in range(curve)]
        assert same(randomness.curve_columns(image, curve, final), np.array(expected))


def test_draws_stay_what_they_were_in_runs_that_are_to_be_resumed() -> None:
    """What a seed draws may not change from one version of the program or of NumPy to the next."""
    indices, epochs = randomness.sample_positions(1337, 12, 8, 10)
    assert indices.tolist() == [0, 9, 7, 2, 8, 5, 3, 9]
    assert epochs.tolist() == [8, 8, 9, 9, 9, 9, 9, 9]
    assert randomness.training_timesteps(1337, 12, 8, 1000).tolist() == [946, 440, 493, 371, 272, 421, 717, 767]
    assert randomness.flips(1337, 12, 8).tolist() == [0, 0, 1, 1, 1, 1, 1, 0]
    assert randomness.training_noise(1337, 12, (4,)).tolist() == pytest.approx(
        [-0.228716, 1.239938, -0.629356, 1.16118], abs=1e-6
    )
    assert randomness.offset_noise(1337, 12, 1, 2).ravel().tolist() == pytest.approx([1.458656, -0.403798], abs=1e-6)
    assert randomness.perturbation_noise(1337, 12, (2,)).tolist() == pytest.approx([0.207413, -0.167471], abs=1e-6)
    sizes = list(randomness.multires_noise(1337, 12, 1, (1, 40, 40), 3))
    assert [size.shape for size in sizes] == [(1, 40, 40), (1, 16, 16), (1, 4, 4)]
    assert [float(size.ravel()[0]) for size in sizes] == pytest.approx([1.649303, 1.021799, 2.014662], abs=1e-6)
    assert randomness.dropout_uniform(1337, 12, 3).tolist() == pytest.approx([0.027761, 0.836154, 0.908562], abs=1e-6)
