"""The training loop alone, over a UNet of SD 1.5's layout with random weights and data."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.config.training import TrainingConfig
from lora_engine.dataset.draws import PackMember
from lora_engine.dataset.encoded import TrainingData
from lora_engine.dataset.table import TensorTable
from lora_engine.diffusion import NoiseSchedule
from lora_engine.models.conditioning import TextEncoder, attach
from lora_engine.training.members import MemberConfig
from lora_engine.training.trainer import PackTrainer

RANK = 8
TEXT_TOKENS, TEXT_WIDTH = 77, 768
_IMAGES, _TEXTS = 16, 4
_CLIP_L = {"num_hidden_layers": 12, "num_attention_heads": 12}


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


def attach_text_encoder(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Have SD 1.5's text encoder, with random weights, trained with the UNet."""
    with device:
        text_encoder = CLIPTextModel(
            CLIPTextConfig(hidden_size=TEXT_WIDTH, intermediate_size=4 * TEXT_WIDTH, **_CLIP_L)
        )
    attach(model, TextEncoder(text_encoder.to(dtype).eval(), clip_skip=1))


def random_data(
    resolution: int, device: torch.device, dtype: torch.dtype, *, text_encoder: bool = False
) -> TrainingData:
    """A few images' and texts', on the device; texts as tokens where the text encoder is trained."""
    generator = torch.Generator().manual_seed(1)
    side = resolution // 8
    mean = torch.randn(_IMAGES, 4, side, side, generator=generator).to(device)
    if text_encoder:
        text = torch.randint(1, 49406, (_TEXTS, TEXT_TOKENS), generator=generator).to(device)
    else:
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
    texts = data.texts.count - 1  # the empty prompt is not drawn
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
