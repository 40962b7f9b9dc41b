"""Generates images from fixed prompts and seeds with the base model, or with several adapters at once.

Shape legend: P prompts, L tokens of a text and D features of a token.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from lora_engine.adapters import lora
from lora_engine.config.evaluation import SamplesConfig
from lora_engine.dataset.encode import encode_texts
from lora_engine.models import stable_diffusion
from lora_engine.models.files import LocalModel


@dataclass(frozen=True)
class Sample:
    """One image, and what it was generated from."""

    adapter: str | None  # its name; None for the base model
    prompt: int  # its place in the configuration's list
    seed: int
    image: Image.Image | None  # None where its pixels are not all finite


class Sampler:
    """The base model's pipeline around a UNet that is already loaded; its other parts in the UNet's dtype.

    Args:
        folder: the base model, in diffusers layout.
        resolution: pixels a side.
        images_at_once: how many images of each adapter may pass through the UNet at once. With guidance every image
            counts twice; where that is more than may, adapters take turns.
    """

    def __init__(
        self,
        model: LocalModel,
        unet: nn.Module,
        config: SamplesConfig,
        resolution: int,
        images_at_once: int,
        device: torch.device,
    ) -> None:
        from diffusers import StableDiffusionPipeline

        self._unet, self._config, self._resolution = unet, config, resolution
        dtype = next(unet.parameters()).dtype
        # The pipeline decides in the same way: a distilled UNet takes the guidance as an input.
        guided = config.guidance > 1 and getattr(unet.config, "time_cond_proj_dim", None) is None
        self._copies = 2 if guided else 1  # of each image in the UNet's batch: without and with the prompt
        self._in_turns = images_at_once < self._copies
        self._images_at_once = max(1, images_at_once // self._copies)
        self._prompts, self._negative = _embeddings(model, config, dtype, device)
        vae = stable_diffusion.load_vae(model).to(dtype)
        vae.enable_slicing()  # decodes image by image: all at once take as long, and far more memory
        self._pipeline = StableDiffusionPipeline(
            vae=vae,
            text_encoder=None,
            tokenizer=None,
            unet=unet,
            scheduler=stable_diffusion.load_sampler(model),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).to(device)
        self._pipeline.set_progress_bar_config(disable=True)

    def generate(self, names: Sequence[str], check: Callable[[], None]) -> Iterator[list[Sample]]:
        """Generate an image by each of these adapters for every prompt and seed; by the base model where none is named.

        The starting noise is drawn on the CPU, so it is the same on any device and for every adapter.

        Args:
            check: called at every denoising step; what it raises ends the generation.

        Yields:
            The images that were generated at once.
        """
        groups = [[name] for name in names] if names and self._in_turns else [names]
        for group in groups:
            yield from self._generate(group, check)

    def _generate(self, names: Sequence[str], check: Callable[[], None]) -> Iterator[list[Sample]]:
        """Generate with all of these adapters at once."""

        def at_step(_pipeline: Any, _step: int, _timestep: Any, kept: dict[str, Any]) -> dict[str, Any]:
            check()
            return kept

        # The pipeline puts the images without the prompt before those with it, so all adapters come twice.
        lora.activate(self._unet, [*names] * self._copies)
        config, adapters = self._config, tuple(names) or (None,)
        remaining = product(range(len(config.prompts)), config.seeds)
        while batch := list(islice(remaining, self._images_at_once)):
            text = self._prompts[[at for at, _ in batch]].repeat(len(adapters), 1, 1)
            result = self._pipeline(
                prompt_embeds=text,
                negative_prompt_embeds=self._negative.expand_as(text) if self._copies == 2 else None,
                height=self._resolution,
                width=self._resolution,
                num_inference_steps=config.steps,
                guidance_scale=config.guidance,
                callback_on_step_end=at_step,
                output_type="pt",
                generator=[torch.Generator("cpu").manual_seed(seed) for _ in adapters for _, seed in batch],
            )
            pairs = zip(product(adapters, batch), result.images, strict=True)
            yield [Sample(name, at, seed, self._picture(pixels)) for (name, (at, seed)), pixels in pairs]

    def _picture(self, pixels_CHW: Tensor) -> Image.Image | None:
        """The picture of these pixels in [0, 1]; None where not all are finite, which 8 bits would show as black."""
        if not pixels_CHW.isfinite().all():
            return None
        processor = self._pipeline.image_processor
        picture: Image.Image = processor.numpy_to_pil(processor.pt_to_numpy(pixels_CHW[None]))[0]
        return picture


def _embeddings(
    model: LocalModel, config: SamplesConfig, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The embeddings of the prompts, [P, L, D], and of the negative prompt, [1, L, D], on the device."""
    tokenizer, encoder = stable_diffusion.load_text_encoder(model, dtype)
    texts = [*config.prompts, config.negative_prompt]
    hidden = list(encode_texts(tokenizer, encoder, texts, device))
    return torch.stack(hidden[:-1]).to(device), hidden[-1][None].to(device)
