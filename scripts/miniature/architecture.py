"""Builds the models with random weights: Stable Diffusion 1.5's, CLIP's and BLIP's classes and layout at any size."""

import json
import string
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_WORDS = (
    "a an the of on in with and black white line drawing tattoo design clean stencil high contrast background "
    "red orange yellow green blue purple pink brown "
    "heart star moon rose dagger anchor snake moth skull sun fish key leaf flower eye crown arrow bolt mushroom cup"
).split()
_START, _END = "<|startoftext|>", "<|endoftext|>"
_BLIP_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]


@dataclass(frozen=True)
class Sizes:
    """How large a pipeline is. The defaults are a tiny one for tests; `SHALLOW`, `MINIATURE` and `SD_15` are others."""

    unet: tuple[int, ...] = (32, 64, 64, 64)  # a width a block
    unet_layers: int = 2  # of a block
    unet_norm_groups: int = 32
    heads: int = 8
    vae: tuple[int, ...] = (16, 16, 32, 32)  # one less halving than widths
    vae_norm_groups: int = 8
    vae_layers: int = 1
    text: int = 64
    text_layers: int = 2
    vocabulary: int | None = None  # None is what the tokenizer needs
    latent_side: int = 8


TINY = Sizes()
SHALLOW = Sizes(unet=(32, 64), unet_layers=1)  # 32 layers take adapters, not 128
MINIATURE = Sizes(
    unet=(32, 64, 96, 96), heads=2, unet_norm_groups=16, vae=(24, 48, 64), text=96, text_layers=3, latent_side=16
)
SD_15 = Sizes((320, 640, 1280, 1280), 2, 32, 8, (128, 256, 512, 512), 32, 2, 768, 12, 49408, 64)


def unet(sizes: Sizes) -> Any:
    """SD 1.5's UNet, of as many blocks as it has widths."""
    from diffusers import UNet2DConditionModel

    attending = len(sizes.unet) - 1
    return UNet2DConditionModel(
        sample_size=sizes.latent_side,
        block_out_channels=sizes.unet,
        layers_per_block=sizes.unet_layers,
        down_block_types=("CrossAttnDownBlock2D",) * attending + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * attending,
        cross_attention_dim=sizes.text,
        attention_head_dim=sizes.heads,  # SD 1.5's configuration gives the number of heads by this name
        norm_num_groups=sizes.unet_norm_groups,
    )


def vae(sizes: Sizes) -> Any:
    """SD 1.5's autoencoder; each width but the last halves the side."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(sizes.vae),
        up_block_types=("UpDecoderBlock2D",) * len(sizes.vae),
        block_out_channels=sizes.vae,
        norm_num_groups=sizes.vae_norm_groups,
        latent_channels=4,
        layers_per_block=sizes.vae_layers,
        sample_size=sizes.latent_side * 2 ** (len(sizes.vae) - 1),
    )


def _text_settings(sizes: Sizes, tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": sizes.vocabulary or len(tokenizer),
        "hidden_size": sizes.text,
        "intermediate_size": 4 * sizes.text,
        "num_hidden_layers": sizes.text_layers,
        "num_attention_heads": max(4, sizes.text // 64),
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def text_encoder(sizes: Sizes, tokenizer: Any) -> Any:
    """SD 1.5's text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**_text_settings(sizes, tokenizer)))


def clip(sizes: Sizes, tokenizer: Any) -> Any:
    """CLIP: the text encoder with a vision tower for 64x64 pixels beside it."""
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
    }
    text = _text_settings(sizes, tokenizer)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def save_clip(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write CLIP with its tokenizer and image processor."""
    from transformers import CLIPImageProcessorPil, CLIPProcessor

    model.save_pretrained(folder)
    side = {"height": 64, "width": 64}
    processor = CLIPImageProcessorPil(size=side, crop_size=side)
    CLIPProcessor(processor, tokenizer).save_pretrained(folder)


def save_stable_diffusion(
    folder: Path, *, vae: Any, text_encoder: Any, tokenizer: Any, unet: Any, prediction_type: str = "epsilon"
) -> None:
    """Write a pipeline in diffusers layout with SD 1.5's noise schedule."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

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
    ).save_pretrained(folder)


def make_stable_diffusion(
    folder: Path,
    seed: int = 0,
    *,
    sizes: Sizes = TINY,
    prediction_type: str = "epsilon",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a pipeline with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = clip_tokenizer(sizes.vocabulary)
        parts = {"unet": unet(sizes), "vae": vae(sizes), "text_encoder": text_encoder(sizes, tokenizer)}
    parts = {name: part.to(dtype) for name, part in parts.items()}
    save_stable_diffusion(folder, **parts, tokenizer=tokenizer, prediction_type=prediction_type)


def clip_tokenizer(size: int | None = None) -> Any:
    """CLIP's tokenizer over single letters and whole words of the drawings' captions.

    Args:
        size: of its vocabulary, which is filled up with what no text has; None is what the words need.
    """
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
    marks = [_START, _END]
    vocabulary += [f"unused{at}" for at in range((size or 0) - len(vocabulary) - len(marks))]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary_path, merges_path = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocabulary_path.write_text(json.dumps({token: at for at, token in enumerate([*vocabulary, *marks])}))
        merges_path.write_text("\n".join(["#version: 0.2", *merges]) + "\n")
        tokenizer = CLIPTokenizer(str(vocabulary_path), str(merges_path), model_max_length=77)
    tokenizer.model_max_length = 77
    return tokenizer


def blip_tokenizer() -> Any:
    """BLIP's tokenizer over the words of the drawings' captions."""
    from transformers import BertTokenizer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vocab.txt")
        path.write_text("\n".join([*_BLIP_SPECIAL, *_WORDS, ","]) + "\n")
        return BertTokenizer(str(path), additional_special_tokens=["[DEC]", "[ENC]"])


def blip(
    tokenizer: Any, *, width: int = 96, vision_layers: int = 4, text_layers: int = 2, patch: int = 8, **more: Any
) -> Any:
    """A BLIP captioner for 64x64 pixels."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    size = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 4, **more}
    text = {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": text_layers,
        "encoder_hidden_size": width,
        "bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"),
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "max_position_embeddings": 64,
    }
    vision = {"num_hidden_layers": vision_layers, "image_size": 64, "patch_size": patch}
    return BlipForConditionalGeneration(BlipConfig(text_config=size | text, vision_config=size | vision))


def blip_base(tokenizer: Any) -> Any:
    """A captioner of BLIP base's size."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    end = tokenizer.sep_token_id
    text = {"bos_token_id": tokenizer.convert_tokens_to_ids("[DEC]"), "eos_token_id": end, "sep_token_id": end}
    return BlipForConditionalGeneration(
        BlipConfig(text_config=text, vision_config={"image_size": 384, "patch_size": 16})
    )


def save_blip(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a captioner with its tokenizer and image processor."""
    from transformers import BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    model.save_pretrained(folder)
    pixels = model.config.vision_config.image_size
    BlipProcessor(BlipImageProcessorPil(size={"height": pixels, "width": pixels}), tokenizer).save_pretrained(folder)


def make_blip(folder: Path, seed: int = 0, *, full_size: bool = False) -> None:
    """Write a captioner with random weights: for 64x64 images, or of BLIP base's size."""
    tokenizer = blip_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # a wide initialisation makes random words differ from image to image
        model = (
            blip_base(tokenizer)
            if full_size
            else blip(tokenizer, width=32, vision_layers=2, patch=16, initializer_range=0.5)
        )
    save_blip(model.eval(), tokenizer, folder)
