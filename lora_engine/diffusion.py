"""The forward process of diffusion and what the UNet learns of it: pure functions of tensors.

Shape legend: B images in a batch, C latent channels, H and W latent height and width, T training timesteps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

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
from lora_engine.config.models import PredictionType

# The signal-to-noise ratios between which debiased weights follow the ratio. The upper one is kohya's, the lower one
# stands below the end of every schedule that has some signal there: DDPM's linear one ends at 4e-5.
_LEAST_DEBIASED_SNR, _MOST_DEBIASED_SNR = 1e-5, 1000.0


@dataclass(frozen=True)
class NoiseSchedule:
    """The amount of noise at each timestep, and what the base model predicts, as its scheduler says."""

    alphas_cumprod_T: Tensor  # the product of (1 - beta) up to each timestep, in [0, 1], float64 as it is loaded
    prediction_type: PredictionType

    @property
    def num_train_timesteps(self) -> int:
        """The number of timesteps that training draws from: timesteps are in [0, num_train_timesteps)."""
        return self.alphas_cumprod_T.shape[0]

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether the last timestep is noise alone."""
        return bool(self.alphas_cumprod_T[-1] == 0)

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> "NoiseSchedule":
        """The same noise schedule on a device and in a dtype to compute with."""
        return NoiseSchedule(self.alphas_cumprod_T.to(device, dtype), self.prediction_type)


