"""Miniature models with random weights: Stable Diffusion 1.5's and BLIP's classes and layout, small enough for any CPU.

They draw and say nothing sensible; they let the whole job run without a model hub.
"""

import json
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lora_engine.diffusion import PredictionType

_WORDS = (
    "a an the of on in with and black white line drawing tattoo heart star moon dagger anchor snake flower rose skull "
    "arrow sun leaf bird fish moth key crown bolt cup eye hand"
).split()
_START, _END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class Sizes:
    """How large a pipeline is. The defaults are a miniature; `SD_15` is the real thing."""

    unet: tuple[int, int, int, int] = (32, 64, 64, 64)
    vae: tuple[int, int, int, int] = (16, 16, 32, 32)
    vae_norm_groups: int = 8
    vae_layers: int = 1
    text: int = 64
    text_layers: int = 2
    vocabulary: int | None = None  # None is what the tokenizer needs
    dtype: torch.dtype = torch.float32


_MINIATURE = Sizes()
SD_15 = Sizes((320, 640, 1280, 1280), (128, 256, 512, 512), 32, 2, 768, 12, 49408, torch.float16)


def make_stable_diffusion(
    folder: Path, seed: int = 0, *, sizes: Sizes = _MINIATURE, prediction_type: PredictionType = "epsilon"
) -> None:
    """Write a pipeline with SD 1.5's blocks and random weights, for 64x64 pixels and up."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = _clip_tokenizer(folder)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=sizes.unet,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=sizes.text,
            attention_head_dim=8,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=sizes.vae,
            norm_num_groups=sizes.vae_norm_groups,
            latent_channels=4,
            layers_per_block=sizes.vae_layers,
            sample_size=64,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=sizes.vocabulary or len(tokenizer),
                hidden_size=sizes.text,
                intermediate_size=4 * sizes.text,
                num_hidden_layers=sizes.text_layers,
                num_attention_heads=max(4, sizes.text // 64),
                max_position_embeddings=77,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=sizes.dtype).save_pretrained(folder)


def _clip_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer over single letters and whole words of the drawings' captions."""
    from transformers import CLIPTokenizer

    letters = list(string.ascii_lowercase + string.digits + string.punctuation)
    merges, vocabulary = [], letters + [f"{letter}</w>" for letter in letters]
    for word in _WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merge = (parts[0], parts[1])
            parts[:2] = ["".join(merge)]
            if parts[0] not in vocabulary:
                merges.append(" ".join(merge))
                vocabulary.append(parts[0])
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary_path, merges_path = folder / "vocab.json", folder / "merges.txt"
    vocabulary_path.write_text(json.dumps({token: at for at, token in enumerate([*vocabulary, _START, _END])}))
    merges_path.write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    tokenizer = CLIPTokenizer(str(vocabulary_path), str(merges_path), model_max_length=77)
    tokenizer.model_max_length = 77
    vocabulary_path.unlink()
    merges_path.unlink()
    return tokenizer


def make_blip(folder: Path, seed: int = 0, *, full_size: bool = False) -> None:
    """Write a BLIP captioner with random weights: for 64x64 images, or of BLIP base's size."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    folder.mkdir(parents=True, exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join([*special, *_WORDS]) + "\n")
    tokenizer = BertTokenizer(str(vocabulary), additional_special_tokens=["[DEC]", "[ENC]"])
    size: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.5,
    }
    text = size | {
        "vocab_size": len(special) + len(_WORDS),
        "encoder_hidden_size": 32,
        "bos_token_id": special.index("[DEC]"),
        "eos_token_id": special.index("[SEP]"),
        "sep_token_id": special.index("[SEP]"),
        "pad_token_id": 0,
        "max_position_embeddings": 64,
    }
    pixels = 64
    if full_size:
        pixels, text, size = 384, {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3}, {}
    config = BlipConfig(text_config=text, vision_config=size | {"image_size": pixels, "patch_size": 16})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BlipForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    image_processor = BlipImageProcessorPil(size={"height": pixels, "width": pixels})
    BlipProcessor(image_processor, tokenizer).save_pretrained(folder)
