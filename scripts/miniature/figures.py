"""What the miniature models can do, measured on geometry seeds that none of them has seen."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from drawings import Style, with_article
from miniature import stages
from miniature.corpus import Corpus, corpus
from miniature.loop import generator
from subjects import SUBJECTS

_IMAGES = 400  # of each style
_STYLES: tuple[Style, Style] = ("sticker", "line")


@torch.inference_mode()
def measure_all(
    *, vae: Any, clip: Any, tokenizer: Any, unet: nn.Module, text_encoder: Any, blip: Any, blip_tokenizer: Any
) -> dict[str, float]:
    """Name to figure. Shares are of images; PSNR is in dB."""
    figures: dict[str, float] = {}
    for style in _STYLES:
        held_out = corpus("validation", style, _IMAGES)
        figures[f"autoencoder PSNR, {style}"] = _psnr(vae, held_out)
        figures[f"clip names the subject, {style}"] = _retrieval(clip, tokenizer, held_out)
        texts = _captions(blip, blip_tokenizer, held_out)
        named = [subject in text.split() for text, subject in zip(texts, held_out.subjects, strict=True)]
        figures[f"captioner names the subject, {style}"] = float(np.mean(named))
        figures[f"captioner is word for word true, {style}"] = float(
            np.mean(_true_captions(held_out) == np.array(texts))
        )
    stickers = corpus("validation", "sticker", _IMAGES)
    figures["denoiser loss, sticker"] = _noise_loss(unet, vae, text_encoder, tokenizer, stickers)
    figures["denoiser loss, line"] = _noise_loss(
        unet, vae, text_encoder, tokenizer, corpus("validation", "line", _IMAGES)
    )
    return figures


def _true_captions(drawings: Corpus) -> np.ndarray[Any, Any]:
    return np.array([drawings.sayings(at)[0].text for at in range(len(drawings.subjects))])


def _psnr(vae: Any, drawings: Corpus) -> float:
    found = []
    for at in torch.arange(_IMAGES).split(50):
        images = drawings.images(at)
        decoded = vae.decode(vae.encode(images).latent_dist.mean).sample.clamp(-1, 1)
        found.append(-10 * ((decoded - images).square().mean((1, 2, 3)) / 4).log10())
    return torch.cat(found).mean().item()


def _retrieval(clip: Any, tokenizer: Any, drawings: Corpus) -> float:
    names = list(SUBJECTS)
    ids = stages.tokens(tokenizer, [with_article(name) for name in names])
    logits = clip(
        input_ids=ids, pixel_values=stages.normalised(drawings.images(torch.arange(_IMAGES)))
    ).logits_per_image
    return float(
        np.mean(
            [names[at] == subject for at, subject in zip(logits.argmax(1).tolist(), drawings.subjects, strict=True)]
        )
    )


def _captions(blip: Any, tokenizer: Any, drawings: Corpus) -> list[str]:
    texts: list[str] = []
    for at in torch.arange(_IMAGES).split(100):
        tokens = blip.generate(pixel_values=stages.normalised(drawings.images(at)), max_new_tokens=16, do_sample=False)
        texts += tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return texts


def _noise_loss(unet: nn.Module, vae: Any, text_encoder: Any, tokenizer: Any, drawings: Corpus) -> float:
    """Mean squared error at 16 equally spaced timesteps, with full captions."""
    alphas, losses = stages.alphas_cumprod(), []
    for start, at in enumerate(torch.arange(160).split(16)):
        latents = vae.encode(drawings.images(at)).latent_dist.mean * vae.config.scaling_factor
        context = text_encoder(
            stages.tokens(tokenizer, [drawings.sayings(index)[0].text for index in at.tolist()])
        ).last_hidden_state
        timesteps = torch.arange(31, 1000, 62)
        a = alphas[timesteps].view(-1, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=generator("figures", start))
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        losses.append(functional.mse_loss(unet(noisy, timesteps, context).sample, noise))
    return torch.stack(losses).mean().item()
