"""Generates images from fixed prompts and seeds with one adapter."""

from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from lora_engine import base_model
from lora_engine.config.training import SamplesConfig


def load_pipeline(folder: Path, unet: nn.Module, device: torch.device, *, allow_pickle: bool = False) -> Any:
    """The base model's pipeline around a UNet that is already loaded; its other parts in the UNet's dtype."""
    from diffusers import StableDiffusionPipeline

    dtype = next(unet.parameters()).dtype
    tokenizer, text_encoder = base_model.load_text_encoder(folder, dtype, allow_pickle=allow_pickle)
    pipeline = StableDiffusionPipeline(
        vae=base_model.load_vae(folder, allow_pickle=allow_pickle).to(dtype),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=base_model.load_sampler(folder),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def draw_samples(
    pipeline: Any, config: SamplesConfig, resolution: int, batch_size: int, check: Callable[[], None]
) -> Iterator[tuple[int, int, Image.Image]]:
    """An image for every prompt and seed, with the prompt's place in the list and the seed.

    `check` is called at every denoising step; what it raises ends the drawing. The starting noise is drawn on the CPU,
    so it is the same on any device and for every adapter.
    """

    def at_step(_pipeline: Any, _step: int, _timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
        check()
        return kept

    remaining = product(range(len(config.prompts)), config.seeds)
    while batch := list(islice(remaining, batch_size)):
        result = pipeline(
            [config.prompts[at] for at, _ in batch],
            negative_prompt=[config.negative_prompt] * len(batch),
            height=resolution,
            width=resolution,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance,
            callback_on_step_end=at_step,
            generator=[torch.Generator("cpu").manual_seed(seed) for _, seed in batch],
        )
        for (at, seed), image in zip(batch, result.images, strict=True):
            yield at, seed, image
