"""What each miniature model learns, and how it is built again from a stage's saved state."""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import CLIPImageProcessorPil

from miniature import architecture
from miniature.corpus import Corpus, Said, all_texts, corpus, truth
from miniature.distortion import distorted
from miniature.loop import Recipe, train

STICKERS, LINES = 8000, 6000  # drawings to learn from
_KL_WEIGHT = 1e-3
_TEXT_TOKENS = 20  # the longest text has fewer

AUTOENCODER = Recipe(steps=3200, batch_size=8, learning_rate=1e-3, cycles=2)
CLIP = Recipe(steps=1500, batch_size=96, learning_rate=1e-3, weight_decay=0.1)
CLIP_VISION = Recipe(steps=1200, batch_size=96, learning_rate=7e-4, weight_decay=0.1)
CAPTIONER = Recipe(steps=4000, batch_size=48, learning_rate=1e-3, weight_decay=0.05, cycles=2)
DENOISER = Recipe(steps=4000, batch_size=32, learning_rate=1e-3, warmup_steps=200, ema_decay=0.998)
WHITE_EVERY = 6  # so many-th sticker lies on white
NOISE_OFFSET = 0.2  # standard deviation, of each channel's mean
MIN_SNR = 5.0


def both_styles() -> tuple[Corpus, Corpus]:
    """The base's stickers and line drawings."""
    return corpus("base", "sticker", STICKERS), corpus("base", "line", LINES)