def _coefficients(noise_schedule: NoiseSchedule, timesteps_B: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of signal and noise at each timestep, [B, 1, 1, 1] each. Their squares add up to 1."""
    alpha_B = noise_schedule.alphas_cumprod_T[timesteps_B]
    return alpha_B.sqrt().view(-1, 1, 1, 1), (1 - alpha_B).sqrt().view(-1, 1, 1, 1)


def add_noise(noise_schedule: NoiseSchedule, latents_BCHW: Tensor, noise_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
    """Add noise to clean latents: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise. [B, C, H, W].

    Source: Ho et al., arXiv 2006.11239, equation 4.
    """
    signal, sigma = _coefficients(noise_schedule, timesteps_B)
    return signal * latents_BCHW + sigma * noise_BCHW


def target(noise_schedule: NoiseSchedule, latents_BCHW: Tensor, noise_BCHW: Tensor, timesteps_B: Tensor) -> Tensor:
    """The values that the UNet should predict: the noise, or v = sqrt(abar) noise - sqrt(1 - abar) x_0. [B, C, H, W].

    Source of v: Salimans and Ho, arXiv 2202.00512, section 4.
    """
    if noise_schedule.prediction_type == "epsilon":
        return noise_BCHW
    signal, sigma = _coefficients(noise_schedule, timesteps_B)
    return signal * noise_BCHW - sigma * latents_BCHW


def min_snr_weights(noise_schedule: NoiseSchedule, timesteps_B: Tensor, gamma: float = 5.0) -> Tensor:
    """The weight of the loss at each timestep: min(SNR, gamma) / SNR, or of v min(SNR, gamma) / (SNR + 1). [B].

    Source: Hang et al., arXiv 2303.09556, section 3.4.
    """
    alpha_B = noise_schedule.alphas_cumprod_T[timesteps_B]
    snr_B = alpha_B / (1 - alpha_B)
    if noise_schedule.prediction_type == "epsilon":
        return (gamma / snr_B).clamp(max=1)  # 1 also where there is no signal at all
    return snr_B.clamp(max=gamma) / (snr_B + 1)


def soft_min_snr_weights(noise_schedule: NoiseSchedule, timesteps_B: Tensor, gamma: float) -> Tensor:
    """The weight of the loss at each timestep: gamma / (SNR + gamma), of v that times SNR / (SNR + 1). [B].

    Source: Crowson et al., arXiv 2401.11605, whose weight of the error of x_0 is SNR gamma / (SNR + gamma); that
    error is 1 / SNR of the noise's and 1 / (SNR + 1) of v's. Written in abar, both are finite where SNR is not.
    """
    alpha_B = noise_schedule.alphas_cumprod_T[timesteps_B]
    scaled_B = gamma * (1 - alpha_B)
    of_epsilon_B = scaled_B / (alpha_B + scaled_B)
    return of_epsilon_B if noise_schedule.prediction_type == "epsilon" else alpha_B * of_epsilon_B


def debiased_weights(noise_schedule: NoiseSchedule, timesteps_B: Tensor) -> Tensor:
    """The weight of the loss at each timestep: 1 / sqrt(SNR), or of v, in kohya's form, 1 / (SNR + 1). [B].

    SNR counts as 1000 where it is more, and for epsilon as 1e-5 where it is less.

    Sources: Yu et al., arXiv 2310.08442, for epsilon; sd-scripts, `apply_debiased_estimation`, for v and the 1000.
    """
    alpha_B = noise_schedule.alphas_cumprod_T[timesteps_B]
    snr_B = (alpha_B / (1 - alpha_B)).clamp(max=_MOST_DEBIASED_SNR)
    if noise_schedule.prediction_type == "epsilon":
        return snr_B.clamp(min=_LEAST_DEBIASED_SNR).rsqrt()
    return 1 / (snr_B + 1)


def loss_weights(noise_schedule: NoiseSchedule, timesteps_B: Tensor, config: WeightingConfig) -> Tensor:
    """What each image's loss is multiplied by in training, finite at every timestep. [B], in the schedule's dtype.

    SNR is that of `noise_schedule`, which is rescaled already where the last timestep is noise alone.
    """
    match config:
        case MinSnrWeighting():
            return min_snr_weights(noise_schedule, timesteps_B, config.gamma)
        case SoftMinSnrWeighting():
            return soft_min_snr_weights(noise_schedule, timesteps_B, config.gamma)
        case DebiasedWeighting():
            return debiased_weights(noise_schedule, timesteps_B)
        case NoWeighting():
            return torch.ones_like(timesteps_B, dtype=noise_schedule.alphas_cumprod_T.dtype)


def squared_error_per_image(prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """The mean squared error of every image over its latent values, in float32 or the wider of the two dtypes. [B]."""
    return _errors(prediction_BCHW, target_BCHW).square().mean(dim=(1, 2, 3))


def loss_per_image(
    prediction_BCHW: Tensor,
    target_BCHW: Tensor,
    config: LossConfig,
    noise_schedule: NoiseSchedule,
    timesteps_B: Tensor,
) -> Tensor:
    """The loss of every image that `config` asks for, before it is weighted, in float32 or wider. [B].

    It is the mean over the image's latent values of e^2 (mse), |e| (l1), or 2 c (sqrt(e^2 + c^2) - c) (huber), which is
    e^2 for small errors e, and 2 c |e| for large ones.

    Source of huber: Khrapov et al., arXiv 2403.16728, with the factor as in sd-scripts, `conditional_loss`.
    """
    match config:
        case MseLoss():
            return squared_error_per_image(prediction_BCHW, target_BCHW)
        case L1Loss():
            return _errors(prediction_BCHW, target_BCHW).abs().mean(dim=(1, 2, 3))
        case HuberLoss():
            errors = _errors(prediction_BCHW, target_BCHW)
            c = huber_c(config, noise_schedule, timesteps_B).to(errors.dtype).view(-1, 1, 1, 1)
            squares = errors.square()
            # The formula's difference of root and c is squares / (root + c), which keeps its digits for small errors.
            return (2 * c * squares / ((squares + c.square()).sqrt() + c)).mean(dim=(1, 2, 3))


def huber_c(config: HuberLoss, noise_schedule: NoiseSchedule, timesteps_B: Tensor) -> Tensor:
    """Where errors begin to count as large, at each timestep. [B], in the schedule's dtype.

    snr: (1 - c) / (1 + sigma)^2 + c with sigma = sqrt((1 - abar) / abar), which is c where there is no signal;
    exponential: exp(ln(c) t / T); constant: c.

    Source: Khrapov et al., arXiv 2403.16728; sd-scripts, `get_huber_threshold_if_needed`.
    """
    alpha_B = noise_schedule.alphas_cumprod_T[timesteps_B]
    match config.schedule:
        case "snr":
            signal_B = alpha_B.sqrt()
            share_B = signal_B / (signal_B + (1 - alpha_B).sqrt())  # 1 / (1 + sigma), which may be infinite
            return (1 - config.c) * share_B.square() + config.c
        case "exponential":
            return config.c ** (timesteps_B.to(alpha_B.dtype) / noise_schedule.num_train_timesteps)
        case "constant":
            return torch.full_like(alpha_B, config.c)


def _errors(prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """What each prediction is off its target by, in float32 or the wider of the two dtypes."""
    wide = torch.promote_types(prediction_BCHW.dtype, torch.float32)
    return prediction_BCHW.to(wide) - target_BCHW.to(wide)
