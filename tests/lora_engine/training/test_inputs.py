"""The batch of a pack whose members see other noise and timesteps, against one made image by image."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lora_engine.config.noise import MultiresConfig, NoiseConfig, TimestepsConfig
from lora_engine.dataset.draws import Draws, PackMember, views_of
from lora_engine.diffusion import NoiseSchedule, PredictionType
from lora_engine.training.gradients import Batch, make_batch
from lora_engine.training.inputs import InputReader
from tests.lora_engine.tiny import tiny_data, tiny_member

CPU = torch.device("cpu")
PLAIN = (tiny_member("a", 5, 1), tiny_member("b", 0, 2))
LOW = TimestepsConfig.model_validate({"from": 100, "to": 400})
MIXED = (
    *PLAIN,
    replace(tiny_member("c", 0, 3), noise=NoiseConfig(offset=0.1, input_perturbation=0.2)),
    replace(tiny_member("d", 5, 3), noise=NoiseConfig(multires=MultiresConfig()), timesteps=LOW),
)
IMAGES = slice(1, 4)  # of the five of an update: another process computes the others


def schedule_of(prediction_type: PredictionType) -> NoiseSchedule:
    """One whose last timestep is noise alone."""
    return NoiseSchedule(torch.cos(torch.linspace(0.05, torch.pi / 2, 1000, dtype=torch.float64)) ** 2, prediction_type)


def batch_of(members: tuple[PackMember, ...], made: NoiseSchedule, *, resident: bool = True) -> tuple[Batch, Draws]:
    data = tiny_data(resident=resident)
    seeds = tuple(dict.fromkeys(member.seed for member in members))
    draws = Draws(seeds, data.image_ids, data.latent_shape, 5, 1000, views=views_of(members))
    reader = InputReader(data, members, draws, IMAGES)
    return make_batch(reader.place(reader.read(3), range(len(members))), data, made), draws


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_each_view_has_its_seeds_images_with_its_own_noise(prediction_type: PredictionType, *, resident: bool) -> None:
    noise_schedule, data = schedule_of(prediction_type), tiny_data()
    batch, draws = batch_of(MIXED, noise_schedule, resident=resident)
    draw = draws.of_step(3)
    seen, moments = draws.seen(draw), data.moments.place(data.moments.read(np.arange(7)))
    for view, seed in enumerate([0, 1, 1, 0]):
        for at, image in enumerate(range(5)[IMAGES]):
            mean, std = moments[draw.indices[seed, image]]
            latents = mean + std * torch.from_numpy(draw.posterior[seed, image])
            noise, input_noise = (
                torch.from_numpy(made[view, image]).double() for made in (seen.noise, seen.input_noise)
            )
            alpha = noise_schedule.alphas_cumprod_T[seen.timesteps[view, image]]
            wanted = noise
            if prediction_type == "v_prediction":
                wanted = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
            noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * input_noise
            torch.testing.assert_close(batch.noisy[view, at], noisy, rtol=0, atol=1e-12)
            torch.testing.assert_close(batch.target[view, at], wanted, rtol=0, atol=1e-12)
            assert batch.timesteps[view, at] == seen.timesteps[view, image]
    assert batch.noisy.dtype == torch.float64


def test_members_without_such_settings_see_beside_others_what_they_see_without_them() -> None:
    mixed, plain = (batch_of(members, schedule_of("v_prediction"))[0] for members in (MIXED, PLAIN))
    for name in ("noisy", "target", "timesteps"):
        assert torch.equal(getattr(mixed, name)[:2], getattr(plain, name))
    # Views of one seed see the same noise moved, not other noise.
    assert not torch.equal(mixed.noisy[2], mixed.noisy[1])
    shift = mixed.target[2] - mixed.target[1]
    assert shift.flatten(2).std(dim=2).max() < 1e-6


def test_no_noise_is_read_twice_where_what_is_seen_is_what_is_learned() -> None:
    data = tiny_data()
    draws = Draws((5, 0), data.image_ids, data.latent_shape, 5, 1000)
    inputs = InputReader(data, PLAIN, draws, IMAGES).read(3).inputs
    assert inputs.input_noise.shape == (0, 3, 4, 8, 8)
    assert inputs.noise.shape == (2, 3, 4, 8, 8)
