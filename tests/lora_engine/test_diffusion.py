"""The forward process against diffusers', and losses against numbers worked out by hand."""

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch.nn import functional

from lora_engine.diffusion import (
    NoiseSchedule,
    PredictionType,
    add_noise,
    min_snr_weights,
    squared_error_per_image,
    target,
)

CPU = torch.device("cpu")
TIMESTEPS = torch.tensor([0, 137, 500, 999])


def scheduler(prediction_type: PredictionType = "epsilon") -> DDPMScheduler:
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        clip_sample=False,
    )


def schedule(prediction_type: PredictionType = "epsilon") -> NoiseSchedule:
    return NoiseSchedule(scheduler().alphas_cumprod.double(), prediction_type)


def latents_and_noise() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 4, 4, 3, 5, generator=generator, dtype=torch.float64)
    return latents, noise


def test_noise_is_added_as_diffusers_adds_it() -> None:
    latents, noise = latents_and_noise()
    expected = scheduler().add_noise(latents, noise, TIMESTEPS)
    torch.testing.assert_close(add_noise(schedule(), latents, noise, TIMESTEPS), expected, rtol=1e-12, atol=1e-12)


def test_velocity_is_that_of_diffusers() -> None:
    latents, noise = latents_and_noise()
    expected = scheduler().get_velocity(latents, noise, TIMESTEPS)
    found = target(schedule("v_prediction"), latents, noise, TIMESTEPS)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_signal_and_noise_have_the_shares_that_the_product_of_alphas_says() -> None:
    by_hand = NoiseSchedule(torch.tensor([0.64, 0.36], dtype=torch.float64), "v_prediction")
    latents, noise = torch.full((2, 1, 1, 1), 10.0), torch.full((2, 1, 1, 1), 1.0)
    timesteps = torch.tensor([0, 1])
    noisy = add_noise(by_hand, latents, noise, timesteps).flatten()
    assert noisy.tolist() == pytest.approx([0.8 * 10 + 0.6 * 1, 0.6 * 10 + 0.8 * 1])
    velocity = target(by_hand, latents, noise, timesteps).flatten()
    assert velocity.tolist() == pytest.approx([0.8 * 1 - 0.6 * 10, 0.6 * 1 - 0.8 * 10])


def test_the_noise_itself_is_what_epsilon_prediction_learns() -> None:
    latents, noise = latents_and_noise()
    assert torch.equal(target(schedule(), latents, noise, TIMESTEPS), noise)


def test_the_true_velocity_and_the_noisy_latents_give_the_latents_back() -> None:
    latents, noise = latents_and_noise()
    of_v = schedule("v_prediction")
    noisy, velocity = (rule(of_v, latents, noise, TIMESTEPS) for rule in (add_noise, target))
    theirs = scheduler("v_prediction")
    for at, timestep in enumerate(TIMESTEPS.tolist()):
        original = theirs.step(velocity[at], timestep, noisy[at]).pred_original_sample
        torch.testing.assert_close(original, latents[at], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_weights_by_signal_to_noise_are_those_of_diffusers(prediction_type: PredictionType, gamma: float) -> None:
    timesteps = torch.arange(1000)
    snr = compute_snr(scheduler(), timesteps).double()
    capped = torch.stack([snr, torch.full_like(snr, gamma)]).min(dim=0).values
    expected = capped / (snr if prediction_type == "epsilon" else snr + 1)
    found = min_snr_weights(schedule(prediction_type), timesteps, gamma)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)  # diffusers takes roots in single precision
    assert found.dtype == torch.float64


def test_weights_by_signal_to_noise_worked_out_by_hand() -> None:
    # signal to noise: 9, 1, 0 and without end
    alphas, timesteps = torch.tensor([0.9, 0.5, 0.0, 1.0], dtype=torch.float64), torch.tensor([[3, 2], [1, 0]])
    of_epsilon = min_snr_weights(NoiseSchedule(alphas, "epsilon"), timesteps)
    assert of_epsilon.tolist() == [[0, 1], [1, pytest.approx(5 / 9)]]
    of_v = min_snr_weights(NoiseSchedule(alphas, "v_prediction"), timesteps)
    assert of_v.tolist() == [[0, 0], [0.5, pytest.approx(5 / 10)]]
    assert min_snr_weights(NoiseSchedule(alphas, "epsilon"), timesteps, gamma=18).tolist() == [[0, 1], [1, 1]]


def test_an_images_loss_is_the_mean_square_over_its_own_values() -> None:
    prediction, wanted = latents_and_noise()
    expected = [functional.mse_loss(one, other) for one, other in zip(prediction, wanted, strict=True)]
    torch.testing.assert_close(squared_error_per_image(prediction, wanted), torch.stack(expected))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_losses_of_half_precision_are_taken_in_single(half: torch.dtype) -> None:
    prediction, wanted = torch.full((1, 1, 2, 2), 300.0, dtype=half), torch.zeros(1, 1, 2, 2, dtype=half)
    found = squared_error_per_image(prediction, wanted)
    assert found.dtype == torch.float32
    assert found.tolist() == [90_000.0]  # more than float16 holds
    # a difference that half precision would round away
    near = torch.full((1, 1, 2, 2), 2048.0 + 2**-7)
    assert squared_error_per_image(torch.full((1, 1, 2, 2), 2048.0, dtype=half), near).tolist() == [2**-14]
    assert squared_error_per_image(near, torch.full((1, 1, 2, 2), 2048.0, dtype=half)).tolist() == [2**-14]


def test_what_is_predicted_in_double_or_single_precision_is_judged_in_that() -> None:
    prediction, wanted = latents_and_noise()
    assert squared_error_per_image(prediction, wanted.float()).dtype == torch.float64
    assert squared_error_per_image(prediction.float(), wanted).dtype == torch.float32


def test_a_schedule_moves_as_a_whole() -> None:
    moved = schedule("v_prediction").to(CPU)
    assert moved.alphas_cumprod_T.dtype == torch.float32
    assert moved.prediction_type == "v_prediction"
    assert torch.equal(moved.alphas_cumprod_T, scheduler().alphas_cumprod)
    elsewhere = schedule().to(torch.device("meta"), torch.float64)
    assert elsewhere.alphas_cumprod_T.device.type == "meta"
    assert elsewhere.alphas_cumprod_T.dtype == torch.float64
    assert elsewhere.num_train_timesteps == 1000
