"""The training loop alone, over a UNet of SD 1.5's layout with random weights and data."""

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from lora_engine import adapters
from lora_engine.config.training import LoraConfig, TrainingConfig
from lora_engine.diffusion import NoiseSchedule
from lora_engine.draws import PackMember
from lora_engine.train import PackTrainer, TrainingData

RANK = 8
TEXT_TOKENS, TEXT_WIDTH = 77, 768
_IMAGES = 16


def unet(width: int, device: torch.device, dtype: torch.dtype) -> UNet2DConditionModel:
    """SD 1.5's UNet; 320 is its width."""
    torch.manual_seed(0)
    with device:
        return UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(width, 2 * width, 4 * width, 4 * width),
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=8,  # the number of heads, by this name
        ).to(dtype)


def trainer(
    model: UNet2DConditionModel, members: int, batch: int, resolution: int, steps: int, accumulation: int = 1
) -> PackTrainer:
    """A pack whose adapters are new."""
    weight = next(model.parameters())
    names = [f"{members}x{batch}-{at}" for at in range(members)]
    adapters.inject(model, [(name, 0) for name in names], LoraConfig(rank=RANK, alpha=RANK))
    generator = torch.Generator().manual_seed(1)
    side = resolution // 8
    mean = torch.randn(_IMAGES, 4, side, side, generator=generator).to(weight.device)
    text = torch.randn(4, TEXT_TOKENS, TEXT_WIDTH, generator=generator).to(weight.device, weight.dtype)
    data = TrainingData(tuple(f"{i:064x}" for i in range(_IMAGES)), mean, mean.abs() * 0.1, text)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    schedule = NoiseSchedule(scheduler.alphas_cumprod.double(), "epsilon")
    pack = [PackMember(name, 0, np.full((_IMAGES, 1), 1 + at % 3), (1.0,), 0.0) for at, name in enumerate(names)]
    config = TrainingConfig(steps=steps, batch_size=batch, gradient_accumulation=accumulation)
    return PackTrainer(model, pack, data, schedule, config)
