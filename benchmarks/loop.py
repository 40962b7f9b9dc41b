"""The training loop alone, over a UNet of SD 1.5's layout with random weights and data."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.training import TrainingConfig
from lora_engine.dataset.draws import PackMember
from lora_engine.dataset.encoded import TrainingData
from lora_engine.dataset.table import TensorTable
from lora_engine.diffusion import NoiseSchedule
from lora_engine.training.members import MemberConfig
from lora_engine.training.trainer import PackTrainer

RANK = 8
TEXT_TOKENS, TEXT_WIDTH = 77, 768
_IMAGES, _TEXTS = 16, 4


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


def random_data(resolution: int, device: torch.device, dtype: torch.dtype) -> TrainingData:
    """A few images' and texts', on the device."""
    generator = torch.Generator().manual_seed(1)
    side = resolution // 8
    mean = torch.randn(_IMAGES, 4, side, side, generator=generator).to(device)
    text = torch.randn(_TEXTS, TEXT_TOKENS, TEXT_WIDTH, generator=generator).to(device, dtype)
    ids = tuple(f"{i:064x}" for i in range(_IMAGES))
    return TrainingData(ids, _resident(torch.stack([mean, mean.abs() * 0.1], dim=1)), _resident(text))


def _resident(tensor: torch.Tensor) -> TensorTable:
    return TensorTable(tensor.__getitem__, len(tensor), tensor.device, tensor.dtype, resident=True)


def trainer(model: UNet2DConditionModel, data: TrainingData, members: int, config: TrainingConfig) -> PackTrainer:
    """A pack whose adapters are new and of equal settings."""
    configs = [MemberConfig(LoraConfig(rank=RANK, alpha=RANK), config)] * members
    return pack(model, data, f"{members}x{config.batch_size}", configs)


def pack(model: UNet2DConditionModel, data: TrainingData, name: str, configs: Sequence[MemberConfig]) -> PackTrainer:
    """A pack whose adapters are new, each of its own settings.

    Args:
        name: that no other pack of this model has.
    """
    rows_N1 = np.arange(len(data.image_ids))[:, np.newaxis]
    texts = data.embeddings.count - 1  # the empty prompt is not drawn
    members = [
        PackMember(
            name=f"{name}-{at}",
            seed=0,
            caption_rows_NP=1 + (rows_N1 + at) % texts,
            caption_weights_NP=np.ones(rows_N1.shape),
            caption_dropout=0.0,
            noise=config.training.noise,
            timesteps=config.training.timesteps,
        )
        for at, config in enumerate(configs)
    ]
    for member, config in zip(members, configs, strict=True):
        lora.inject(model, [(member.name, member.seed)], config.lora)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    schedule = NoiseSchedule(scheduler.alphas_cumprod.double(), "epsilon")
    return PackTrainer(model, members, data, schedule, configs)
