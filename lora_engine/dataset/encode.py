"""Turns images into latents and captions into text embeddings, once, before training starts."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lora_engine.errors import ModelError
from lora_engine.images.squares import read_square

_TEXTS_AT_ONCE = 32


def encode_latents(
    vae: Any, images: Iterable[tuple[str, Path]], device: torch.device, *, mirrored: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """Posterior mean and standard deviation of each image, scaled as the UNet expects them.

    One by one: a batch takes as long for each of its images, and far more memory.

    Args:
        images: id and file of square RGB images.
        mirrored: encode what they show in a mirror.

    Yields:
        id and float32 tensor [2, C, H/8, W/8] on the CPU: mean, then standard deviation.

    Raises:
        ModelError: the VAE gave a value that is not finite.
    """
    vae.to(device)
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    for image_id, path in images:
        square = torch.from_numpy(np.array(read_square(path))).to(device, torch.float32)
        pixels = square.permute(2, 0, 1)[None] / 127.5 - 1
        with torch.inference_mode():
            posterior = vae.encode(pixels.flip(3) if mirrored else pixels).latent_dist
            moments = torch.cat([posterior.mean - shift, posterior.std]) * vae.config.scaling_factor
        moments = moments.float().cpu().contiguous()
        if not moments.isfinite().all():
            raise ModelError(
                f"The VAE's latents of image {image_id} are not finite.",
                "Check the VAE's weights; they must not overflow in fp32.",
            )
        yield image_id, moments


def encode_texts(tokenizer: Any, text_encoder: Any, texts: Sequence[str], device: torch.device) -> Iterator[Tensor]:
    """The text encoder's last hidden state for each text, [77, D] in the encoder's dtype, on the CPU."""
    text_encoder.to(device)
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        tokens = tokenizer(
            list(texts[start : start + _TEXTS_AT_ONCE]),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        with torch.inference_mode():
            hidden = text_encoder(tokens.input_ids.to(device))[0].cpu()
        for embedding in hidden:
            yield embedding.clone(memory_format=torch.contiguous_format)
