"""The model card: what the miniature models are, how they were trained, and their figures."""

from collections.abc import Mapping
from pathlib import Path
from string import Template

from drawings import COLOURS, SEEDS
from miniature import stages
from subjects import SUBJECTS

# Two trainings of the same seed on machines that round differently may differ by so much.
TOLERANCE_SHARE = 0.05
TOLERANCE_PSNR_DB = 1.0
TOLERANCE_LOSS = 0.02


def write_card(folder: Path, figures: Mapping[str, float], seed: int) -> None:
    """Write README.md beside the models."""
    (folder / "README.md").write_text(_card(folder, figures, seed))


def _card(folder: Path, figures: Mapping[str, float], seed: int) -> str:
    recipes = {
        "stable-diffusion/vae": ("autoencoder", stages.AUTOENCODER),
        "clip, stable-diffusion/text_encoder": ("CLIP, contrastive", stages.CLIP),
        "clip, vision tower": ("on distorted drawings, texts locked", stages.CLIP_VISION),
        "stable-diffusion/unet": ("UNet, stickers alone", stages.DENOISER),
        "blip": ("BLIP captioner", stages.CAPTIONER),
    }
    rows = "\n".join(
        f"| `{where}` | {what} | {r.steps} | {r.batch_size} | {r.learning_rate:g} | {r.ema_decay or 'none'} |"
        for where, (what, r) in recipes.items()
    )
    measured = "\n".join(f"| {name} | {_shown(name, value)} | {_tolerance(name)} |" for name, value in figures.items())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    values: dict[str, object] = {
        "subject_count": len(SUBJECTS),
        "megabytes": f"{size:.1f}",
        "stickers": stages.STICKERS,
        "lines": stages.LINES,
        "subjects": ", ".join(SUBJECTS),
        "colours": ", ".join(COLOURS),
        "white_every": stages.WHITE_EVERY,
        "noise_offset": stages.NOISE_OFFSET,
        "min_snr": stages.MIN_SNR,
        "seed": seed,
        "recipes": rows,
        "figures": measured,
    }
    values |= {f"{name}_first": seeds.start for name, seeds in SEEDS.items()}
    values |= {f"{name}_last": seeds.stop - 1 for name, seeds in SEEDS.items()}
    return Template(Path(__file__).with_name("card.md").read_text()).substitute(values)


def _shown(name: str, value: float) -> str:
    if "PSNR" in name:
        return f"{value:.1f} dB"
    return f"{value:.4f}" if "loss" in name else f"{100 * value:.1f} %"


def _tolerance(name: str) -> str:
    if "PSNR" in name:
        return f"{TOLERANCE_PSNR_DB:g} dB"
    return f"{TOLERANCE_LOSS:g}" if "loss" in name else f"{100 * TOLERANCE_SHARE:g} points"
