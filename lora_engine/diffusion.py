"""The forward process of diffusion and what the UNet learns of it: pure functions of tensors.

Shape legend: B images in a batch, C latent channels, H and W latent height and width, T training timesteps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lora_engine.config.models import PredictionType


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


def loss_per_image(prediction_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """The mean squared error of every image over its latent values, in float32 or the wider of the two dtypes. [B]."""
    wide = torch.promote_types(prediction_BCHW.dtype, torch.float32)
    return (prediction_BCHW.to(wide) - target_BCHW.to(wide)).square().mean(dim=(1, 2, 3))
