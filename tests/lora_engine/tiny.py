"""A UNet small enough for float64 and finite differences, and data for it."""

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lora_engine.dataset.draws import PackMember
from lora_engine.dataset.encoded import TrainingData
from lora_engine.dataset.table import TensorTable
from lora_engine.diffusion import NoiseSchedule, PredictionType
from lora_engine.models.conditioning import TextEncoder


def tiny_unet(dtype: torch.dtype = torch.float64) -> UNet2DConditionModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=12,
            attention_head_dim=4,
            norm_num_groups=4,
        ).to(dtype)


def tiny_noise_schedule(prediction_type: PredictionType = "epsilon") -> NoiseSchedule:
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return NoiseSchedule(scheduler.alphas_cumprod.double(), prediction_type)


def tiny_data(
    images: int = 7, texts: int = 6, dtype: torch.dtype = torch.float64, *, resident: bool = True
) -> TrainingData:
    generator = torch.Generator().manual_seed(1)
    ids = tuple(f"{i + 1:064x}" for i in range(images))
    mean = torch.randn(images, 4, 8, 8, generator=generator, dtype=dtype)
    std = torch.rand(images, 4, 8, 8, generator=generator, dtype=dtype) * 0.1
    return TrainingData(
        ids,
        rows_of(torch.stack([mean, std], dim=1), resident=resident),
        rows_of(torch.randn(texts, 5, 12, generator=generator, dtype=dtype), resident=resident),
    )


def tiny_text_encoder(dtype: torch.dtype = torch.float64) -> TextEncoder:
    """One with layers enough to skip one, for the UNet's width."""
    config = CLIPTextConfig(
        vocab_size=20,
        hidden_size=12,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=19,
        initializer_factor=10.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TextEncoder(CLIPTextModel(config).to(dtype).eval(), clip_skip=1)


def tiny_tokens(texts: int = 6) -> torch.Tensor:
    """Tokens of texts of 5 tokens each. [texts, 5]."""
    return torch.randint(1, 19, (texts, 5), generator=torch.Generator().manual_seed(2))


def rows_of(tensor: torch.Tensor, *, resident: bool = True) -> TensorTable:
    return TensorTable(tensor.__getitem__, len(tensor), tensor.device, tensor.dtype, resident=resident)


def tiny_member(name: str, seed: int, text: int, images: int = 7, dropout: float = 0.0) -> PackMember:
    return PackMember(name, seed, np.full((images, 1), text), np.ones((images, 1)), dropout)
