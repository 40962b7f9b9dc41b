"""Base models that are ready for adapters: the UNet, and with it the text encoder where an adapter has layers there."""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

import torch
from torch import nn

from lora_engine.adapters import lora
from lora_engine.config.adapter import LoraConfig
from lora_engine.models.conditioning import TextEncoder, attach
from lora_engine.models.files import LocalModel
from lora_engine.models.stable_diffusion import load_text_encoder, load_unet


def load_unet_for(model: LocalModel, dtype: torch.dtype, device: torch.device, *, with_text_encoder: bool) -> nn.Module:
    """The UNet in `dtype` and evaluation mode on the device, with the text encoder as its part `text_encoder` if asked.

    Raises:
        ModelError: the weights cannot be loaded.
    """
    unet = load_unet(model, dtype, device)
    if with_text_encoder:
        _, text_encoder = load_text_encoder(model, dtype)
        attach(unet, TextEncoder(text_encoder, model.use.clip_skip).to(device))
    return unet


def load_adapted_unet(
    model: LocalModel, adapters: Sequence[tuple[str, int, LoraConfig]], dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """The UNet with new adapters, by their names, seeds and settings, and with the text encoder if one trains that.

    Raises:
        ModelError: the weights cannot be loaded, or a layer that an adapter should go to cannot be adapted.
    """
    with_text_encoder = any(config.text_encoder is not None for _, _, config in adapters)
    unet = load_unet_for(model, dtype, device, with_text_encoder=with_text_encoder)
    for config, alike in groupby(adapters, key=itemgetter(2)):
        lora.inject(unet, [(name, seed) for name, seed, _ in alike], config)
    return unet
