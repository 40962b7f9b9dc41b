"""What diffusers' `train_text_to_image_lora.py` does in an update, by its libraries, without anything of lora-job.

The script cannot be told which images, noise and timesteps to draw, so this loop takes them, and the adapter's first
weights. Else it is the script (as of diffusers 58eb52c) in one process without accumulation or mixed precision. Like
the script it clips nothing: there the optimizer uses up the iterator of parameters that is to be clipped.

Shape legend: B images of an update, C latent channels, H and W latent size, L tokens of a text and D features of one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import peft
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import compute_snr
from torch import Tensor
from torch.nn.functional import mse_loss

TARGETS = ("to_k", "to_q", "to_v", "to_out.0")

Snr = Callable[[DDPMScheduler, Tensor], Tensor]  # of timesteps [B]


@dataclass(frozen=True)
class Options:
    """The options of the script that decide losses, by its names."""

    max_train_steps: int
    learning_rate: float
    rank: int
    lora_alpha: float  # not an option: the script's is its rank
    lr_scheduler: str = "constant"
    lr_warmup_steps: int = 0
    done: int = 0  # not an option: updates by which the learning rate is ahead
    snr_gamma: float | None = None
    noise_offset: float = 0.0
    adam_weight_decay: float = 1e-2


class Batch(NamedTuple):
    """What the script draws or computes for an update."""

    latents: Tensor  # [B, C, H, W], in the dtype that is computed with, as are texts
    noise: Tensor  # [B, C, H, W], float32
    noise_of_offset: Tensor  # [B, C, 1, 1], float32
    timesteps: Tensor  # [B], int64
    encoder_hidden_states: Tensor  # [B, L, D]


def losses(
    unet: UNet2DConditionModel,
    first_weights: Mapping[str, Tensor],
    noise_scheduler: DDPMScheduler,
    options: Options,
    batches: Iterable[Batch],
    snr: Snr = compute_snr,
) -> list[float]:
    """Train an adapter; its loss in every update, before the update.

    Args:
        unet: the base; it gets the adapter.
        first_weights: of the adapter, by PEFT's names.
        snr: the signal-to-noise ratio, where the script has `compute_snr`.
    """
    unet.requires_grad_(requires_grad=False)
    unet.add_adapter(
        peft.LoraConfig(r=options.rank, lora_alpha=options.lora_alpha, target_modules=list(TARGETS)),
    )
    peft.set_peft_model_state_dict(unet, dict(first_weights))
    weights = [weight for weight in unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "initial_lr": options.learning_rate}],  # which a rate that is ahead starts from
        lr=options.learning_rate,
        weight_decay=options.adam_weight_decay,
    )
    lr_scheduler = get_scheduler(
        options.lr_scheduler,
        optimizer,
        num_warmup_steps=options.lr_warmup_steps,
        num_training_steps=options.max_train_steps,
        last_epoch=options.done - 1,
    )
    found = []
    for batch in batches:
        loss = loss_of(unet, noise_scheduler, options, batch, snr)
        torch.autograd.backward(loss)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def loss_of(
    unet: UNet2DConditionModel, noise_scheduler: DDPMScheduler, options: Options, batch: Batch, snr: Snr
) -> Tensor:
    """The loss of an update, a scalar."""
    latents, noise, timesteps = batch.latents, batch.noise, batch.timesteps
    if options.noise_offset:
        noise = noise + options.noise_offset * batch.noise_of_offset
    noise = noise.to(latents.dtype)
    noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
    is_v = noise_scheduler.config.prediction_type == "v_prediction"
    target = noise_scheduler.get_velocity(latents, noise, timesteps) if is_v else noise
    prediction = unet(noisy_latents, timesteps, batch.encoder_hidden_states).sample
    if options.snr_gamma is None:
        return mse_loss(prediction, target)
    weights = snr_weights(noise_scheduler, timesteps, options.snr_gamma, snr)
    return (mse_loss(prediction, target, reduction="none").mean(dim=(1, 2, 3)) * weights).mean()


def snr_weights(noise_scheduler: DDPMScheduler, timesteps: Tensor, gamma: float, snr: Snr = compute_snr) -> Tensor:
    """The script's weight of each image's loss. [B]."""
    ratio = snr(noise_scheduler, timesteps)
    lesser = torch.stack([ratio, gamma * torch.ones_like(ratio)], dim=1).min(dim=1)[0]
    return lesser / (ratio if noise_scheduler.config.prediction_type == "epsilon" else ratio + 1)
