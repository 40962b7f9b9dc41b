"""Turns images into latents and captions into text embeddings, once, before training starts.

Shape legend: C latent channels, H and W latent size, L tokens of a text and D features of a token.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lora_engine.errors import ModelError
from lora_engine.images.squares import read_square
from lora_engine.models.conditioning import TextEncoder

_TEXTS_AT_ONCE = 32


def encode_latents(
    vae: Any, images: Iterable[tuple[str, Path]], device: torch.device, *, mirrored: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """Encode images to the mean and standard deviation of the VAE's posterior, scaled as the UNet expects them.

    Images are encoded one by one: a batch takes as long for each of its images, and far more memory.

    Args:
        vae: diffusers' AutoencoderKL in fp32.
        images: id and file of square RGB images.
        mirrored: encode what the images show in a mirror, left to right.

    Yields:
        The image's id and a float32 tensor [2, C, H, W] on the CPU: mean, then standard deviation.

    Raises:
        ModelError: the VAE gave a value that is not finite.
    """
    vae.to(device)
    for image_id, path in images:
        square = torch.from_numpy(np.array(read_square(path))).to(device, torch.float32)
        pixels = square.permute(2, 0, 1)[None] / 127.5 - 1
        with torch.inference_mode():
            posterior = vae.encode(pixels.flip(3) if mirrored else pixels).latent_dist
            moments = torch.cat([posterior.mean, posterior.std]) * vae.config.scaling_factor
        moments = moments.float().cpu().contiguous()
        if not moments.isfinite().all():
            raise ModelError(
                f"The VAE's latents of image {image_id} are not finite.",
                "Check the VAE's weights; they must not overflow in fp32.",
            )
        yield image_id, moments


def encode_texts(
    tokenizer: Any, text_encoder: Any, texts: Sequence[str], device: torch.device, clip_skip: int = 1
) -> Iterator[Tensor]:
    """Encode texts to a hidden state of the text encoder. Longer texts are cut at the tokenizer's length.

    Args:
        tokenizer: a CLIP tokenizer.
        text_encoder: a CLIP text encoder.
        clip_skip: see `TextEncoder`.

    Yields:
        For each text a tensor [L, D] on the CPU in the encoder's dtype, where L is the tokenizer's length, 77.

    Raises:
        ModelError: the text encoder gave a value that is not finite.
    """
    encoder = TextEncoder(text_encoder, clip_skip).to(device)
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        tokens_BL = tokens_of(tokenizer, texts[start : start + _TEXTS_AT_ONCE])
        with torch.inference_mode():
            hidden = encoder(tokens_BL.to(device)).cpu()
        if not hidden.isfinite().all():
            raise ModelError(
                "The text encoder's embeddings are not finite, though its weights are.",
                "Its values are too large for the precision that it computes in: use training.precision: bf16 or fp32.",
            )
        for embedding in hidden:
            yield embedding.clone(memory_format=torch.contiguous_format)


def tokens_of(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """The tokens of texts, int64 [B, L]. Longer texts are cut at the tokenizer's length."""
    tokens: Tensor = tokenizer(
        list(texts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return tokens
