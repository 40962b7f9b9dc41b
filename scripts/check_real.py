"""Load SD 1.5, BLIP and CLIP from the hub, train a few steps, and read both adapter files back with diffusers.

Usage: check_real.py FOLDER [--steps 5] [--resolution 256] [--base hf://owner/name] [--captioner ...] [--clip ...]

It ends with 0 where all of it works. HF_ENDPOINT names another hub, HF_HOME where models are kept.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import snapshot_download
from torch import Tensor

from drawings import write_drawings
from job import layout
from job.run.adapters import AdapterIndex
from lora_engine.models.accepted import PIPELINE, plain_patterns

ROOT = Path(__file__).resolve().parent.parent
BASE = "hf://stable-diffusion-v1-5/stable-diffusion-v1-5"
CAPTIONER = "hf://Salesforce/blip-image-captioning-large"
CLIP = "hf://openai/clip-vit-base-patch32"


def main() -> None:
    """Train, read back, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--captioner", default=CAPTIONER)
    parser.add_argument("--clip", default=CLIP)
    options = parser.parse_args()
    run = train(options)
    captions = (run / "data" / "captions" / "blip.jsonl").read_text().splitlines()
    print(f"The captioner says, for example: {json.loads(captions[0])['texts'][0]!r}")
    pipeline = load_base(options.base)
    index = AdapterIndex.model_validate_json((run / layout.ADAPTER_INDEX).read_bytes())
    for name in (adapter.name for adapter in index.adapters):
        change, difference = read_back(pipeline, run, name)
        print(f"{name}: changes the UNet's output by {change:.2e}; its two files differ by {difference:.2e}")
        if not change > 0 or difference > 1e-3 * change + 1e-6:
            sys.exit(f"{name}: its files do not hold what was trained.")
    print("All of it works.")


def train(options: argparse.Namespace) -> Path:
    """Train two variants with a command of its own; give the run's folder."""
    folder: Path = options.folder
    write_drawings(folder / "images", 12, size=512, style="line", purpose="lora")
    values = {
        "name": "check-real",
        "base_model.source": options.base,
        "captioner.source": options.captioner,
        "dataset.source": folder / "images",
        "dataset.validation_min": 3,
        "preprocess.resolution": options.resolution,
        "training.steps": options.steps,
        "training.batch_size": 1,
        "training.schedule.warmup_steps": 1,
        "evaluation.every": options.steps,
        "evaluation.timesteps": 1,
        "evaluation.final_timesteps": 1,
        "evaluation.samples": f"{{prompts: [a heart], steps: 2, clip: {{source: '{options.clip}'}}}}",
        "output.destination": folder / "runs",
    }
    sets = [part for key, value in values.items() for part in ("--set", f"{key}={value}")]
    command = [Path(sys.executable).parent / "lora-job", "run", ROOT / "manifests" / "quickstart.yaml", *sets]
    subprocess.run([*command, "--workdir", folder / "scratch"], check=True)
    return folder / "runs" / "check-real"


def load_base(source: str) -> Any:
    """The base model's pipeline, from the files that the run fetched."""
    patterns = list(plain_patterns(PIPELINE))
    folder = snapshot_download(source.removeprefix("hf://"), allow_patterns=patterns, local_files_only=True)
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **none)


def read_back(pipeline: Any, run: Path, name: str) -> tuple[float, float]:
    """How far an adapter changes the UNet's output at most, and how far its two files differ in that."""
    bare = output_of(pipeline)
    found = []
    for folder in (run / "adapters", run / "adapters" / "diffusers"):
        pipeline.load_lora_weights(folder, weight_name=f"{name}.safetensors")
        found.append(output_of(pipeline))
        pipeline.unload_lora_weights()
    return float((found[0] - bare).abs().max()), float((found[0] - found[1]).abs().max())


@torch.inference_mode()
def output_of(pipeline: Any) -> Tensor:
    """The UNet's output for a noise and a text that are always the same."""
    unet = pipeline.unet
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, unet.config.in_channels, 16, 16, generator=generator)
    text = torch.randn(1, 77, unet.config.cross_attention_dim, generator=generator)
    result: Tensor = unet(noise, 500, text, return_dict=False)[0]
    return result


if __name__ == "__main__":
    main()