def _batch(size: int, dice: torch.Generator) -> list[tuple[Corpus, Tensor]]:
    """Half stickers, half line drawings."""
    return [
        (drawings, torch.randint(len(drawings.subjects), (size // 2,), generator=dice)) for drawings in both_styles()
    ]


def _pick(size: int, dice: torch.Generator) -> tuple[Tensor, list[Said], list[Said]]:
    """Images [B, 3, S, S], a text for each that is chosen among the true ones, and the fullest one."""
    images, chosen, full = [], [], []
    for drawings, at in _batch(size, dice):
        images.append(drawings.images(at))
        for index in at.tolist():
            sayings = drawings.sayings(index)
            chosen.append(sayings[_index(len(sayings), dice)])
            full.append(sayings[0] if drawings.style == "sticker" else sayings[1])
    return torch.cat(images), chosen, full


def _index(count: int, dice: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=dice))


def autoencoder(folder: Path, seed: int) -> Any:
    """Absolute error plus a little KL divergence. Its `scaling_factor` gives latents of unit variance."""
    torch.manual_seed(seed)
    model = architecture.vae(architecture.MINIATURE)

    def loss_of(dice: torch.Generator) -> Tensor:
        images = torch.cat([drawings.images(at) for drawings, at in _batch(AUTOENCODER.batch_size, dice)])
        posterior = model.encode(images).latent_dist
        latents = posterior.mean + posterior.std * torch.randn(posterior.mean.shape, generator=dice)
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return functional.l1_loss(model.decode(latents).sample, images) + _KL_WEIGHT * kl

    train("autoencoder", model, loss_of, AUTOENCODER, folder, seed)
    with torch.inference_mode():
        stickers, _ = both_styles()
        latents = model.encode(stickers.images(torch.arange(512))).latent_dist.mean
    model.register_to_config(scaling_factor=round(1 / latents.std().item(), 4))
    return model


@cache
def clip_pixels_scale() -> tuple[Tensor, Tensor]:
    """CLIP's mean and standard deviation for pixels in [0, 1]."""
    processor = CLIPImageProcessorPil()
    return torch.tensor(processor.image_mean).view(3, 1, 1), torch.tensor(processor.image_std).view(3, 1, 1)


def normalised(images: Tensor) -> Tensor:
    """Images in [-1, 1] as CLIP's and BLIP's processors give them."""
    mean, std = clip_pixels_scale()
    return ((images + 1) / 2 - mean) / std


def tokens(tokenizer: Any, texts: list[str], length: int = 77) -> Tensor:
    """Token ids [T, length], padded."""
    return tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


def clip(folder: Path, seed: int) -> tuple[Any, Any]:
    """Contrastive learning in which every text that is true of an image counts as its own.

    A second round teaches the vision tower alone, on distorted drawings, since what it will judge is drawn less well.
    The texts' side is locked then (arXiv 2111.07991): the UNet is trained on it.
    """
    torch.manual_seed(seed + 1)
    tokenizer = architecture.clip_tokenizer()
    model = architecture.clip(architecture.MINIATURE, tokenizer)

    def loss_of(images: Tensor, chosen: list[Said], full: list[Said]) -> Tensor:
        result = model(
            input_ids=tokens(tokenizer, [said.text for said in chosen], _TEXT_TOKENS), pixel_values=normalised(images)
        )
        fits = truth(chosen, full).float()
        by_text = functional.cross_entropy(result.logits_per_text, fits / fits.sum(1, keepdim=True))
        by_image = functional.cross_entropy(result.logits_per_image, fits.T / fits.T.sum(1, keepdim=True))
        return (by_text + by_image) / 2

    def loss_of_distorted(dice: torch.Generator) -> Tensor:
        images, chosen, full = _pick(CLIP_VISION.batch_size, dice)
        return loss_of(distorted(images, dice), chosen, full)

    train("clip", model, lambda dice: loss_of(*_pick(CLIP.batch_size, dice)), CLIP, folder, seed)
    for part in (model.text_model, model.text_projection):
        part.requires_grad_(requires_grad=False)
    train("clip_vision", model, loss_of_distorted, CLIP_VISION, folder, seed)
    return model, tokenizer


def captioner(folder: Path, seed: int) -> tuple[Any, Any]:
    """Next-word prediction of the true caption: a sticker's with its colours, a line drawing's without."""
    torch.manual_seed(seed + 2)
    tokenizer = architecture.blip_tokenizer()
    model = architecture.blip(tokenizer)
    start, end = model.config.text_config.bos_token_id, tokenizer.sep_token_id

    def loss_of(dice: torch.Generator) -> Tensor:
        images, texts = [], []
        for drawings, at in _batch(CAPTIONER.batch_size, dice):
            images.append(drawings.images(at))
            texts += [drawings.sayings(index)[0].text for index in at.tolist()]
        rows = [[start, *tokenizer(text, add_special_tokens=False).input_ids, end] for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
        mask = (ids != tokenizer.pad_token_id).long()
        labels = ids.masked_fill(mask == 0, -100)
        return model(pixel_values=normalised(torch.cat(images)), input_ids=ids, attention_mask=mask, labels=labels).loss

    train("captioner", model, loss_of, CAPTIONER, folder, seed)
    return model, tokenizer


def denoiser(folder: Path, seed: int, vae: Any, text_encoder: Any, tokenizer: Any) -> Any:
    """Noise prediction on stickers alone: it has never seen line art. A tenth of the texts are dropped for guidance.

    Some stickers lie on white, and the noise has an offset: SD's schedule leaves a little of the picture's mean in its
    noisiest step, and without an offset the UNet reads the background's colour from it, so pure noise never becomes
    white paper, whatever an adapter learned. The loss is weighted by min-SNR (arXiv 2303.09556), for shapes early.
    """
    torch.manual_seed(seed + 3)
    model = architecture.unet(architecture.MINIATURE).to(memory_format=torch.channels_last)
    stickers = corpus("base", "sticker", STICKERS, white_every=WHITE_EVERY)
    mean, std, contexts, place = _encoded(stickers, vae, text_encoder, tokenizer)
    alphas = alphas_cumprod()
    weights = (MIN_SNR * (1 - alphas) / alphas).clamp(max=1)

    def loss_of(dice: torch.Generator) -> Tensor:
        at = torch.randint(len(stickers.subjects), (DENOISER.batch_size,), generator=dice)
        texts = [_said(stickers.sayings(index), dice) for index in at.tolist()]
        latents = mean[at] + std[at] * torch.randn(mean[at].shape, generator=dice)
        offset = NOISE_OFFSET * torch.randn((*latents.shape[:2], 1, 1), generator=dice)
        noise = torch.randn(latents.shape, generator=dice) + offset
        timesteps = torch.randint(1000, (len(at),), generator=dice)
        a = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = (a.sqrt() * latents + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        context = contexts[torch.tensor([place[text] for text in texts])]
        errors = (model(noisy, timesteps, context).sample - noise).square().mean((1, 2, 3))
        return (weights[timesteps] * errors).mean()

    train("denoiser", model, loss_of, DENOISER, folder, seed)
    return model.to(memory_format=torch.contiguous_format)


def _said(sayings: tuple[Said, ...], dice: torch.Generator) -> str:
    if torch.rand((), generator=dice) < 0.1:
        return ""
    return sayings[_index(len(sayings), dice)].text


def alphas_cumprod() -> Tensor:
    """SD 1.5's noise schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return torch.cumprod(1 - betas, 0)


@torch.inference_mode()
def _encoded(
    stickers: Corpus, vae: Any, text_encoder: Any, tokenizer: Any
) -> tuple[Tensor, Tensor, Tensor, dict[str, int]]:
    """Posterior means and deviations of the latents, scaled [N, 4, 16, 16]; contexts [T, 77, C]; where each text is."""
    means, stds = [], []
    for at in torch.arange(len(stickers.subjects)).split(100):
        posterior = vae.encode(stickers.images(at)).latent_dist
        means.append(posterior.mean * vae.config.scaling_factor)
        stds.append(posterior.std * vae.config.scaling_factor)
    texts = all_texts()
    contexts = [
        text_encoder(tokens(tokenizer, texts[i : i + 200])).last_hidden_state for i in range(0, len(texts), 200)
    ]
    place = {text: index for index, text in enumerate(texts)}
    # clones, since autograd refuses what was made in inference mode
    return torch.cat(means).clone(), torch.cat(stds).clone(), torch.cat(contexts).clone(), place
