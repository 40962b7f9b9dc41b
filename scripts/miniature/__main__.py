"""Train the miniature models; killed at any point, it goes on.

Usage: python -m miniature OUT [--work DIR] [--seed 0]
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import CLIPTextModel

from drawings import write_drawings
from miniature import architecture, stages
from miniature.card import write_card
from miniature.figures import measure_all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--work", type=Path, default=Path(".work/train-miniature"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    work, out, seed = options.work / f"seed-{options.seed}", options.out, options.seed
    work.mkdir(parents=True, exist_ok=True)

    vae = stages.autoencoder(work, seed)
    clip, tokenizer = stages.clip(work, seed)
    text_encoder = CLIPTextModel(clip.config.text_config)
    text_encoder.load_state_dict(clip.text_model.state_dict(), strict=False)
    unet = stages.denoiser(work, seed, vae, text_encoder.eval(), tokenizer)
    blip, blip_tokenizer = stages.captioner(work, seed)

    figures = measure_all(
        vae=vae,
        clip=clip.eval(),
        tokenizer=tokenizer,
        unet=unet,
        text_encoder=text_encoder,
        blip=blip,
        blip_tokenizer=blip_tokenizer,
    )
    half = torch.float16
    architecture.save_stable_diffusion(
        out / "stable-diffusion",
        vae=vae.to(half),
        text_encoder=text_encoder.to(half),
        tokenizer=tokenizer,
        unet=unet.to(half),
    )
    architecture.save_clip(clip.to(half), tokenizer, out / "clip")
    architecture.save_blip(blip.to(half), blip_tokenizer, out / "blip")
    write_drawings(out / "drawings", count=120, size=128, style="line", purpose="lora")
    write_card(out, figures, seed)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
