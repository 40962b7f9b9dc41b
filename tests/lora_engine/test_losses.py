"""The losses and weightings of training against the published formulas, value by value in Python's own arithmetic."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import DDPMScheduler

from lora_engine.config.loss import (
    DebiasedWeighting,
    HuberLoss,
    L1Loss,
    LossConfig,
    MinSnrWeighting,
    MseLoss,
    NoWeighting,
    SoftMinSnrWeighting,
    WeightingConfig,
)
from lora_engine.diffusion import (
    NoiseSchedule,
    PredictionType,
    huber_c,
    loss_per_image,
    loss_weights,
    squared_error_per_image,
)

EVERY = torch.arange(1000)
PREDICTIONS: tuple[PredictionType, ...] = ("epsilon", "v_prediction")
WEIGHTINGS: tuple[WeightingConfig, ...] = (
    NoWeighting(),
    MinSnrWeighting(name="min_snr"),
    MinSnrWeighting(name="min_snr", gamma=1.5),
    SoftMinSnrWeighting(name="soft_min_snr"),
    SoftMinSnrWeighting(name="soft_min_snr", gamma=1.5),
    DebiasedWeighting(name="debiased"),
)
Doubles = npt.NDArray[np.float64]


def stable_diffusions_alphas(*, rescaled: bool) -> Doubles:
    """The product of (1 - beta) at each timestep; rescaled as Lin et al., arXiv 2305.08891, algorithm 1."""
    alphas: Doubles = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    if not rescaled:
        return alphas
    roots = np.sqrt(alphas)
    rescaled_alphas: Doubles = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2
    return rescaled_alphas


def schedule_of(alphas: list[float] | Doubles, prediction_type: PredictionType = "epsilon") -> NoiseSchedule:
    return NoiseSchedule(torch.tensor(alphas, dtype=torch.float64), prediction_type)


def published(config: WeightingConfig, snr: float, prediction_type: PredictionType) -> float:
    """The weight of the loss at a signal-to-noise ratio that is neither 0 nor infinite."""
    of_v = prediction_type == "v_prediction"
    match config:
        case MinSnrWeighting():
            return min(snr, config.gamma) / (snr + 1 if of_v else snr)
        case SoftMinSnrWeighting():
            return snr * config.gamma / (snr + config.gamma) / (snr + 1 if of_v else snr)
        case DebiasedWeighting():
            capped = min(snr, 1000)
            return 1 / (capped + 1) if of_v else 1 / math.sqrt(max(capped, 1e-5))
    return 1.0


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("prediction_type", PREDICTIONS)
@pytest.mark.parametrize("config", WEIGHTINGS, ids=str)
def test_weights_are_those_of_the_published_formula(
    config: WeightingConfig, prediction_type: PredictionType, *, rescaled: bool
) -> None:
    """Of the rescaled schedule where the last timestep is noise alone."""
    alphas = stable_diffusions_alphas(rescaled=rescaled)
    beta_range = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    theirs = DDPMScheduler(**beta_range, rescale_betas_zero_snr=rescaled).alphas_cumprod.double()
    np.testing.assert_allclose(theirs.numpy(), alphas, rtol=1e-3, atol=1e-7)
    found = loss_weights(schedule_of(alphas, prediction_type), EVERY, config)
    expected = [published(config, alpha / (1 - alpha), prediction_type) for alpha in alphas[:-1].tolist()]
    assert found.dtype == torch.float64
    assert found[:-1].tolist() == pytest.approx(expected, rel=1e-9)
    assert found.isfinite().all()
    of_theirs = loss_weights(NoiseSchedule(theirs, prediction_type), EVERY, config)
    torch.testing.assert_close(of_theirs[:990], found[:990], rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("config", "of_epsilon", "of_v"),
    [
        (NoWeighting(), [1, 1, 1, 1], [1, 1, 1, 1]),
        (MinSnrWeighting(name="min_snr"), [1, 1, 5 / 9, 0], [0, 0.5, 0.5, 0]),
        (SoftMinSnrWeighting(name="soft_min_snr"), [1, 5 / 6, 5 / 14, 0], [0, 5 / 12, 9 / 28, 0]),
        (DebiasedWeighting(name="debiased"), [1e5**0.5, 1, 1 / 3, 1e-3**0.5], [1, 0.5, 0.1, 1 / 1001]),
    ],
    ids=str,
)
def test_weights_without_signal_and_without_noise_are_finite(
    config: WeightingConfig, of_epsilon: list[float], of_v: list[float], dtype: torch.dtype
) -> None:
    alphas = [0.0, 0.5, 0.9, 1.0]  # signal to noise: 0, 1, 9 and without end
    for prediction_type, expected in zip(PREDICTIONS, (of_epsilon, of_v), strict=True):
        made = schedule_of(alphas, prediction_type).to(torch.device("cpu"), dtype)
        found = loss_weights(made, torch.tensor([[0, 1], [2, 3]]), config)
        assert found.dtype == dtype
        assert found.flatten().tolist() == pytest.approx(expected, rel=1e-4)


HUBERS: dict[str, tuple[HuberLoss, Callable[[int, float], float]]] = {
    "snr": (
        HuberLoss(name="huber"),
        lambda _, alpha: 0.9 / (1 + math.sqrt((1 - alpha) / alpha)) ** 2 + 0.1 if alpha else 0.1,
    ),
    "exponential": (
        HuberLoss(name="huber", c=0.2, schedule="exponential"),
        lambda timestep, _: math.exp(math.log(0.2) * timestep / 1000),
    ),
    "constant": (HuberLoss(name="huber", c=0.3, schedule="constant"), lambda *_: 0.3),
}


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("name", HUBERS)
def test_where_errors_begin_to_count_as_large_follows_the_published_schedule(name: str, *, rescaled: bool) -> None:
    (config, expected), alphas = HUBERS[name], stable_diffusions_alphas(rescaled=rescaled)
    found = huber_c(config, schedule_of(alphas), EVERY)
    assert found.dtype == torch.float64
    values = [expected(timestep, alpha) for timestep, alpha in enumerate(alphas.tolist())]
    assert found.tolist() == pytest.approx(values, rel=1e-12)


def errors_and_target() -> tuple[list[list[float]], torch.Tensor]:
    """Errors from 1e-6 to 30 of either sign, [4, 12], and a target of such images, [4, 3, 2, 2]."""
    random = np.random.default_rng(5)
    errors = random.choice([-1, 1], (4, 12)) * 10 ** random.uniform(-6, 1.5, (4, 12))
    return errors.tolist(), torch.from_numpy(random.standard_normal((4, 3, 2, 2)))


@pytest.mark.parametrize("name", ["mse", "l1", *HUBERS])
def test_losses_are_the_mean_of_the_published_formula_over_an_image(name: str) -> None:
    errors, target = errors_and_target()
    timesteps = [0, 137, 999, 500]
    alphas = stable_diffusions_alphas(rescaled=True)

    def of_one(error: float, timestep: int) -> float:
        if name in HUBERS:
            c = HUBERS[name][1](timestep, float(alphas[timestep]))
            return 2 * c * (math.sqrt(error**2 + c**2) - c)
        return error**2 if name == "mse" else abs(error)

    config: LossConfig = HUBERS[name][0] if name in HUBERS else MseLoss() if name == "mse" else L1Loss(name="l1")
    expected = [
        sum(of_one(error, timestep) for error in row) / 12 for row, timestep in zip(errors, timesteps, strict=True)
    ]
    prediction = target + torch.tensor(errors, dtype=torch.float64).view_as(target)
    found = loss_per_image(prediction, target, config, schedule_of(alphas), torch.tensor(timesteps))
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_plain_loss_is_what_adapters_are_scored_by_to_the_bit(dtype: torch.dtype) -> None:
    prediction, target = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(3)).to(dtype)
    found = loss_per_image(prediction, target, MseLoss(), schedule_of([0.5]), torch.zeros(3, dtype=torch.long))
    assert torch.equal(found, squared_error_per_image(prediction, target))


@pytest.mark.parametrize("config", [L1Loss(name="l1"), HUBERS["snr"][0], HUBERS["constant"][0]], ids=str)
def test_losses_of_half_precision_are_taken_in_single(config: LossConfig) -> None:
    prediction, target = torch.full((1, 1, 2, 2), 60000.0, dtype=torch.float16), torch.zeros(1, 1, 2, 2)
    found = loss_per_image(prediction, target.half(), config, schedule_of([0.0]), torch.tensor([0]))
    assert found.dtype == torch.float32
    c = config.c if isinstance(config, HuberLoss) else 0.5
    assert found.item() == pytest.approx(2 * c * (60000 - c) if isinstance(config, HuberLoss) else 60000)


@pytest.mark.parametrize("name", HUBERS)
def test_a_perfect_prediction_has_no_loss_and_no_gradient(name: str) -> None:
    prediction, alphas = torch.ones(3, 1, 1, 2, requires_grad=True), stable_diffusions_alphas(rescaled=True)
    losses = loss_per_image(
        prediction, torch.ones(3, 1, 1, 2), HUBERS[name][0], schedule_of(alphas), torch.tensor([0, 500, 999])
    )
    torch.autograd.backward(losses.sum())
    assert losses.tolist() == [0, 0, 0]
    assert prediction.grad is not None
    assert not prediction.grad.any()
